"""A look at everything that the two benchmarks will read, before a model is trained for them."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from toolkit.dataset.images import inspect_images, opened
from toolkit.errors import RowFault, UserError
from toolkit.eval import mmbench, textvqa
from toolkit.eval.questions import Question
from toolkit.presets import Preset


def benchmark_files(preset: Preset) -> list[Path]:
    """Files of both benchmarks, images of TextVQA among them; those that are not needed to answer may be missing.

    Raises:
        UserError: the questions of TextVQA cannot be read.
    """
    questions = textvqa.read_questions(preset.textvqa.questions, preset.textvqa.images)
    images = sorted({question.image for question in questions if isinstance(question.image, Path)})
    files = [preset.textvqa.questions, preset.textvqa.annotations, preset.mmbench.questions]
    return [path for path in files if path.is_file()] + images


def look_at_benchmarks(preset: Preset) -> None:
    """Read all questions and decode all images.

    Raises:
        UserError: the first file, question or image that could not be used.
    """
    questions = textvqa.read_questions(preset.textvqa.questions, preset.textvqa.images)
    if preset.textvqa.annotations.is_file():
        textvqa.read_annotations(preset.textvqa.annotations)
    first = {question.image: question for question in reversed(questions) if isinstance(question.image, Path)}
    for path, found in inspect_images(
        [path for path in first if isinstance(path, Path)], preset.textvqa.images
    ).items():
        if isinstance(found, RowFault):
            _refuse(preset.textvqa.questions, first[path], found)
    table = mmbench.read_table(preset.mmbench.questions)
    mmbench.upload_columns(table)
    encoded = {question.image: question for question in reversed(mmbench.questions_of(table, "en"))}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for question, fault in zip(encoded.values(), pool.map(_fault_of, encoded.values()), strict=True):
            if fault:
                _refuse(preset.mmbench.questions, question, fault)


def _fault_of(question: Question) -> RowFault | None:
    try:
        with opened(question.image) as image:
            image.load()
    except RowFault as fault:
        return fault
    return None


def _refuse(file: Path, question: Question, fault: RowFault) -> None:
    raise UserError(f"{file}: question {question.question_id}: {fault}; evaluation needs every image; bring it again")
