"""New captions from BLIP-2 and from a chat model: one or several per image, against plain generation."""

import json

import pytest
import torch

import solution.operators  # noqa: F401  registers ours
from solution.operators.common.images import open_image
from solution.runner.data_juicer import OPERATORS, NestedDataset
from tests.solution import model_folders
from tests.solution.conftest import TEXT


@pytest.fixture(autouse=True)
def own_store(tmp_path, monkeypatch):
    """No test reads another one's captions."""
    monkeypatch.setenv("SCORE_STORE", str(tmp_path / "scores"))


@pytest.fixture
def data(make_seed):
    """Five rows with absolute image paths, as operators see them."""
    seed = make_seed([f"old caption {number}" for number in range(5)])
    lines = [json.loads(line) for line in seed.read_text().splitlines()]
    for number, line in enumerate(lines, start=1):
        line["__row__"] = number
        line["images"] = [str(seed.parent / image) for image in line["images"]]
    return NestedDataset.from_list(lines)


@pytest.fixture(scope="module")
def blip2(tmp_path_factory) -> str:
    return str(model_folders.save_blip2(tmp_path_factory.mktemp("blip2")))


@pytest.fixture(scope="module")
def chat(tmp_path_factory) -> str:
    return str(model_folders.save_chat_model(tmp_path_factory.mktemp("chat")))


def write(data, model: str, **parameters):
    """The data set after the operator, in this process."""
    operator = OPERATORS.modules["caption_writer_mapper"]
    parameters = {"max_new_tokens": 8, "max_words": 99, "model_batch": 2} | parameters
    return operator(hf_captioner=model, auto_op_parallelism=False, num_proc=None, **parameters).run(data)


def captions_of(dataset) -> list[str]:
    return [text.removeprefix("<__dj__image>\n").removesuffix(" <|__dj__eoc|>") for text in dataset["text"]]


@torch.no_grad()
def plainly_written(data, folder: str, model_class: str, text: str | None, repeats_question: bool) -> list[str]:
    """One image at a time, with transformers alone."""
    import transformers

    model = getattr(transformers, model_class).from_pretrained(folder).eval()
    processor = transformers.AutoProcessor.from_pretrained(folder)
    captions = []
    for images in data["images"]:
        inputs = processor(images=open_image(images[0]), text=text, return_tensors="pt")
        tokens = model.generate(**inputs, max_new_tokens=8, do_sample=False)[0]
        new = tokens[inputs["input_ids"].shape[1] :] if repeats_question else tokens
        captions.append(" ".join(processor.decode(new, skip_special_tokens=True).split()))
    return captions


def test_blip2_captions_equal_plain_generation(data, blip2):
    expected = plainly_written(data, blip2, "Blip2ForConditionalGeneration", None, repeats_question=False)
    found = write(data, blip2)
    assert len(set(expected)) > 1
    assert captions_of(found) == [new or old for new, old in zip(expected, captions_of(data), strict=True)]
    assert found["caption_index"] == [1 if new else None for new in expected]


def test_chat_captions_equal_plain_generation(data, chat):
    question = "USER: <image>What is it? ASSISTANT:"
    expected = plainly_written(data, chat, "LlavaForConditionalGeneration", question, repeats_question=True)
    assert len(set(expected)) > 1
    assert captions_of(write(data, chat, prompts=["What is it?"])) == expected


