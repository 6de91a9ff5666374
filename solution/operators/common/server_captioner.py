"""Captions for images from a model on an OpenAI-compatible server; a caption does not depend on the batch."""

import base64
import io
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from PIL import Image

from .answers import caption_in
from .chat_server import ChatServer
from .images import IMAGE_FORMATS, check_image, open_image, stat_image
from .rows import MODEL_ROWS, row_seed
from .score_store import ScoreStore, score_folder, values_per_row

PROMPT = "Write a caption of one short sentence for this image. Answer with the caption alone."
_PLAIN = {"JPEG": "image/jpeg", "PNG": "image/png"}
_WAVES = 25  # times that each connection is used in a batch: at its end some wait for the last
_QUALITY = 95  # of JPEG, where an image has to be written again


def server_of(
    endpoint: str | None,
    model: str | None,
    api_key_env: str | None,
    concurrency: int,
    timeout: float,
    retries: int,
    local: bool,
) -> ChatServer | None:
    """The server that an operator's parameters name, None for none; ``local`` says whether they name a folder too.

    Raises ValueError for parameters that do not go together, and as ChatServer does.
    """
    if not endpoint:
        if model or api_key_env:
            raise ValueError(f"{'model' if model else 'api_key_env'} is for a server: give its endpoint too")
        return None
    if not model:
        raise ValueError("endpoint needs model, the name under which the server knows its model")
    if local:
        raise ValueError("endpoint and hf_captioner exclude each other: give one of them")
    return ChatServer(endpoint, model, api_key_env, concurrency, timeout, retries)


def for_data_juicer(server: ChatServer | None, given: dict[str, Any]) -> dict[str, Any]:
    """An operator's common parameters: those given, with batches that suit where captions come from.

    With a server Data-Juicer must not take what is raised for the fault of a batch's rows: they would be dropped.
    """
    if server is None:
        return {"batch_size": MODEL_ROWS} | given
    return {"batch_size": max(MODEL_ROWS, _WAVES * server.concurrency)} | given | {"skip_op_error": False}


class ServerCaptioner:
    """One model of a server with its settings. What it answered is kept on disk: no answer is asked for twice.

    The store names the model and not the server's address: a rented one changes it every day. What is kept is the
    answer as it came; whether it is a caption is decided when it is read.
    """

    def __init__(
        self, server: ChatServer, prompt: str, max_new_tokens: int, temperature: float, seed: int, max_side: int
    ) -> None:
        """``max_side`` is the longest side, px, at which an image is sent."""
        self.server = server
        self.prompt = prompt or PROMPT
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.seed = seed
        self.max_side = max_side

    @cached_property
    def store(self) -> ScoreStore[str]:
        """Answers that this model gave before, with these settings."""
        settings = (self.prompt, self.max_new_tokens, self.temperature, self.seed, self.max_side)
        return ScoreStore(score_folder(), f"answer 1 {self.server.model} {settings}", str)

    def require_server(self) -> None:
        """Raise SetupFault where the server cannot be worked with; not where it has answered before.

        All it is needed for may be in the store.
        """
        if self.store.is_empty():
            self.server.require()

    def caption(
        self, paths: Sequence[str], row_keys: Sequence[str], rank: int | None = None
    ) -> tuple[list[str], list[str]]:
        """One caption and one failure per image: one of the two is empty.

        ``row_keys`` name the rows: each has an answer and a seed of its own. Raises SetupFault.
        """

        def compute(rows: list[int], failures: list[str]) -> Iterator[dict[int, str]]:
            equal: dict[tuple[str, str], list[int]] = {}  # copies of a row: one request for all
            for row in rows:
                equal.setdefault((paths[row], row_keys[row]), []).append(row)
            for arrived in self.server.ask([(own[0], partial(self._request, *key)) for key, own in equal.items()]):
                for row, failure in arrived.failures.items():
                    for copy in equal[paths[row], row_keys[row]]:
                        failures[copy] = failure
                yield {
                    copy: answer for row, answer in arrived.answers.items() for copy in equal[paths[row], row_keys[row]]
                }

        answers, failures = values_per_row(self.store, [[path] for path in paths], [[key] for key in row_keys], compute)
        captions = [""] * len(paths)
        for row, answer in enumerate(answers):
            if answer is not None:
                captions[row], failures[row] = caption_in(answer, self.max_new_tokens)
        return captions, failures

    def _request(self, path: str, row_key: str) -> dict[str, Any]:
        """What is sent for one row. Raises ImageError."""
        image = {"type": "image_url", "image_url": {"url": data_uri(path, self.max_side)}}
        return {
            "model": self.server.model,
            "messages": [{"role": "user", "content": [image, {"type": "text", "text": self.prompt}]}],
            "max_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            "seed": row_seed(self.seed, row_key) % 2**31,  # some servers take 32 bits
        }


def data_uri(path: str, max_side: int) -> str:
    """An image as a data URI, its longest side at most ``max_side`` px. Raises ImageError where it cannot be read.

    A JPEG or PNG that is small enough is sent as it is, unless EXIF data would turn it, or tell where it was taken.
    """
    stat_image(path)
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            kind = _PLAIN.get(image.format or "")
            is_plain = image.mode in ("RGB", "L") and max(image.size) <= max_side and "exif" not in image.info
    except Exception:  # of many types; `open_image` says which
        kind, is_plain = "", False
    if kind and is_plain:
        check_image(path)
        content = Path(path).read_bytes()
    else:
        image = open_image(path)
        image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
        kind, file = "image/jpeg", io.BytesIO()
        image.save(file, "JPEG", quality=_QUALITY)
        content = file.getvalue()
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
