"""Reading of texts in images: what counts, in which order, what captions get; and the real reader where it is there."""

import json
from importlib.util import find_spec

import pytest
from PIL import Image, ImageDraw, ImageFont

from solution.operators.common import text_reader
from solution.operators.common.text_reader import Legible, Text, TextReader, in_reading_order
from solution.runner.data_juicer import OPERATORS, STATS, NestedDataset

needs_reader = pytest.mark.skipif(
    find_spec("rapidocr_onnxruntime") is None, reason="solution/requirements-reading.txt is not installed"
)


def text(words: str, left: float = 0.1, top: float = 0.1, height: float = 0.1, confidence: float = 0.95) -> Text:
    """A text in the upper left."""
    return Text(words, confidence, left, top, height)


@pytest.fixture
def reads(monkeypatch):
    """reads({image name: texts}) stands in for the reader."""

    def pretend(found: dict[str, list[Text]]) -> list[str]:
        asked: list[str] = []

        def texts(_self, image):
            name = image.info_name
            asked.append(name)
            return [(t.text, t.confidence, t.left, t.top, t.height) for t in found.get(name, [])]

        def opened(paths, failures):
            for row, path in paths:
                try:
                    image = real(path)
                except text_reader_images.ImageError as error:
                    failures[row] = str(error)
                    continue
                image.info_name = path.rsplit("/", 1)[-1]
                yield row, image

        import solution.operators.common.images as text_reader_images

        real = text_reader_images.open_image
        monkeypatch.setattr(TextReader, "_texts", texts)
        monkeypatch.setattr(text_reader, "open_images", opened)
        monkeypatch.setattr(text_reader.importlib.util, "find_spec", lambda _name: True)
        monkeypatch.setattr(text_reader, "version", lambda _name: "1")
        return asked

    return pretend


def build(name: str, **parameters):
    """An operator that works in this process."""
    return OPERATORS.modules[name](auto_op_parallelism=False, num_proc=None, **parameters)


@pytest.fixture
def rows(make_seed):
    """rows(captions) as operators see them; images 000.jpg, 001.jpg ..."""

    def make(captions: list[str]) -> NestedDataset:
        seed = make_seed(captions)
        lines = [json.loads(line) for line in seed.read_text().splitlines()]
        for number, line in enumerate(lines, start=1):
            line |= {"__row__": number, "images": [str(seed.parent / image) for image in line["images"]]}
        return NestedDataset.from_list(lines)

    return make


def captions_of(dataset) -> list[str]:
    return [row.removeprefix("<__dj__image>\n").removesuffix(" <|__dj__eoc|>") for row in dataset["text"]]


@pytest.mark.parametrize(
    ("found", "caption", "written", "parameters"),
    [
        ([text("OPEN")], "a door", "a door with a sign reading OPEN", {}),
        ([text("OPEN")], "a door.", "a door with a sign reading OPEN", {}),
        ([text("OPEN")], "an open door", "an open door", {}),
        ([text("SierraClub")], "the logo of the sierra club", "the logo of the sierra club", {}),
        ([text("OPEN", confidence=0.8)], "a door", "a door", {}),
        ([text("OPEN", height=0.02)], "a door", "a door", {}),
        ([text("7")], "a door", "a door", {}),
        ([text("Call 9707831360")], "a door", "a door", {}),
        ([text("ORIGINALALBUMSERIES")], "a door", "a door", {}),
        ([text("开门")], "a door", "a door", {}),
        ([text("开门")], "a door", "a door with a sign reading 开门", {"latin_only": False}),
        ([text("CAFÉ")], "a door", "a door with a sign reading CAFÉ", {}),
        ([text("www.alamy.com"), text("a dreamstime"), text("shutterstock")], "a door", "a door", {}),
        ([text("CAFE", left=0.6), text("THE", left=0.1)], "a door", "a door with a sign reading THE CAFE", {}),
        ([text("below", top=0.5), text("above", top=0.1)], "a door", "a door with a sign reading above below", {}),
        ([text("small print of four"), text("TALL", top=0.6, height=0.3)], "a", "a with a sign reading TALL",
         {"max_words": 2}),
        ([text("OPEN"), text("OPEN", top=0.5)], "a door", "a door with a sign reading OPEN", {}),
        ([text("OPEN")], "one two three", "one two three", {"max_caption_words": 7}),
        ([text("CAFE")], "a sign that says STOP here", "a sign that says CAFE here",
         {"replaces": ["that says ([A-Z]+)"]}),
        ([text("STOP")], "a sign that says STOP", "a sign that says STOP", {"replaces": ["that says ([A-Z]+)"]}),
        ([text("STOP"), text("WAY")], "a sign that says STOP", "a sign that says STOP",
         {"replaces": ["that says ([A-Z]+)"]}),
        ([text("CAFE")], "a door", "CAFE: a door", {"template": "{text}: {caption}"}),
    ],
)  # fmt: skip
def test_what_a_caption_gets(rows, reads, found, caption, written, parameters):
    reads({"000.jpg": found})
    result = build("image_text_reading_mapper", **parameters).run(rows([caption]))
    assert captions_of(result) == [written]
    assert (result["__note__"][0] != "") == (written != caption)


