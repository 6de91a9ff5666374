"""Requests to an OpenAI-compatible chat server (vLLM, SGLang, LM Studio, Ollama ...), many at a time.

A row whose request fails in a way that may pass is asked again, later and later; one that the server will not take
fails; a server that is not there, or does not let us in, ends the run. The key is read where a request is sent and is
in no attribute, message or file. Does not know what is asked: `server_captioner.py` does.
"""

import asyncio
import email.utils
import ipaddress
import json
import logging
import os
import random
import re
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx

from .addresses import hidden_in, shown_address
from .answers import UnreadableError, read_answer, refused_request
from .faults import SetupFault, machine_fault
from .images import ImageError

_FIRST_WAIT = 1.0  # s before the second try; doubled for each further one
_LONGEST_WAIT = 60.0  # s, also where a server asks for more
_CONNECT = 10.0  # s for a connection
_IDLE = 60.0  # s that a connection is kept for the next request
_MOST_BYTES = 1 << 20  # of an answer
_LONG_KEY = 12  # characters; servers that need none are given words as keys, which captions hold too
_SECONDS = 0.25  # between two times that answers are handed on
_UNANSWERED = 20  # rows in succession without an answer: it is not the rows
_PASSING = (408, 409, 425, 429)  # and all from 500
_JITTER = random.Random()  # of its own: operators' random numbers are seeded

T = TypeVar("T")


class _PassingError(Exception):
    """A try that failed in a way that may pass; ``wait`` is what the server asks for, s."""

    def __init__(self, failure: str, is_unreached: bool = False, wait: float | None = None) -> None:
        super().__init__(failure)
        self.is_unreached = is_unreached
        self.wait = wait


class _RefusedError(Exception):
    """The server does not take this request, now or later."""


@dataclass
class Arrived:
    """Answers and failures by the number of their request, in the order in which they came."""

    answers: dict[int, str]
    failures: dict[int, str]


