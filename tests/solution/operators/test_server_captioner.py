"""Captions from a chat server that misbehaves in every way that servers do."""

import base64
import json
import logging
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import dill
import pytest
from data_juicer.core.data import NestedDataset
from PIL import Image

from solution.operators.common import chat_server
from solution.operators.common.answers import caption_in
from solution.operators.common.chat_server import ChatServer
from solution.operators.common.faults import SetupFault
from solution.operators.common.server_captioner import data_uri
from solution.runner.data_juicer import OPERATORS
from tests.solution.chat_stub import MODEL, ChatStub, caption_for, pixels_of
from tests.solution.conftest import TEXT, sample_image

KEY = "sk-a-very/secret-key"


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    monkeypatch.setattr(chat_server, "_FIRST_WAIT", 0.01)


@pytest.fixture
def stub():
    with ChatStub() as server:
        yield server


@pytest.fixture
def data(tmp_path):
    """make(n): n rows, each with an image of its own."""

    def make(count: int):
        paths = []
        for number in range(count):
            path = tmp_path / f"{number:03d}.png"
            sample_image(number).save(path)
            paths.append(str(path))
        return NestedDataset.from_dict(
            {
                "id": [f"{number:03d}" for number in range(count)],
                "text": [TEXT.format(f"old caption {number}") for number in range(count)],
                "images": [[path] for path in paths],
                "__row__": list(range(count)),
            }
        )

    return make


def writer(stub, **settings):
    settings = {"endpoint": stub.endpoint, "model": MODEL, "timeout": 30.0, "retries": 2} | settings
    return OPERATORS.modules["caption_writer_mapper"](auto_op_parallelism=False, **settings)


def write(stub, rows, **settings):
    """The rows after the operator."""
    return writer(stub, **settings).run(rows)


def only(kind: str, number: int):
    """A server that misbehaves for one image alone."""
    bad = pixels_of(sample_image(number))
    return lambda seen: kind if seen.image == bad else "ok"


def test_every_row_gets_the_caption_of_its_image_and_seed(stub, data):
    found = write(stub, data(5), prompts=["What is it?"], max_new_tokens=40, temperature=0.5, seed=3)
    captions = {seen.image: caption_for(seen) for seen in stub.seen}
    assert found["text"] == [TEXT.format(captions[pixels_of(sample_image(number))]) for number in range(5)]
    assert found["__failure__"] == [""] * 5
    body = stub.seen[0].body
    assert (body["model"], body["max_tokens"], body["temperature"]) == (MODEL, 40, 0.5)
    assert body["messages"][0]["content"][1] == {"type": "text", "text": "What is it?"}
    assert len({seen.body["seed"] for seen in stub.seen}) == 5
    assert all(0 <= seen.body["seed"] < 2**31 for seen in stub.seen)
    assert "authorization" not in {name.lower() for name in stub.seen[0].headers}


@pytest.mark.parametrize(
    ("kind", "failure"),
    [
        ("refusal", "captioner refused: I'm sorry, I can't help with that."),
        ("empty", "captioner's answer is empty"),
        ("overlong", "captioner's answer is cut off: longer than max_new_tokens 30"),
        ("token", "captioner's answer has a special token: <image>"),
        ("too long", "image and prompt exceed the captioner's context: HTTP 400, This model's maximum context"),
        ("413", "captioner takes no such request: HTTP 413"),
    ],
)
def test_an_answer_that_is_no_caption_fails_its_row_alone(stub, data, kind, failure):
    stub.behave = only(kind, 1)
    rows = data(3)
    found = write(stub, rows)
    assert found["__failure__"][1].startswith(failure)
    assert [found["__failure__"][0], found["__failure__"][2]] == ["", ""]
    assert len(stub.seen) == 3
    again = write(stub, rows)
    assert again["__failure__"] == found["__failure__"]


