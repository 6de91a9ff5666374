"""TextVQA: questions about the writing in an image, scored by the official soft accuracy.

Formats: LLaVA's question file `llava_textvqa_val_v051_ocr.jsonl` and the data set's own `TextVQA_0.5.1_val.json`.
"""

from __future__ import annotations

import re
from pathlib import Path

from toolkit.dataset.rows import normal_image_path
from toolkit.errors import RowFault, UserError
from toolkit.eval.questions import Question
from toolkit.files import read_json, read_jsonl

ANSWERS_PER_QUESTION = 10

ARTICLES = ("a", "an", "the")
NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
DIGITS = {"none": "0", **{word: str(number) for number, word in enumerate(NUMBER_WORDS)}}
# Colon, dollar sign, apostrophe and full stop are not among them.
PUNCTUATION = ';/[]"{}()=+\\_->@<`!'
# The official table maps a contraction that lost one apostrophe to the whole one. Forms of "I" are missing on purpose:
# the table has them in upper case, the words it is asked for are in lower case.
CONTRACTIONS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock
oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've
y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
REPAIRED = {
    whole[:index] + whole[index + 1 :]: whole
    for whole in CONTRACTIONS.split()
    for index, character in enumerate(whole)
    if character == "'"
}
REPAIRED["somebody'd"] = "somebodyd"  # the official table has this one the wrong way round
FULL_STOPS_DROPPED = 32  # the official code passes a flag of this value where the count belongs


def read_questions(path: Path, images: Path) -> list[Question]:
    """Read the question file, in its order.

    Args:
        path: jsonl with `question_id, image, text`; the text holds the OCR reference tokens and the instruction.
        images: folder of the images.

    Raises:
        UserError: the file is missing, or a line lacks a field or names an image outside the folder.
    """
    questions = []
    for number, row in read_jsonl(path):
        for key in ("question_id", "image", "text"):
            if key not in row:
                raise UserError(
                    f"{path}:{number}: field {key!r} is missing; a TextVQA question has question_id, image, text"
                )
        if not isinstance(row["question_id"], (str, int)) or not isinstance(row["text"], str):
            raise UserError(f"{path}:{number}: expected a question_id, and the question as text, found {row!r:.80}")
        try:
            image = normal_image_path(str(row["image"]))
        except RowFault as fault:
            raise UserError(f"{path}:{number}: {fault}") from None
        questions.append(Question(row["question_id"], images / image, row["text"]))
    return questions


def read_annotations(path: Path) -> dict[tuple[str, str], list[str]]:
    """Read the official answers: (image's id, question in lower case) -> ten answers.

    Raises:
        UserError: the file is missing or not in the official layout.
    """
    document = read_json(path)
    expected = f'{path}: expected {{"data": [{{"image_id", "question", "answers": [10 texts]}}, ...]}}'
    if not isinstance(document, dict) or not isinstance(document.get("data"), list) or not document["data"]:
        raise UserError(expected)
    annotations = {}
    for number, entry in enumerate(document["data"]):
        if not isinstance(entry, dict) or not {"image_id", "question", "answers"} <= entry.keys():
            raise UserError(f"{expected}, entry {number} differs")
        answers = entry["answers"]
        if not isinstance(entry["question"], str) or not (
            isinstance(answers, list) and all(isinstance(answer, str) for answer in answers)
        ):
            raise UserError(f"{expected}, entry {number} has another question or answers than texts")
        if len(entry["answers"]) != ANSWERS_PER_QUESTION:
            raise UserError(
                f"{path}: entry {number} has {len(entry['answers'])} answers, expected {ANSWERS_PER_QUESTION}"
            )
        annotations[str(entry["image_id"]), entry["question"].lower()] = entry["answers"]
    return annotations


def annotation_key(question_id: str | int, prompt: str) -> tuple[str, str]:
    """Key of `read_annotations` for an answer line: the question is the prompt's first line (the second, if the
    OCR tokens come first)."""
    lines = prompt.split("\n")
    question = lines[1] if len(lines) > 1 and lines[0].startswith("Reference OCR token:") else lines[0]
    return str(question_id), question.lower()


def normalise(answer: str) -> str:
    """An answer as the official evaluator compares it (M4C's, from the VQA challenge), its quirks included.

    Lower case, number words as digits, no articles, no punctuation, apostrophes put back; "john's" becomes "john 's",
    and the answer "a" becomes "".
    """
    text = answer.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = text.replace("\n", " ").replace("\t", " ").strip()
    cleaned = text
    for mark in PUNCTUATION:
        # A mark that touches a space anywhere goes everywhere; one that only joins words becomes a space.
        touches_space = f"{mark} " in text or f" {mark}" in text
        cleaned = cleaned.replace(mark, "" if touches_space else " ")
    cleaned = re.sub(r"\.(?!\d)", "", cleaned, count=FULL_STOPS_DROPPED)
    words = (DIGITS.get(word, word) for word in cleaned.lower().split())
    return " ".join(REPAIRED.get(word, word) for word in words if word not in ARTICLES)


def soft_accuracy(prediction: str, answers: list[str]) -> float:
    """Official soft accuracy of one prediction, 0 to 1.

    A prediction found among n answers scores min(1, n / 3), averaged over the ten ways to leave one answer out.

    Raises:
        ValueError: there are not exactly ten answers.
    """
    if len(answers) != ANSWERS_PER_QUESTION:
        raise ValueError(f"expected {ANSWERS_PER_QUESTION} answers, found {len(answers)}")
    found = normalise(prediction)
    matches = [normalise(answer) == found for answer in answers]
    return sum(min(1.0, (sum(matches) - left_out) / 3) for left_out in matches) / ANSWERS_PER_QUESTION