class ChatServer:
    """One model of one server. ``endpoint`` is the address below which `/chat/completions` is, mostly `.../v1`."""

    def __init__(
        self, endpoint: str, model: str, api_key_env: str | None, concurrency: int, timeout: float, retries: int
    ) -> None:
        """Raises ValueError for an address that is none, for secrets in it, and for a key that is not set."""
        self._base = _address(endpoint)
        self.endpoint = shown_address(self._base)  # for messages
        self.model = model
        self.api_key_env = api_key_env
        self.concurrency = concurrency
        self.timeout = timeout
        self.retries = retries
        self._without_answer = 0  # rows in succession
        self._was_reached = False
        self._is_chat = False  # whether it has shown that it is a chat server
        if api_key_env is not None:
            _key(api_key_env)

    def require(self) -> None:
        """Raise SetupFault where the server is not there, wants another key, or lacks the model."""
        with ThreadPoolExecutor(1) as thread:
            fault = thread.submit(asyncio.run, self._fault_at_start()).result()
        if fault:
            raise SetupFault(fault)

    def ask(self, requests: Sequence[tuple[int, Callable[[], dict[str, Any]]]]) -> Iterator[Arrived]:
        """Send all requests, ``concurrency`` at a time, and hand on what arrived, several times a second.

        A request is made, as the JSON to send, when its turn comes; where that raises ImageError it fails. Raises
        SetupFault where the server cannot be worked with; what arrived before is handed on first.
        """
        # In one thread with a loop of its own: the caller's may run one, as in a notebook. It stands still in between,
        # so that all of it takes one core at most.
        loop = asyncio.new_event_loop()
        with ThreadPoolExecutor(1) as thread:

            def run(work: Coroutine[Any, Any, T]) -> T:
                return thread.submit(lambda: loop.run_until_complete(work)).result()

            crowd = _Crowd(self, requests)
            try:
                run(crowd.begin())
                is_at_work = True
                while is_at_work:
                    is_at_work = run(crowd.work(_SECONDS))
                    arrived = crowd.take()
                    if arrived.answers or arrived.failures:
                        yield arrived
            finally:
                run(crowd.end())
                loop.close()
        if crowd.fault:
            raise crowd.fault.with_traceback(None)

    async def answer(self, client: httpx.AsyncClient, request: dict[str, Any]) -> tuple[str, str]:
        """(answer, failure) to one request, tried again as often as allowed. Raises SetupFault."""
        late = _PassingError(f"captioner gave no answer: timed out after {self.timeout:g} s", is_unreached=True)
        last = late
        for number in range(self.retries + 1):
            try:
                found = await asyncio.wait_for(self._try(client, request), self.timeout)
                self._without_answer = 0
                return found, ""
            except asyncio.TimeoutError:
                last = late
            except _PassingError as error:
                last = error
            except _RefusedError as error:
                self._count(str(error))
                return "", str(error)
            if last.is_unreached and not self._was_reached:  # it may not be there at all
                await self._require_reachable(client)
            if number < self.retries:
                await asyncio.sleep(_pause(number, last.wait))
        if last.is_unreached:
            await self._require_reachable(client)
        self._count(str(last))
        return "", str(last)

    async def _require_reachable(self, client: httpx.AsyncClient) -> None:
        if gone := await self._unreachable(client):
            raise SetupFault(f"{gone}; start the server again: answers are kept, and the same command goes on")

    def _count(self, failure: str) -> None:
        self._without_answer += 1
        if self._without_answer >= _UNANSWERED:
            raise SetupFault(f"{self.endpoint} gave no caption to the last {_UNANSWERED} rows ({failure})")

    async def _try(self, client: httpx.AsyncClient, request: dict[str, Any]) -> str:
        """Send a request once. Raises _PassingError, _RefusedError and SetupFault."""
        status, headers, body = await _exchange(client, "POST", f"{self._base}/chat/completions", request)
        self._was_reached = True
        if status == 200:
            try:
                answer = self._without_key(read_answer(headers.get("content-type", ""), body), _LONG_KEY)
            except UnreadableError as error:
                why = self._without_key(str(error))
                await self._require_chat(client, why)
                raise _PassingError(f"captioner's answer cannot be read: {why}") from None
            self._is_chat = True
            return answer
        if status == 404:
            raise SetupFault(await self._missing(client))
        if fault := self._fault_of(status):
            raise SetupFault(fault)
        if status in _PASSING or status >= 500:
            wait = _wanted_wait(headers.get("retry-after"))
            raise _PassingError(f"captioner gave no answer: HTTP {status}", wait=wait)
        raise _RefusedError(self._without_key(refused_request(status, body)))

    async def _require_chat(self, client: httpx.AsyncClient, why: str) -> None:
        """Raise SetupFault for a server whose answers have not been a chat server's and that lists no models."""
        if not self._is_chat and await self._models(client) is None:
            raise SetupFault(
                f"{self.endpoint} answers, but not as a chat server does ({why}): correct the endpoint, which mostly "
                "ends in /v1"
            )
        self._is_chat = True

    def _without_key(self, text: str, shortest: int = 1) -> str:
        """A server's words without the key, should it repeat it; one that is shorter than ``shortest`` may stay."""
        key = _key(self.api_key_env).split()[-1] if self.api_key_env else ""
        for secret in (key, *hidden_in(self._base)):
            text = text.replace(secret, "(key)") if secret and len(secret) >= shortest else text
        return text

    def _fault_of(self, status: int) -> str:
        """What a status says about the server rather than about the request; empty for others."""
        if status in (401, 403):
            if self.api_key_env:
                return f"{self.endpoint} refuses the key in {self.api_key_env} (HTTP {status})"
            return (
                f"{self.endpoint} asks for a key (HTTP {status}): put it into an environment variable, and the "
                "variable's name into api_key_env"
            )
        if status == 402:
            return f"{self.endpoint} asks for payment (HTTP 402)"
        if status < 400 or status in (405, 407, 410):
            return f"{self.endpoint} is no chat server's address (HTTP {status}); it mostly ends in /v1"
        return ""

    async def _missing(self, client: httpx.AsyncClient) -> str:
        """What is missing where a chat answers 404: the model, or the server itself."""
        models = await self._models(client)
        if models is None or self.model in models:
            return f"{self.endpoint} has no /chat/completions (HTTP 404); a server's address mostly ends in /v1"
        listed = ", ".join(models[:20]) + ", ..." * (len(models) > 20)
        return f"{self.endpoint} has no model {self.model}; its models: {self._without_key(listed) or 'none'}"

    async def _models(self, client: httpx.AsyncClient) -> list[str] | None:
        """The models that the server lists; None where it has no list. Raises SetupFault for a wrong key."""
        status, _, body = await _exchange(client, "GET", f"{self._base}/models")
        if status in (401, 403):
            raise SetupFault(self._fault_of(status))
        if status != 200:
            return None
        with suppress(ValueError, TypeError, KeyError, RecursionError):
            return [str(model["id"]) for model in json.loads(body)["data"]]
        return None

    async def _unreachable(self, client: httpx.AsyncClient) -> str:
        """Why the server cannot be reached at all; empty where it answers anything."""
        try:
            await asyncio.wait_for(_exchange(client, "GET", f"{self._base}/models"), _CONNECT)
        except asyncio.TimeoutError:
            return f"{self.endpoint} does not answer within {_CONNECT:g} s"
        except _PassingError as error:
            return f"{self.endpoint} cannot be reached ({str(error).partition(': ')[2]})"
        return ""

    async def _fault_at_start(self) -> str:
        async with self.client() as client:
            if fault := await self._unreachable(client):
                return f"{fault}; start the server, or correct the endpoint"
            with suppress(_PassingError, asyncio.TimeoutError):
                if self.model in ((await asyncio.wait_for(self._models(client), _CONNECT)) or ()):
                    return ""
                # Servers know models that they do not list: only a request tells.
                request = {"model": self.model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
                with suppress(_RefusedError):
                    await asyncio.wait_for(self._try(client, request), _CONNECT)
        return ""

    @asynccontextmanager
    async def client(self) -> AsyncIterator[httpx.AsyncClient]:
        """A client for one request at a time: httpx's pool of connections is slow with hundreds of them."""
        for name in ("httpx", "httpcore"):  # a line for every request
            logging.getLogger(name).setLevel(logging.WARNING)
        headers = {}
        if self.api_key_env:
            key = _key(self.api_key_env)
            headers["authorization"] = key if " " in key else f"Bearer {key}"
        try:
            client = httpx.AsyncClient(
                headers=headers,
                timeout=httpx.Timeout(None, connect=_CONNECT),
                limits=httpx.Limits(keepalive_expiry=_IDLE),
                verify=_certificates(),
                trust_env=not _is_here(self._base),  # no proxy for this machine
            )
        except (ValueError, httpx.InvalidURL):  # a proxy's address, which may hold a password
            raise SetupFault("HTTP_PROXY, HTTPS_PROXY or ALL_PROXY is no address of a proxy") from None
        async with client:
            yield client


class _Crowd:
    """The requests under way: as many workers as there may be requests at a time."""

    def __init__(self, server: ChatServer, requests: Sequence[tuple[int, Callable[[], dict[str, Any]]]]) -> None:
        self._server = server
        self._waiting = iter(requests)
        self._count = min(server.concurrency, len(requests))
        self._arrived = Arrived({}, {})
        self._workers: list[asyncio.Task] = []
        self.fault: SetupFault | None = None

    async def begin(self) -> None:
        self._making = asyncio.Lock()
        self._workers = [asyncio.create_task(self._worker()) for _ in range(self._count)]

    async def work(self, seconds: float) -> bool:
        """Go on for a while; False when all is done or nothing more can be."""
        if not self._workers:
            return False
        done, waiting = await asyncio.wait(self._workers, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
        for worker in done:
            if error := worker.exception():
                if not isinstance(error, SetupFault):
                    raise error
                self.fault = error
        return bool(waiting) and not self.fault

    def take(self) -> Arrived:
        """What has arrived since the last call."""
        arrived, self._arrived = self._arrived, Arrived({}, {})
        return arrived

    async def end(self) -> None:
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        loop = asyncio.get_running_loop()
        await loop.shutdown_asyncgens()
        await loop.shutdown_default_executor()

    async def _worker(self) -> None:
        async with self._server.client() as client:
            for number, make in self._waiting:
                try:
                    async with self._making:  # one image in a turn of the loop: connections must not wait for all
                        request = make()
                        await asyncio.sleep(0)
                except ImageError as error:
                    self._arrived.failures[number] = str(error)
                    continue
                answer, failure = await self._server.answer(client, request)
                if failure:
                    self._arrived.failures[number] = failure
                else:
                    self._arrived.answers[number] = answer


async def _exchange(
    client: httpx.AsyncClient, method: str, address: str, request: dict[str, Any] | None = None
) -> tuple[int, httpx.Headers, bytes]:
    """Status, headers and body. Raises _PassingError where they do not come whole."""
    try:
        async with client.stream(method, address, json=request) as response:
            body = bytearray()
            async for part in response.aiter_bytes():
                body += part
                if len(body) > _MOST_BYTES:
                    raise _PassingError(f"captioner's answer cannot be read: more than {_MOST_BYTES:,} bytes")
            return response.status_code, response.headers, bytes(body)
    except (httpx.HTTPError, OSError) as error:
        if fault := machine_fault(error):
            raise SetupFault(fault) from None
        if isinstance(error, httpx.DecodingError):
            raise _PassingError("captioner's answer cannot be read: damaged compression") from None
        raise _PassingError(f"captioner gave no answer: {_reason(error)}", is_unreached=True) from None


def _reason(error: BaseException) -> str:
    """Why a server was not reached, in words that do not change from one try to the next."""
    text = str(error)
    if isinstance(error, httpx.ConnectTimeout):
        return "no connection in time"
    if isinstance(error, httpx.ProxyError):
        return "the proxy refuses"
    if isinstance(error, httpx.ConnectError):
        if "CERTIFICATE_VERIFY_FAILED" in text:
            return "its certificate is not trusted; SSL_CERT_FILE names others"
        if "WRONG_VERSION_NUMBER" in text or "SSL" in text:
            return "it does not speak TLS; is it http:// instead of https://?"
        is_unknown = "Name or service" in text or "Temporary failure in name" in text or "nodename" in text
        return "its name is not known" if is_unknown else "connection refused"
    return "connection lost"


def _pause(number: int, wanted: float | None) -> float:
    """Seconds before the next try: the server's wish, else twice as many each time; a little more, by chance."""
    wait = min(_FIRST_WAIT * 2 ** min(number, 9) if wanted is None else wanted, _LONGEST_WAIT)
    return wait * (1 + _JITTER.random() / 4)


def _wanted_wait(retry_after: str | None) -> float | None:
    """Seconds that a Retry-After header asks for, as a number or a date; None where it says nothing of use."""
    if not retry_after:
        return None
    if re.fullmatch(r"\d{1,9}(\.\d*)?", retry_after.strip()):
        return float(retry_after)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError, OSError):
        return None


def _address(endpoint: str) -> str:
    """An endpoint without what may be left out. Raises ValueError, which shows no secret."""
    text = endpoint.strip().rstrip("/").removesuffix("/chat/completions").rstrip("/")
    if "@" in text or "?" in text or "#" in text:
        raise ValueError(
            "endpoint: expected no user name, password or query in the address; a key goes into an environment "
            "variable, whose name goes into api_key_env"
        )
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(httpx.URL(text).host) and parts.port != 0
    except (ValueError, httpx.InvalidURL):
        usable = False
    if not usable or not text.isprintable() or " " in text:
        raise ValueError(
            "endpoint: expected an address such as http://127.0.0.1:8000/v1, with http or https, a host, and a port "
            "below 65536"
        )
    return text if parts.path else f"{text}/v1"


def _key(variable: str) -> str:
    """The key in an environment variable. Raises ValueError where there is none; never shows it."""
    if not re.fullmatch("[A-Z_][A-Z0-9_]{0,99}", variable):
        raise ValueError(
            "api_key_env: expected the name of an environment variable in capitals, such as OPENAI_API_KEY, and not "
            "the key itself"
        )
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ValueError(f"api_key_env: the environment variable {variable} is not set here: export {variable}=...")
    if not (key.isascii() and key.isprintable()):
        raise ValueError(f"api_key_env: the environment variable {variable} holds characters that no key has")
    return key


def _is_here(endpoint: str) -> bool:
    """Whether an address is this machine's own."""
    host = urlsplit(endpoint).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


@lru_cache(maxsize=1)
def _certificates() -> ssl.SSLContext:
    return httpx.create_ssl_context()