@pytest.mark.parametrize(
    ("kind", "failure"),
    [
        ("429", "captioner gave no answer: HTTP 429"),
        ("503", "captioner gave no answer: HTTP 503"),
        ("drop", "captioner gave no answer: connection lost"),
        ("short", "captioner gave no answer: connection lost"),
        ("hang", "captioner gave no answer: timed out after 1 s"),
        ("html", "captioner's answer cannot be read: text/html instead of application/json"),
        ("wrong type", "captioner's answer cannot be read: text/plain instead of application/json"),
        ("cut", "captioner's answer cannot be read: JSON that is cut short or damaged"),
        ("huge", "captioner's answer cannot be read: more than 1,048,576 bytes"),
    ],
)
def test_what_may_pass_is_tried_again_and_then_fails_the_row(stub, data, kind, failure):
    rows = data(3)
    bad = only(kind, 1)
    stub.behave = lambda seen: bad(seen) if seen.earlier < 2 else "ok"
    short = {"timeout": 1.0} if kind == "hang" else {}
    assert write(stub, rows, seed=1, **short)["__failure__"] == [""] * 3
    assert sorted(seen.earlier for seen in stub.seen) == [0, 0, 0, 1, 2]
    stub.behave = bad
    assert write(stub, rows, **short)["__failure__"] == ["", failure, ""]


def test_nothing_is_asked_twice(stub, data):
    rows = data(4)
    stub.behave = only("refusal", 2)
    first = write(stub, rows, captions=2, temperature=1.0)
    assert len(stub.seen) == 8
    # Another order, other batches, another address of the same model.
    with ChatStub() as other:
        again = write(other, rows.select([3, 2, 1, 0]), captions=2, temperature=1.0, batch_size=2)
        assert other.seen == []
    texts = dict(zip(first["__row__"], first["text"], strict=True))
    assert dict(zip(again["__row__"], again["text"], strict=True)) == texts
    write(stub, rows.select([0]), captions=2, temperature=0.5)
    assert len(stub.seen) == 10


def test_copies_of_a_row_share_one_request(stub, data):
    found = write(stub, data(2).select([0, 1, 0]))
    assert len(stub.seen) == 2
    assert found["text"][0] == found["text"][2]


def test_answers_are_kept_as_they_arrive(stub, data):
    """Not at the end of a batch: a hundredth row that ends the run leaves the others in the store."""
    rows = data(12)
    stub.behave = only("401", 11)
    with pytest.raises(SetupFault, match="asks for a key"):
        write(stub, rows, concurrency=1)
    stub.behave = lambda seen: "ok"
    stub.seen.clear()
    assert write(stub, rows)["__failure__"] == [""] * 12
    assert len(stub.seen) == 1


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("401", "refuses the key in CAPTION_KEY (HTTP 401)"),
        ("403", "refuses the key in CAPTION_KEY (HTTP 403)"),
        ("402", "asks for payment"),
        ("307", "is no chat server's address (HTTP 307); it mostly ends in /v1"),
        ("404", "has no /chat/completions (HTTP 404)"),
    ],
)
def test_the_environments_faults_end_the_run(stub, data, monkeypatch, kind, words):
    monkeypatch.setenv("CAPTION_KEY", KEY)
    stub.behave = lambda seen: kind
    with pytest.raises(SetupFault) as fault:
        write(stub, data(3), api_key_env="CAPTION_KEY")
    assert words in str(fault.value)
    assert KEY not in str(fault.value)


def test_a_server_that_is_down_is_told_at_once(stub):
    stub.__exit__()
    with pytest.raises(SetupFault, match=r"cannot be reached \(connection refused\); start the server"):
        writer(stub)


def test_a_wrong_model_is_told_at_once_with_those_that_there_are(stub):
    stub.models = [MODEL, "other/model"]
    with pytest.raises(SetupFault, match="has no model tiny-vk; its models: tiny-vl, other/model"):
        writer(stub, model="tiny-vk")
    stub.models = None
    with pytest.raises(SetupFault, match="a server's address mostly ends in /v1"):
        writer(stub)


def test_a_server_that_stops_ends_the_run_and_one_that_answered_before_is_not_asked_for(stub, data, monkeypatch):
    rows = data(3)
    write(stub, rows)
    stub.__exit__()
    assert write(stub, rows)["__failure__"] == [""] * 3
    more = rows.map(lambda row: row | {"id": f"new {row['id']}"})
    monkeypatch.setattr(chat_server, "_pause", lambda *_: pytest.fail("tried again where nothing was there"))
    with pytest.raises(SetupFault, match=r"connection refused.*answers are kept"):
        write(stub, more)


def test_twenty_rows_without_an_answer_are_not_the_rows_fault(stub, data):
    stub.behave = lambda seen: "500"
    with pytest.raises(SetupFault, match="no caption to the last 20 rows"):
        write(stub, data(30), retries=0)


