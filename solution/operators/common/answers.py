"""What a chat server says in an answer to an image: a caption, or why it is none."""

import json
import re
from typing import Any

from .captions import END_TOKEN, IMAGE_TOKENS

_MOST_SHOWN = 160  # characters of a server's own words
_CONTEXT = re.compile(r"context.{0,20}(length|size|window)|maximum.{0,20}context|too long|longer than the model", re.I)
# At the start of an answer; a caption may well hold such words.
_REFUSAL = re.compile(
    r"(i['’]?m|i am) (very |so |really )?(sorry|unable|not able)\b|sorry[,.!]? (but )?i\b"
    r"|i (can['’]?t|cannot|can not|won['’]t)\b|as an ai\b|unfortunately,? i\b"
    r"|(很|非常)?抱歉|对不起[，,]|我无法|我不能|作为一?个?(ai|人工智能)",
    re.I,
)
_THOUGHT = re.compile(r"\A\s*<think>.*?</think>", re.S)  # of reasoning models whose server does not take it out
_TOKEN = re.compile(
    "|".join(map(re.escape, (*IMAGE_TOKENS, END_TOKEN)))
    + r"|<\|[\w ]{1,40}\|>|<(?:image|img|vision)[\w-]{0,40}>|</?s>|<(?:bos|eos|pad|unk|start_of_turn|end_of_turn)>"
    + r"|\[/?inst\]|\[img\w*\]",
    re.I,
)
_UNREADABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffd]")


class UnreadableError(Exception):
    """What came is no answer of a chat server; the text says why."""


def read_answer(content_type: str, body: bytes) -> str:
    """What the score store keeps of an answer: its text and how it ended, as JSON. Raises UnreadableError."""
    if "json" not in content_type.lower():
        raise UnreadableError(f"{visible_text(content_type) or 'no content type'} instead of application/json")
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise UnreadableError("JSON that is cut short or damaged") from None
    try:
        choice = content["choices"][0]
        message, end = choice["message"], choice.get("finish_reason")
        text, refusal = message.get("content"), message.get("refusal")
    except (TypeError, KeyError, IndexError, AttributeError):
        raise UnreadableError(f"JSON without choices[0].message{_said(content)}") from None
    if isinstance(text, list):  # parts, as some servers send it
        text = "".join(part.get("text") or "" for part in text if isinstance(part, dict))
    if not isinstance(text, str | None) or not isinstance(refusal, str | None):
        raise UnreadableError("JSON whose message is no text")
    return json.dumps([text or refusal or "", "refusal" if refusal else str(end)])


def caption_in(answer: str, max_tokens: int) -> tuple[str, str]:
    """(caption, failure) of what `read_answer` returned; one of them is empty."""
    text, end = json.loads(answer)
    caption = " ".join(_THOUGHT.sub("", text).split())
    if end in ("refusal", "content_filter") or _REFUSAL.match(caption):
        return "", f"captioner refused: {visible_text(caption) or 'content filter'}"
    if end == "length":
        return "", f"captioner's answer is cut off: longer than max_new_tokens {max_tokens}"
    if not caption:
        return "", "captioner's answer is empty"
    if found := _TOKEN.search(caption):
        return "", f"captioner's answer has a special token: {found[0]}"
    if _UNREADABLE.search(caption):
        return "", "captioner's answer has characters that are no text"
    return caption, ""


def refused_request(status: int, body: bytes) -> str:
    """The failure of a row whose request a server does not take, with the server's reason."""
    try:
        words = _said(json.loads(body))
    except (ValueError, RecursionError):
        words = ""
    is_too_long = bool(_CONTEXT.search(words))
    kind = "image and prompt exceed the captioner's context" if is_too_long else "captioner takes no such request"
    return f"{kind}: HTTP {status}{words}"


def visible_text(text: str) -> str:
    """The start of a server's words, in one line that a terminal can show."""
    words = " ".join("".join(letter if letter.isprintable() else " " for letter in text[:4096]).split())
    return words if len(words) <= _MOST_SHOWN else words[: _MOST_SHOWN - 4] + " ..."


def _said(content: Any) -> str:
    """The message of an error that a server sends as JSON, after a comma; empty without one."""
    for key in ("error", "message", "detail"):
        content = content.get(key, content) if isinstance(content, dict) else content
    return f", {visible_text(content)}" if isinstance(content, str) and content.strip() else ""