@torch.no_grad()
def test_qwen2_vl_captions_equal_plain_generation_without_torchvision(data, tmp_path):
    """By hand: patches from the image processor, one token for four of them."""
    from transformers import AutoTokenizer, Qwen2VLForConditionalGeneration, Qwen2VLImageProcessor

    folder = str(model_folders.save_qwen2_vl(tmp_path))
    found = captions_of(write(data, folder, prompts=["What is it?"]))
    model = Qwen2VLForConditionalGeneration.from_pretrained(folder).eval()
    tokenizer, reader = AutoTokenizer.from_pretrained(folder), Qwen2VLImageProcessor.from_pretrained(folder)
    expected = []
    for images in data["images"]:
        pixels = reader(images=open_image(images[0]), return_tensors="pt")
        pads = "<|image_pad|>" * (int(pixels["image_grid_thw"].prod()) // 4)
        question = (
            f"<|im_start|>user\n<|vision_start|>{pads}<|vision_end|>What is it?<|im_end|>\n<|im_start|>assistant\n"
        )
        tokens = tokenizer(question, return_tensors="pt")
        new = model.generate(**tokens, **pixels, max_new_tokens=8, do_sample=False)[0, tokens["input_ids"].shape[1] :]
        expected.append(" ".join(tokenizer.decode(new, skip_special_tokens=True).split()))
    assert len(set(expected)) > 1
    assert found == expected


def test_several_captions_keep_the_id_and_count_themselves(data, chat):
    found = write(data, chat, captions=3, temperature=1.0, keep_original=True)
    assert len(found) == 20
    for start in range(0, 20, 4):
        rows = found.select(range(start, start + 4))
        assert len(set(rows["id"])) == 1
        assert rows["caption_index"] == [None, 1, 2, 3]
        assert rows["text"][0] == TEXT.format(f"old caption {start // 4}")
        assert len(set(rows["text"])) == 4
        assert all(text.startswith("<__dj__image>\n") and text.endswith(" <|__dj__eoc|>") for text in rows["text"])


def test_drawn_captions_depend_on_row_and_seed_alone(data, chat, tmp_path, monkeypatch):
    def captions(rows, seed: int) -> dict[str, list[str]]:
        monkeypatch.setenv("SCORE_STORE", str(tmp_path / f"{len(rows)} {seed}"))  # generated again each time
        found = write(rows, chat, captions=2, temperature=1.0, seed=seed)
        return {
            row: [text for name, text in zip(found["id"], found["text"], strict=True) if name == row]
            for row in rows["id"]
        }

    whole = captions(data, 0)
    assert captions(data.select([3, 1]), 0) == {row: whole[row] for row in ("003", "001")}
    assert captions(data, 1) != whole


def test_a_prompt_for_each_caption(data, chat):
    both = write(data, chat, captions=2, prompts=["What is it?", "Which colours?"])
    first = write(data, chat, prompts=["What is it?"])
    second = write(data, chat, prompts=["Which colours?"])
    for row in data["id"]:
        mine = [text for name, text in zip(both["id"], both["text"], strict=True) if name == row]
        single = [
            text for part in (first, second) for name, text in zip(part["id"], part["text"], strict=True) if name == row
        ]
        assert mine == list(dict.fromkeys(single))


def test_alike_captions_are_refused(chat):
    with pytest.raises(ValueError, match="temperature above 0 or as many prompts"):
        write(None, chat, captions=2)


def test_unusable_captions_leave_the_row_as_it_is(data, chat):
    found = write(data, chat, min_words=50)
    assert found["text"] == data["text"]
    assert found["__note__"] == [""] * 5


def test_a_bad_image_fails_alone(data, chat):
    whole = write(data, chat)
    with open(data[1]["images"][0], "r+b") as file:
        file.truncate(300)
    found = write(data, chat)
    assert [bool(text) for text in found["__failure__"]] == [False, True, False, False, False]
    assert [found["text"][row] for row in (0, 2, 3, 4)] == [whole["text"][row] for row in (0, 2, 3, 4)]


def test_captions_are_not_written_twice(data, chat, monkeypatch):
    from solution.operators.common.captioner import Captioner

    first = write(data, chat, captions=2, temperature=1.0)
    monkeypatch.setattr(Captioner, "_generate", lambda *_: pytest.fail("written again"))
    assert write(data, chat, captions=2, temperature=1.0, max_words=98)["text"] == first["text"]


def test_created_rows_are_counted(make_seed, make_recipe, run_process, chat):
    seed = make_seed(["a dog", "a cat"])
    step = {"hf_captioner": chat, "captions": 2, "temperature": 1.0, "keep_original": True, "max_new_tokens": 8}
    done = run_process(make_recipe([{"caption_writer_mapper": step | {"max_words": 99}}]), seed)
    assert done.code == 0, done.err
    assert done.record["counts"] == {"in": 2, "created": 4, "kept": 6, "dropped": 0, "failed": 0}
    assert [row.get("caption_index") for row in done.rows] == [None, 1, 2, None, 1, 2]
    assert [row["id"] for row in done.rows] == ["000"] * 3 + ["001"] * 3


def test_two_processes_write_the_same_captions(data, chat, tmp_path, monkeypatch):
    settings = {"captions": 2, "temperature": 1.0}
    alone = write(data, chat, **settings)
    monkeypatch.setenv("SCORE_STORE", str(tmp_path / "both"))  # generated again
    operator = OPERATORS.modules["caption_writer_mapper"](
        hf_captioner=chat,
        auto_op_parallelism=False,
        num_proc=2,
        max_new_tokens=8,
        max_words=99,
        model_batch=2,
        **settings,
    )
    both = operator.run(data)
    assert both["text"] == alone["text"]
    assert both["caption_index"] == alone["caption_index"]