def test_an_unreadable_image_fails_alone(stub, data):
    rows = data(3)
    with open(rows[1]["images"][0], "r+b") as file:
        file.truncate(200)
    found = write(stub, rows)
    assert [bool(text) for text in found["__failure__"]] == [False, True, False]
    assert len(stub.seen) == 2


def test_large_images_are_sent_scaled_and_odd_ones_as_jpeg(stub, tmp_path):
    for name, mode, size, kind, wanted in (
        ("large.png", "RGB", (300, 200), "jpeg", (120, 80)),
        ("small.png", "RGB", (30, 20), "png", (30, 20)),
        ("clear.png", "RGBA", (30, 20), "jpeg", (30, 20)),
        ("small.jpg", "L", (30, 20), "jpeg", (30, 20)),
        ("line.webp", "RGB", (400, 1), "jpeg", (120, 1)),
    ):
        path = tmp_path / name
        Image.new(mode, size).save(path)
        address = data_uri(str(path), 120)
        assert address.startswith(f"data:image/{kind};base64,")
        body = {"messages": [{"content": [{"type": "image_url", "image_url": {"url": address}}]}], "seed": 0}
        assert stub.note(body, {}).size == wanted


def test_where_an_image_was_taken_is_not_sent(tmp_path):
    place = Image.Exif()
    place[0x010E] = "at home"
    Image.new("RGB", (30, 20)).save(tmp_path / "a.jpg", exif=place)
    sent = base64.b64decode(data_uri(str(tmp_path / "a.jpg"), 120).partition(",")[2])
    assert b"at home" in (tmp_path / "a.jpg").read_bytes()
    assert b"at home" not in sent


def test_the_key_is_sent_and_nowhere_else(stub, data, monkeypatch, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("CAPTION_KEY", f" {KEY}\n")
    stub.behave = only("413", 1)  # whose message repeats the key, as JSON may write it
    operator = writer(stub, api_key_env="CAPTION_KEY")
    found = operator.run(data(3))
    assert {seen.headers["authorization"] for seen in stub.seen} == {f"Bearer {KEY}"}
    assert "(key)" in found["__failure__"][1]
    kept = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    for place in (caplog.text, str(found[:]), str(vars(operator)), str(kept), str(dill.dumps(operator))):
        assert KEY not in place


def test_a_word_given_as_key_stays_in_captions(stub, data, monkeypatch):
    monkeypatch.setenv("CAPTION_KEY", "dog")
    assert "a red dog number" in write(stub, data(1), api_key_env="CAPTION_KEY")["text"][0]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"endpoint": f"http://me:{KEY}@127.0.0.1/v1"}, "expected no user name, password or query"),
        ({"endpoint": f"http://127.0.0.1/v1?key={KEY}"}, "expected no user name, password or query"),
        ({"endpoint": f"me:{KEY}@127.0.0.1/v1"}, "expected no user name, password or query"),
        ({"endpoint": f"htp://127.0.0.1/{KEY}"}, "expected an address such as http://127.0.0.1:8000/v1"),
        ({"endpoint": "127.0.0.1:8000/v1"}, "expected an address such as http://127.0.0.1:8000/v1"),
        ({"endpoint": "http://\u2603.\u0000/v1"}, "expected an address such as"),
        ({"endpoint": "http://127.0.0.1:99999/v1"}, "expected an address such as"),
        ({"api_key_env": KEY}, "expected the name of an environment variable in capitals"),
        ({"api_key_env": "NO_SUCH_KEY"}, "the environment variable NO_SUCH_KEY is not set here"),
        ({"api_key_env": "BAD_KEY"}, "holds characters that no key has"),
        ({"model": None}, "endpoint needs model"),
        ({"endpoint": None}, "model is for a server: give its endpoint too"),
        ({"hf_captioner": "some/folder"}, "endpoint and hf_captioner exclude each other"),
    ],
)
def test_wrong_parameters_are_told_without_their_secrets(stub, monkeypatch, settings, words):
    monkeypatch.setenv("BAD_KEY", f"{KEY}\u20ac")
    with pytest.raises(ValueError, match=words) as fault:
        writer(stub, **settings)
    assert KEY not in str(fault.value)


def test_an_address_may_lack_its_end():
    def address(text: str) -> str:
        return ChatServer(text, MODEL, None, 1, 1.0, 0).endpoint

    assert address("http://host:8000") == address("http://host:8000/v1/chat/completions/") == "http://host:8000/v1"
    assert address("https://host/some/api/") == "https://host/some/api"


