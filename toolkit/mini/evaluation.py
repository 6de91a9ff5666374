"""The two evaluation sets, in the file formats of TextVQA (LLaVA's question file) and MMBench (TSV)."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import random
from pathlib import Path

from toolkit.files import atomic_write, write_json, write_jsonl
from toolkit.mini.questions import CATEGORIES, Question, ask, find_question, options_of, textvqa_prompt
from toolkit.mini.scenes import Scene, draw_scene, render
from toolkit.mini.seed import JPEG_QUALITY, save_jpeg

TEXTVQA_QUESTIONS = 200
MMBENCH_QUESTIONS = 200
CIRCULAR_EVERY = 4  # one base question in four also comes with its options rotated
ROTATIONS = 3
MMBENCH_COLUMNS = (
    "index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image", "source", "l2-category",
    "comment", "split",
)  # fmt: skip
# What annotators might answer besides the plain word.
ASIDES = ("unanswerable", "a sign", "not sure", "the {answer}", "{answer} sign")


def build_textvqa(folder: Path, split: str, questions: int = TEXTVQA_QUESTIONS) -> None:
    """Write the TextVQA-format files of one split.

    Args:
        folder: gets `llava_textvqa_mini_ocr.jsonl`, `textvqa_mini_annotations.json` and `train_images/`.
        split: `test` or `dev`; the splits share no image.
        questions: how many; half ask for the sign's word, half for the thing next to it.
    """
    rows, data = [], []
    for number in range(questions):
        rng = random.Random(f"textvqa {split} {number}")
        scene = draw_scene(rng, "sign")
        question = ask(scene, "object" if number % 2 else "text", rng)
        image_id = hashlib.sha256(f"textvqa {split} {number}".encode()).hexdigest()[:16]
        save_jpeg(render(scene)[0], folder / "train_images" / f"{image_id}.jpg")
        text = textvqa_prompt(question, rng)
        rows.append({"question_id": image_id, "image": f"{image_id}.jpg", "text": text, "category": "default"})
        data.append({
            "question_id": image_id, "image_id": image_id, "question": question.text,
            "answers": _ten_answers(question, rng),
        })  # fmt: skip
    write_jsonl(folder / "llava_textvqa_mini_ocr.jsonl", rows)
    write_json(folder / "textvqa_mini_annotations.json", {"dataset_type": split, "data": data})


def _ten_answers(question: Question, rng: random.Random) -> list[str]:
    """Mostly the answer in lower case, as annotators write, with up to three that differ."""
    answer = question.answer.lower()
    answers = [answer] * 10
    for index in rng.sample(range(10), rng.randint(0, 3)):
        answers[index] = rng.choice(ASIDES).format(answer=answer)
    return answers


def build_mmbench(file: Path, split: str, questions: int = MMBENCH_QUESTIONS) -> None:
    """Write an MMBench-format TSV.

    Args:
        file: the TSV; its images are base64 JPEG in the `image` column.
        split: `test` or `dev`; the splits share no image.
        questions: base questions, the five categories in turn; rotated variants are added (index + k * 1e6).
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(file) as handle:
        writer = csv.DictWriter(handle, MMBENCH_COLUMNS, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        for number in range(questions):
            rng = random.Random(f"mmbench {split} {number}")
            scene, question = _scene_for(CATEGORIES[number % len(CATEGORIES)], rng)
            options = options_of(question, rng)
            image = _base64_jpeg(scene)
            for turn in range(1 + (ROTATIONS if number // len(CATEGORIES) % CIRCULAR_EVERY == 0 else 0)):
                turned = options[turn:] + options[:turn]
                writer.writerow({
                    "index": number + turn * 1_000_000, "question": question.text, "hint": "",
                    **dict(zip("ABCD", turned, strict=True)), "answer": "ABCD"[turned.index(question.answer)],
                    "category": question.category, "image": image, "source": "mini", "comment": "",
                    "l2-category": "reading" if question.category == "text" else "perception", "split": split,
                })  # fmt: skip


def _scene_for(category: str, rng: random.Random) -> tuple[Scene, Question]:
    """Draw scenes until one allows a question of the category."""
    while True:
        scene = draw_scene(rng)
        if category == "count" and scene.layout != "count" and rng.random() < 0.7:
            continue  # otherwise half the counts would be `one`
        if question := find_question(scene, category, rng):
            return scene, question


def _base64_jpeg(scene: Scene) -> str:
    buffer = io.BytesIO()
    render(scene)[0].save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
