"""The committed mini world: exact file formats, planted defects, sizes, and the same bytes when built again."""

import base64
import csv
import io
import json
import re
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from toolkit.dataset.llava import CAPTION_PROMPTS
from toolkit.files import REPOSITORY, sha256_of
from toolkit.mini.build import INSTRUCT, MMBENCH, SEED, TEXTVQA, TRUTH, ZOO
from toolkit.mini.evaluation import build_mmbench, build_textvqa
from toolkit.mini.instruct import build_instruct
from toolkit.mini.questions import SIGN_QUESTIONS
from toolkit.mini.seed import DEFECTS, build_seed

MEGABYTE = 1_000_000


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def seed_rows() -> list[dict]:
    return lines_of(SEED / "mgm_pretrain_mini.jsonl")


def test_seed_rows_have_the_real_format(seed_rows):
    assert len(seed_rows) == 2400
    assert len({row["id"] for row in seed_rows}) == 2400
    for row in seed_rows:
        assert list(row) == ["id", "text", "images"]
        assert re.fullmatch(r"\d{9}", row["id"])
        assert row["images"] == [f"images/{row['id'][:5]}/{row['id']}.jpg"]
        assert re.fullmatch(r"<__dj__image>\n\S.* <\|__dj__eoc\|>", row["text"])


def test_every_seed_image_is_a_small_square_jpeg(seed_rows):
    for row in seed_rows:
        with Image.open(SEED / row["images"][0]) as image:
            assert (image.format, image.size, image.mode) == ("JPEG", (192, 192), "RGB")


def test_originals_cover_the_seed_with_llava_questions(seed_rows):
    originals = {row["id"]: row for row in json.loads((SEED / "stage_1.json").read_text())}
    assert originals.keys() == {row["id"] for row in seed_rows}
    for row in seed_rows:
        original = originals[row["id"]]
        human, answer = original["conversations"]
        assert original["image"] == row["images"][0]
        assert human["from"] == "human"
        assert human["value"].replace("<image>", "").strip() in CAPTION_PROMPTS
        assert answer == {"from": "gpt", "value": row["text"].removeprefix("<__dj__image>\n")[: -len(" <|__dj__eoc|>")]}


def test_defects_have_their_shares_and_clean_pairs_are_fewer_than_the_cap(seed_rows):
    truths = {row["id"]: row for row in lines_of(TRUTH)}
    counts = Counter(row["defect"] for row in truths.values())
    assert {defect: counts[defect] for defect in DEFECTS} == {d: round(share * 2400) for d, share in DEFECTS.items()}
    assert counts["none"] < 1200
    for row in seed_rows:
        truth = truths[row["id"]]
        is_true = truth["true_caption"] in row["text"]
        if truth["defect"] in ("none", "blur", "watermark", "near_duplicate"):
            assert is_true
        if truth["defect"] in ("half_wrong", "boilerplate", "too_short", "other_language"):
            assert not is_true


def test_instruction_set_is_llava_format_with_and_without_images():
    samples = json.loads((INSTRUCT / "mgm_instruction_mini.json").read_text())
    assert len(samples) == 1200
    assert len({sample["id"] for sample in samples}) == 1200
    text_only = [sample for sample in samples if "image" not in sample]
    assert len(text_only) == 120
    for sample in samples:
        human, answer = sample["conversations"]
        assert (human["from"], answer["from"]) == ("human", "gpt")
        assert answer["value"].strip()
        assert human["value"].startswith("<image>\n") == ("image" in sample)
        assert "image" not in sample or (INSTRUCT / sample["image"]).is_file()


def test_textvqa_files_agree_and_show_the_answer_among_distractors():
    questions = lines_of(TEXTVQA / "llava_textvqa_mini_ocr.jsonl")
    annotations = json.loads((TEXTVQA / "textvqa_mini_annotations.json").read_text())["data"]
    assert [row["question_id"] for row in questions] == [row["question_id"] for row in annotations]
    for row, annotation in zip(questions, annotations, strict=True):
        assert list(row) == ["question_id", "image", "text", "category"]
        assert (TEXTVQA / "train_images" / row["image"]).is_file()
        question, tokens, instruction = row["text"].split("\n")
        assert question == annotation["question"]
        assert instruction == "Answer the question using a single word or phrase."
        tokens = tokens.removeprefix("Reference OCR token: ").split(", ")
        assert len(annotation["answers"]) == 10
        assert len(tokens) >= 3
        if question in SIGN_QUESTIONS:
            answer = Counter(annotation["answers"]).most_common(1)[0][0]
            assert answer.upper() in tokens


def test_mmbench_rows_are_circular_and_hold_images():
    with MMBENCH.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    groups: dict[int, list[dict]] = {}
    for row in rows:
        groups.setdefault(int(row["index"]) % 1_000_000, []).append(row)
        image = Image.open(io.BytesIO(base64.b64decode(row["image"])))
        assert image.size == (192, 192)
    assert len(groups) == 200
    assert {len(group) for group in groups.values()} == {1, 4}
    for group in groups.values():
        assert len({row[row["answer"]] for row in group}) == 1
        assert len({row["answer"] for row in group}) == len(group)
    assert {row["category"] for row in rows} == {"object", "count", "colour", "relation", "text"}


def test_seed_is_built_again_byte_for_byte(tmp_path):
    build_seed(tmp_path, tmp_path / "truth.jsonl", draw=0)
    for name in ("mgm_pretrain_mini.jsonl", "stage_1.json"):
        assert sha256_of(tmp_path / name) == sha256_of(SEED / name)
    assert sha256_of(tmp_path / "truth.jsonl") == sha256_of(TRUTH)
    images = sorted((tmp_path / "images").rglob("*.jpg"))
    assert len(images) == 2400
    for image in images[::100]:
        assert sha256_of(image) == sha256_of(SEED / image.relative_to(tmp_path))


def test_another_draw_is_another_seed(tmp_path):
    build_seed(tmp_path, tmp_path / "truth.jsonl", draw=1, rows=40)
    rows = lines_of(tmp_path / "mgm_pretrain_mini.jsonl")
    assert not {row["id"] for row in rows} & {row["id"] for row in lines_of(SEED / "mgm_pretrain_mini.jsonl")[:40]}


def test_fixed_sets_are_built_again_byte_for_byte(tmp_path):
    build_instruct(tmp_path / "instruct")
    build_textvqa(tmp_path / "textvqa", "dev")
    build_mmbench(tmp_path / "mmbench.tsv", "dev")
    assert sha256_of(tmp_path / "mmbench.tsv") == sha256_of(MMBENCH)
    for built, committed in ((tmp_path / "instruct", INSTRUCT), (tmp_path / "textvqa", TEXTVQA)):
        files = [path for path in sorted(built.rglob("*")) if path.is_file()]
        for path in files:
            assert sha256_of(path) == sha256_of(committed / path.relative_to(built))


def test_dev_and_test_images_differ(tmp_path):
    build_textvqa(tmp_path, "test", questions=20)
    test = {sha256_of(path) for path in (tmp_path / "train_images").iterdir()}
    assert not test & {sha256_of(path) for path in (TEXTVQA / "train_images").iterdir()}


def test_world_stays_small():
    def size(folder: Path) -> int:
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

    assert size(ZOO) <= 16 * MEGABYTE
    assert size(SEED) + size(INSTRUCT) + size(TEXTVQA.parent) <= 16 * MEGABYTE
    assert size(REPOSITORY / "toolkit" / "mini") <= 2 * MEGABYTE
