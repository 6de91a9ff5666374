"""What solution/ and toolkit/, which never import each other, must agree on: one row per case, one verdict per reader.

The readers, in the order of the columns:
- convert: `toolkit convert dj-to-llava` on the row
- process: `solution/process.py` reading the row as seed; a fault is a part of the failed row's reason
- check:   `toolkit check` on the row as processed data
- prepare: `toolkit prepare` on the row as processed data
- train:   `toolkit/training/data.py`'s scan of the sample that the row stands for

OK means accepted; other words of the toolkit's readers are keys of `toolkit.dataset.fixes.FIXES`. Readers differ only
where they know different things: `convert` opens no image, `process` leaves to operators what they can write again (an
empty caption), and only `check` and `prepare` know the original questions.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

OK = ""
NOT_READ = None  # the sample cannot be written down for this reader
TEXT = "<image>\nA dress. <|__dj__eoc|>"


@dataclass(frozen=True)
class Case:
    """One line and its verdicts.

    Args:
        name: unique; also the row's id unless the case is about ids.
        row: what differs from a valid row, or a whole line.
        convert, process, check, prepare, train: see above.
    """

    name: str
    row: dict[str, Any] | bytes
    convert: str
    process: str
    check: str
    prepare: str
    train: str | None

    def content(self) -> dict[str, Any]:
        """The row of a case that is no raw line."""
        row = {"id": self.name, "text": TEXT, "images": ["images/good.png"]} | self.row
        return {key: value for key, value in row.items() if value is not MISSING}

    def line(self) -> bytes:
        """The line as the file has it."""
        return self.row if isinstance(self.row, bytes) else json.dumps(self.content(), ensure_ascii=False).encode()


MISSING = object()  # the key is left out


def fine(name: str, **row: Any) -> Case:
    """Accepted by every reader."""
    return Case(name, row, OK, OK, OK, OK, OK)


def line(name: str, content: bytes, process: str, reason: str = "not_json") -> Case:
    """A line that is no row; a training file has no lines."""
    return Case(name, content, reason, process, reason, reason, NOT_READ)


def refused(name: str, process: str, reason: str, train: str | None = NOT_READ, **row: Any) -> Case:
    """Refused for the same reason by all that read rows."""
    return Case(name, row, reason, process, reason, reason, train)


def image(name: str, path: str, reason: str, process: str, prepare: str = OK) -> Case:
    """A file that is refused where it is opened; `prepare` only looks at what kind of file it is."""
    return Case(name, {"images": [path]}, OK, process, reason, prepare, reason)


def good_image(name: str, path: str) -> Case:
    """A file that every reader accepts."""
    return fine(name, images=[path])


NO_TEXT_ID = "key 'id' is missing or neither text nor a whole number"
NOT_RELATIVE = "must be relative and without .."
NO_LIST = "key 'images' is not a list"
NO_JSON = "not valid JSON in UTF-8"
TOKEN_INSIDE = "special token inside its caption"
BIG = 10**30

IDS = [
    fine("an id as text"),
    fine("an id with non-ASCII letters", id="衣服-é-👗"),
    fine("an id of blanks and signs", id=" a/b:c #% "),
    fine("an id as a whole number", id=7),
    fine("an id as a negative number", id=-5),
    fine("an id as zero", id=0),
    fine("an id beyond 64 bits", id=BIG),
    refused("an id as a fraction", NO_TEXT_ID, "bad_id", OK, id=1.5),
    refused("an id as a whole fraction", NO_TEXT_ID, "bad_id", OK, id=1.0),
    refused("an id as true", NO_TEXT_ID, "bad_id", OK, id=True),
    refused("an id as a list", NO_TEXT_ID, "bad_id", OK, id=["1"]),
    refused("an id as an object", NO_TEXT_ID, "bad_id", OK, id={"id": "1"}),
    refused("an id as null", NO_TEXT_ID, "missing_id", OK, id=None),
    refused("an empty id", NO_TEXT_ID, "missing_id", OK, id=""),
    refused("no id", NO_TEXT_ID, "missing_id", OK, id=MISSING),
]

TEXTS = [
    refused("no text", "key 'text'", "bad_text", text=MISSING),
    refused("text as null", "key 'text'", "bad_text", text=None),
    refused("text as a number", "key 'text'", "bad_text", text=3),
    refused("text as a list", "key 'text'", "bad_text", text=["<image>\na"]),
    fine("the documentation's token", text="<image>\nA dress. <|__dj__eoc|>"),
    fine("the seed's token", text="<__dj__image>\nA dress. <|__dj__eoc|>"),
    fine("no end token", text="<image>\nA dress."),
    fine("a blank instead of the newline", text="<image> A dress. <|__dj__eoc|>"),
    fine("white space everywhere", text=" \n<image> \n\n A dress. \t <|__dj__eoc|> \n"),
    fine("the image token at the end", text="A dress.\n<image> <|__dj__eoc|>"),
    fine("a caption in Chinese", text="<image>\n一条裙子 <|__dj__eoc|>"),
    fine("an emoji of two halves", text="<image>\nA \U0001f457 <|__dj__eoc|>"),
    fine("a NUL in the caption", text="<image>\nA\0dress <|__dj__eoc|>"),
    fine("a caption of 5 MB", text="<image>\n" + "A dress. " * 550_000 + "<|__dj__eoc|>"),
    fine("a tag of HTML in the caption", text="<image>\n<b>A dress</b> <img> <|__dj__eoc|>"),
    fine("one speaker's marker", text="<image>\n[[human]]: a dress <|__dj__eoc|>"),
    refused("both kinds of image token", "mixes", "mixed_image_tokens", text="<image>\na <__dj__image>"),
    refused("no image token", "0 image token(s) for 1", "image_without_token", text="A dress. <|__dj__eoc|>"),
    refused("a doubled image token", "2 image token(s)", "token_in_caption", text="<image><image>\na dress"),
    refused("a token at both ends", "2 image token(s)", "token_in_caption", text="<image>\na dress\n<image>"),
    refused("the image token in mid-caption", TOKEN_INSIDE, "token_in_caption", text="a <image> dress"),
    refused("the end token in mid-caption", TOKEN_INSIDE, "token_in_caption", text="<image>\na <|__dj__eoc|> dress"),
    refused("a doubled end token", TOKEN_INSIDE, "token_in_caption", text="<image>\na <|__dj__eoc|> <|__dj__eoc|>"),
    refused("the end token in front", TOKEN_INSIDE, "token_in_caption", text="<image><|__dj__eoc|>\na dress"),
    refused("the end token before the image token", TOKEN_INSIDE, "token_in_caption", text="a <|__dj__eoc|> <image>"),
    # What an operator can write again is no fault of a seed row.
    refused("an empty caption", OK, "empty_caption", "empty_answer", text="<image>\n <|__dj__eoc|>"),
    *(
        refused(f"{token} in a caption", OK, "special_token_in_text", train, text=f"<image>\na {token} b")
        for token, train in (
            ("<eos>", "special_token_in_text"), ("<pad>", "special_token_in_text"), ("<bos>", OK), ("<unk>", OK),
            ("<start_of_turn>", OK), ("<end_of_turn>", OK),
        )
    ),
    refused(
        "the header of an answer", OK, "special_token_in_text", "special_token_in_text",
        text="<image>\na <start_of_turn>model\nb",
    ),
    fine("tokens of other models", text="<image>\na <s> </s> <|im_end|> [INST] [PAD] <unused7>"),
    refused(
        "a dialogue as caption", OK, "dialogue_in_caption", OK, text="<image>\n[[human]]: who?\n[[gpt]]: she"
    ),
]  # fmt: skip

IMAGE_LISTS = [
    refused("an image path instead of a list", NO_LIST, "bad_images", images="images/good.png"),
    refused("a number instead of a list", NO_LIST, "bad_images", images=3),
    refused("an object instead of a list", NO_LIST, "bad_images", images={"path": "images/good.png"}),
    refused("a number in the list", NO_LIST, "bad_images", images=[3]),
    refused("null in the list", NO_LIST, "bad_images", images=[None]),
    Case("one image twice", {"images": ["images/good.png"] * 2}, OK, OK, OK, OK, "malformed_row"),
    Case(
        "one image in two spellings", {"images": ["images/good.png", "./images//good.png"]},
        OK, OK, OK, OK, "malformed_row",
    ),
    refused(
        "two images", "2 different images", "two_images", "malformed_row",
        text="<image>\na <image>", images=["images/good.png", "images/other.png"],
    ),
    refused("no image for the token", "1 image token(s) for 0", "token_without_image", OK, images=[]),
    # A row without image is trained where its original asks a question about none.
    fine("text only, an empty list", id="text-1", text="A word. <|__dj__eoc|>", images=[]),
    fine("text only, no list", id="text-2", text="A word. <|__dj__eoc|>", images=MISSING),
    fine("text only, null", id="text-3", text="A word. <|__dj__eoc|>", images=None),
    Case(
        "text only, without an original", {"text": "A word.", "images": []},
        "no_question", OK, "no_question", "no_question", OK,
    ),
    Case(
        "text only, asked about an image", {"id": "image-1", "text": "A word.", "images": []},
        "question_without_image", OK, "question_without_image", "question_without_image", OK,
    ),
    Case(
        "an image, asked about none", {"id": "text-4"},
        "question_without_image_place", OK, "question_without_image_place", "question_without_image_place", OK,
    ),
]  # fmt: skip


def missing(name: str, path: str) -> Case:
    """A file that is not there."""
    return image(name, path, "missing_image", "is missing", "missing_image")


def link_out(name: str, path: str) -> Case:
    """A file outside its root, by a link."""
    return image(name, path, "link_leaves_root", "is a link to", "link_leaves_root")


def bad_path(name: str, path: str) -> Case:
    """A path that every reader refuses by its form."""
    return refused(name, NOT_RELATIVE, "bad_image_path", "bad_image_path", images=[path])


PATHS = [
    good_image("a dot in front", "./images/good.png"),
    good_image("a doubled slash", "images//good.png"),
    good_image("non-ASCII letters in a name", "images/裙子 é.png"),
    good_image("signs in a name", "images/a #%'\"&;.png"),
    good_image("a colon in a name", "12:30.png"),
    good_image("a name without ending", "images/noending"),
    good_image("an ending in capitals", "images/UPPER.PNG"),
    good_image("a link to a file inside", "images/link_inside.png"),
    good_image("a link to a folder inside", "linked/good.png"),
    bad_path("an absolute path", "/etc/passwd"),
    bad_path("a path out of the folder", "../good.png"),
    bad_path("a path out and in again", "images/../images/good.png"),
    bad_path("an empty path", ""),
    bad_path("a dot for a path", "."),
    bad_path("a drive letter", "C:/images/good.png"),
    bad_path("a drive letter with backslash", "C:\\images\\good.png"),
    bad_path("a backslash in front", "\\images\\good.png"),
    bad_path("a URL", "https://example.org/good.png"),
    bad_path("a file URL", "file:///etc/passwd"),
    bad_path("a NUL in a path", "images/good.png\0.jpg"),
    missing("a backslash for a slash", "images\\good.png"),
    missing("a trailing blank", "images/good.png "),
    missing("a missing file", "images/none.png"),
    missing("a file for a folder", "images/good.png/good.png"),
    missing("a link to nothing", "images/link_nowhere.png"),
    image("a link in a circle", "images/link_circle.png", "unreadable_image", "cannot be read", "unreadable_image"),
    image(
        "a name that is too long", f"images/{'a' * 300}.png", "unreadable_image", "cannot be read", "unreadable_image"
    ),
    image("a folder", "images", "not_a_regular_file", "is a folder", "not_a_regular_file"),
    image("a named pipe", "images/pipe.png", "not_a_regular_file", "is a named pipe", "not_a_regular_file"),
    image("a socket", "images/socket.png", "not_a_regular_file", "is a socket", "not_a_regular_file"),
    image(
        "a link to a file outside", "images/link_outside.png", "link_leaves_root", "is a link to", "link_leaves_root"
    ),
    link_out("a link to a folder outside", "outside/good.png"),
    link_out("a link to a device", "images/link_device.png"),
]

CONTENTS = [
    *(
        good_image(f"an image: {name}", f"images/{name}")
        for name in (
            "long.png", "one_pixel.png", "cmyk.jpg", "deep.png", "palette.png", "alpha.png", "grey.jpg", "animated.gif",
            "animated.webp", "views.mpo", "turned.jpg", "bad_exif.jpg", "gif_named.jpg", "webp_named.jpg", "still.avif",
            "plain.bmp", "plain.tiff", "plain.ppm",
        )
    ),
    *(
        image(f"no image: {name}", f"images/{name}", "unreadable_image", "cannot be read")
        for name in (
            "empty.jpg", "cut.jpg", "cut.png", "page.jpg", "drawing.svg", "program.jpg", "program.eps", "bomb.png",
            "text.jpg", "archive.jpg",
        )
    ),
    *(
        image(f"no square: {name}", f"images/{name}", "canvas_too_large", "pixels take gigabytes to fit to a square")
        for name in ("far_too_long.png", "far_too_long.jpg", "far_too_wide.png")
    ),
]  # fmt: skip

NESTED = b"[" * 100_000
LINES = [
    line("no JSON", b"{", NO_JSON),
    line("a list", b"[1]", "not a JSON object", "not_json"),
    line("a number", b"3", "not a JSON object"),
    line("two objects in a line", b'{"id": "1"} {"id": "2"}', NO_JSON),
    line("half a character as an escape", rb'{"id": "1", "text": "<image>\na \ud83d", "images": ["a.png"]}', NO_JSON),
    line("half a character in bytes", b'{"id": "\xed\xa0\x80", "text": "<image>\\na", "images": ["a.png"]}', NO_JSON),
    line("half a character under a further key", rb'{"id": "1", "text": "a", "images": [], "a": ["\udead"]}', NO_JSON),
    line("no UTF-8", b'{"id": "\xff", "text": "<image>\\na", "images": ["images/good.png"]}', NO_JSON),
    line("a bare NUL", b'{"id": "a\0", "text": "<image>\\na", "images": ["images/good.png"]}', NO_JSON),
    line("UTF-16 without a mark", '{"id": "1"}'.encode("utf-16-le"), NO_JSON),
    line("100,000 brackets", NESTED, NO_JSON),
    line("100,000 brackets in a row", b'{"id": "deep", "further": ' + NESTED + b"]" * 100_000 + b"}", NO_JSON),
    line("50 MB", b"x" * (50 << 20), NO_JSON),
    line("a number of 5,000 digits", b'{"id": "long", "further": ' + b"7" * 5_000 + b"}", NO_JSON),
    Case(
        "a doubled key", b'{"id": 1.5, "id": "doubled", "text": "<image>\\na", "images": ["images/good.png"]}',
        OK, OK, OK, OK, NOT_READ,
    ),
    Case(
        "a byte order mark within the file",
        b'\xef\xbb\xbf{"id": "mark", "text": "<image>\\na", "images": ["images/good.png"]}',
        OK, OK, OK, OK, NOT_READ,
    ),
    Case(
        "blanks around the object", b' \t {"id": "blanks", "text": "<image>\\na", "images": ["images/good.png"]} \t ',
        OK, OK, OK, OK, NOT_READ,
    ),
]  # fmt: skip

DEEP: Any = "bottom"
for _ in range(200):
    DEEP = [DEEP]
# Further keys, of every type in every order: they come out of a recipe as they went in.
FURTHER = [
    fine(f"further keys {number}", **keys)
    for number, keys in enumerate(
        [
            {"source": "web", "score": 1, "tags": ["a"], "info": {"by": "hand", "n": 1}},
            {"source": "book", "score": 0.5, "tags": [], "info": {"other": None}},
            {"source": None, "score": None, "tags": None, "info": {}},
            {"source": "", "score": -0.0, "tags": ["a", "b"], "info": {"n": 2.5}},
            {"mixed": "text"},
            {"mixed": 3},
            {"mixed": ["a", 1, None, {"b": [True]}]},
            {"mixed": {"a": {"b": [[], {}, [None]]}}},
            {"mixed": True},
            {"mixed": None},
            {"mixed": DEEP},
            {"large": 2**70, "small": -(2**70), "both": 2**60, "float": 0.1},
            {"large": 1, "small": 2**63, "both": 0.5, "float": 1e300},
            {"nan": float("nan"), "infinite": float("inf"), "list": [float("nan")]},
            {"__dj__stats__": {"words": 3}, "__row__": 99, "__extra__": "mine", "__note__": 1, "__failure__": "none"},
            {"__dj__stats__": "text", "__row__": None, "__dj__meta__": [1], "__dj__hash": "x"},
            {"caption_index": 3, "copy_index": 1, "meta": {"a": 1}, "stats": {"b": 2}},
            {"caption_index": "first", "copy_index": None, "meta": "text", "stats": 1},
            {"": "empty name", "a.b": 1, "a b": 2, "ä": 3, "null": None, "videos": [], "Text": "no"},
            {"flag": True, "image": "images/good.png", "conversations": [{"from": "human", "value": "<image>"}]},
            {"flag": False, "query": "", "escaped": "\0\u2028\x1b[31m"},
        ]
    )
]

CASES: list[Case] = [*IDS, *TEXTS, *IMAGE_LISTS, *PATHS, *CONTENTS, *LINES, *FURTHER]