def test_a_bad_image_fails_alone_and_no_image_is_read_twice(rows, reads):
    asked = reads({"000.jpg": [text("OPEN")], "002.jpg": [text("BANK")]})
    data = rows(["a door", "a cat", "a house"])
    with open(data["images"][1][0], "wb") as file:
        file.write(b"no image")
    operator = build("image_text_reading_mapper")
    result = operator.run(data)
    assert captions_of(result)[::2] == ["a door with a sign reading OPEN", "a house with a sign reading BANK"]
    assert ["cannot be read" in failure for failure in result["__failure__"]] == [False, True, False]
    again = build("image_text_reading_mapper", template="{caption}, {text}").run(data)
    assert captions_of(again)[0] == "a door, OPEN"
    assert sorted(asked) == ["000.jpg", "002.jpg"]


def test_statistics_equal_a_plain_count(rows, reads):
    reads({"000.jpg": [text("THE OLD CAFE"), text("closed", top=0.5)], "002.jpg": [text("tiny", height=0.01)]})
    captions = ["the old door", "a cat", "a house"]
    scored = build("image_text_reading_filter").run(rows(captions), reduce=False)
    found = [(stats["read_words"], stats["read_caption_share"], stats["read_named_share"]) for stats in scored[STATS]]
    assert found == [(4, pytest.approx(2 / 3), 0.5), (0, 0.0, 1.0), (0, 0.0, 1.0)]
    kept = [
        list(build("image_text_reading_filter", **bounds).run(rows_again)["__row__"])
        for rows_again in [scored.remove_columns(STATS)]
        for bounds in ({"min_words": 1}, {"max_words": 3}, {"max_caption_share": 0.5}, {"min_named_share": 0.6})
    ]
    assert kept == [[1], [2, 3], [2, 3], [2, 3]]


def test_reading_order_is_by_lines():
    boxes = [text("d", 0.5, 0.42), text("b", 0.5, 0.12), text("c", 0.1, 0.40), text("a", 0.1, 0.10)]
    assert [box.text for box in in_reading_order(boxes)] == ["a", "b", "c", "d"]
    assert Legible(0.9, 0.03, True).of([]) == []


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"template": "{caption}"}, "has no {text}"),
        ({"template": "{text} {name}"}, "expected {caption} and {text}"),
        ({"replaces": ["("]}, "is no regular expression"),
        ({"replaces": ["says"]}, "has 0 groups, expected one"),
    ],
)
def test_parameters_that_cannot_work(parameters, said):
    with pytest.raises(ValueError, match=said.replace("{", "\\{").replace("}", "\\}")):
        build("image_text_reading_mapper", **parameters)


def test_the_missing_package_is_named_with_its_command(monkeypatch):
    monkeypatch.setattr(text_reader.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ImportError, match=r"pip install --no-deps -r solution/requirements-reading\.txt"):
        build("image_text_reading_mapper")


@needs_reader
def test_planted_signs_are_read(rows):
    """White boards with a word each, and one image without any."""
    data = rows(["a board", "a board", "a board"])
    for (path,), word in zip(data["images"], ["HOTEL", "Open daily", ""], strict=True):
        board = Image.new("RGB", (240, 160), "white")
        ImageDraw.Draw(board).text((20, 50), word, "black", ImageFont.load_default(44))
        board.save(path, quality=95)
    written = captions_of(build("image_text_reading_mapper", side=320).run(data))
    joined = [caption.replace("Opendaily", "Open daily") for caption in written]  # its spaces may get lost
    assert joined == ["a board with a sign reading HOTEL", "a board with a sign reading Open daily", "a board"]
