"""Questions about a scene, with their answers: free, for sign reading with OCR tokens, and multiple choice."""

from __future__ import annotations

import random
from dataclasses import dataclass

from toolkit.mini.captions import NUMBERS, number_of, ocr_tokens
from toolkit.mini.scenes import DISTRACTOR_WORDS, RELATIONS, SIGN_WORDS, Scene
from toolkit.mini.sprites import COLOURS, KINDS

CATEGORIES = ("object", "count", "colour", "relation", "text")
SHORT_ANSWER = "Answer the question using a single word or phrase."
LETTER_ANSWER = "Answer with the option's letter from the given choices directly."
SIGN_QUESTIONS = ("what is written on the sign?", "what does the sign say?", "what word is on the sign?")


@dataclass(frozen=True)
class Question:
    """One question with its right answer and the wrong answers that could stand beside it."""

    category: str
    text: str
    answer: str
    wrong: tuple[str, ...]


def ask(scene: Scene, category: str, rng: random.Random) -> Question:
    """A question of one category. Raises ValueError where the scene has nothing to ask about."""
    if question := find_question(scene, category, rng):
        return question
    raise ValueError(f"no question of category {category} about {scene}")


def find_question(scene: Scene, category: str, rng: random.Random) -> Question | None:
    """A question of one category, or None where the scene has nothing to ask about."""
    first = scene.things[0]
    if category == "object":
        return _ask_object(scene, rng)
    if category == "count" and scene.layout in ("count", "one"):
        plural = number_of(first.kind, 2)
        answer = NUMBERS[len(scene.things)]
        wrong = tuple(number for number in NUMBERS.values() if number != answer)
        return Question(category, f"how many {plural} are there?", answer, wrong)
    if category == "colour":
        coloured = [(thing.kind, thing.colour) for thing in scene.things if thing.colour]
        if coloured:
            kind, tint = rng.choice(coloured)
            noun = number_of(kind, scene.count)
            verb = "are" if scene.layout == "count" else "is"
            wrong = tuple(colour for colour in COLOURS if colour != tint)
            return Question(category, f"what colour {verb} the {noun}?", tint, wrong)
    if category == "relation" and scene.relation:
        second = scene.things[1]
        wrong = tuple(relation for relation in RELATIONS if relation != scene.relation)
        return Question(category, f"where is the {first.kind}, seen from the {second.kind}?", scene.relation, wrong)
    if category == "text" and scene.sign:
        wrong = tuple(word for word in SIGN_WORDS if word != scene.sign.word)
        return Question(category, rng.choice(SIGN_QUESTIONS), scene.sign.word, wrong)
    return None


def _ask_object(scene: Scene, rng: random.Random) -> Question:
    first = scene.things[0]
    present = {thing.kind for thing in scene.things}
    wrong = tuple(kind for kind in KINDS if kind not in present)
    if scene.sign:
        text = rng.choice(("what is next to the sign?", "what can be seen beside the sign?"))
    elif scene.relation:
        text = f"what is {scene.relation} the {scene.things[1].kind}?"
    else:
        text = rng.choice(("what is in the picture?", "what is shown here?"))
    return Question("object", text, first.kind, wrong)


def ask_any(scene: Scene, rng: random.Random) -> Question:
    """A question of any category that the scene allows."""
    questions = [question for category in CATEGORIES if (question := find_question(scene, category, rng))]
    return rng.choice(questions)


def textvqa_prompt(question: Question, rng: random.Random) -> str:
    """The question in the wording of LLaVA's TextVQA file, OCR tokens included."""
    if question.category == "text":
        tokens = ocr_tokens(question.answer, rng)
    else:
        tokens = rng.sample(SIGN_WORDS + DISTRACTOR_WORDS, 3)
    return f"{question.text}\nReference OCR token: {', '.join(tokens)}\n{SHORT_ANSWER}"


def options_of(question: Question, rng: random.Random) -> list[str]:
    """Four options in random order, the right one among them."""
    options = [question.answer, *rng.sample(question.wrong, 3)]
    rng.shuffle(options)
    return options


def choice_prompt(text: str, options: list[str]) -> str:
    """A multiple-choice question in the wording MMBench is asked in."""
    lines = [f"{letter}. {option}" for letter, option in zip("ABCD", options, strict=False)]
    return "\n".join([text, *lines, LETTER_ANSWER])