@pytest.mark.parametrize("kind", ["401", "404", "413", "307", "html", "503"])
def test_a_key_in_the_address_is_never_told(stub, data, kind):
    """Gateways give each customer a path; servers repeat it in their errors."""
    stub.behave = lambda seen: kind
    stub.models = None
    endpoint = stub.endpoint.replace("/v1", f"/api/{KEY}9/v1")
    told = []
    try:
        told += writer(stub, endpoint=endpoint, retries=0).run(data(2))["__failure__"]
    except SetupFault as fault:
        told.append(str(fault))
    stub.__exit__()
    with pytest.raises(
        SetupFault, match=r"127.0.0.1:\d+/api/\(not shown\)/\(not shown\)/v1 cannot be reached"
    ) as fault:
        writer(stub, endpoint=endpoint)
    assert told
    assert not [text for text in (*told, str(fault.value)) if "sk-a-very" in text or "secret-key9" in text]


@pytest.mark.parametrize("answer", [b"<html>Welcome</html>", b'{"status": "ok"}', b"[]"])
def test_a_server_of_another_kind_is_told_before_the_first_row(monkeypatch, answer):
    class Foreign(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html" if b"html" in answer else "application/json")
            self.end_headers()
            self.wfile.write(answer)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Foreign) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        stub = SimpleNamespace(endpoint=f"http://127.0.0.1:{server.server_port}/v1")
        with pytest.raises(SetupFault, match="answers, but not as a chat server does") as fault:
            writer(stub)
        server.shutdown()
    assert str(fault.value).endswith("correct the endpoint, which mostly ends in /v1")


def test_a_server_that_became_another_one_ends_the_run_at_its_first_answer(stub, data):
    """Where answers are kept already it is not asked before the first row."""
    write(stub, data(1))
    stub.models, stub.behave = None, lambda seen: "html"
    with pytest.raises(SetupFault, match=r"not as a chat server does \(text/html instead of application/json\)"):
        write(stub, data(3), concurrency=1)
    assert len(stub.seen) == 2


def test_this_machine_is_asked_without_a_proxy(stub, data, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert write(stub, data(1))["__failure__"] == [""]


@pytest.mark.parametrize(
    ("text", "failure"),
    [
        ("A sign that reads I can't", ""),
        ("Sorry, we're closed, says a sign", ""),
        ("I’m sorry, but I can’t identify people", "refused"),
        ("As an AI, I cannot see", "refused"),
        ("抱歉，我无法描述这张图片", "refused"),
        ("a <|im_end|> dog", "special token"),
        ("a dog <|__dj__eoc|>", "special token"),
        ("a dog</s>", "special token"),
        ("1 < 2 and 3 > 2", ""),
        ("a \ud800 dog", "no text"),
        ("a \x00 dog", "no text"),
        ("<think>so it is\na dog</think>\na dog", ""),
    ],
)
def test_what_counts_as_a_caption(text, failure):
    caption, why = caption_in(json.dumps([text, "stop"]), 30)
    assert failure in why
    assert bool(caption) != bool(why)
    assert "think" not in caption


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("0", 0), ("7", 7), ("-3", None), ("soon", None), ("nan", None), ("1" * 30, None), ("", None)],
)
def test_what_a_server_asks_to_wait(header, seconds):
    assert chat_server._wanted_wait(header) == seconds
    assert chat_server._pause(0, 86_400.0) <= 60 * 1.25
    assert chat_server._wanted_wait("Wed, 21 Oct 2015 07:28:00 GMT") == 0


def test_recaptioning_asks_the_server_for_poor_rows_only(stub, data, clip_folder):
    rows = data(6)
    settings = {"hf_clip": str(clip_folder), "below": 0.9, "endpoint": stub.endpoint, "model": MODEL}
    operator = OPERATORS.modules["conditional_recaption_mapper"](auto_op_parallelism=False, **settings)
    stub.behave = only("refusal", 2)
    found = operator.run(rows)
    assert len(stub.seen) == 6
    assert [bool(failure) for failure in found["__failure__"]] == [number == 2 for number in range(6)]
    changed = [new != old for new, old in zip(found["text"], rows["text"], strict=True)]
    assert changed == [bool(note) for note in found["__note__"]]
    assert any(changed)
