"""Letters of free answers, on a written list of forms; `answer_forms.tsv` says where and why other kits read otherwise.

Its columns `vlmevalkit` and `lmms_eval` are what the rules of those kits say, without the language model that both ask
about an answer which their rules do not understand.
"""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.eval.letters import MAX_LENGTH, read_letter

OPTIONS = {
    "animals": "A a cat|B a dog|C a bird|D two horses",
    "five": "A a cat|B a dog|C a bird|D a fish|E a horse",
    "colours": "A red|B blue|C dark blue|D green",
    "mixed": "A the bus|B the bird|C vitamin C|D a dog",
    "yesno": "A yes|B no",
    "numbers": "A 1|B 2|C 3|D 12",
    "all": "A a cat|B a dog|C both|D none of the above",
    "holes": "A a cat|C a bird",
    "letters": "A B|B A|C D|D C",
    "chinese": "A 一只猫|B 一只狗|C 一只鸟|D 两匹马",
}
OFFERED = {name: {option[0]: option[2:] for option in options.split("|")} for name, options in OPTIONS.items()}
FORMS_FILE = Path(__file__).with_name("answer_forms.tsv")
FORMS = list(csv.DictReader(FORMS_FILE.open(encoding="utf-8", newline=""), delimiter="\t", quoting=csv.QUOTE_NONE))
CHEAP = settings(max_examples=60, deadline=None, derandomize=True)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form["answer"] or "empty")
def test_forms(form: dict[str, str]) -> None:
    answer = form["answer"].replace("\\n", "\n")
    reading = read_letter(answer, OFFERED[form["options"]])
    assert reading.letter == (form["letter"] or None), reading.how


def test_the_list_is_long_and_argues_each_disagreement() -> None:
    assert len({(form["answer"], form["options"]) for form in FORMS}) >= 150
    for form in FORMS:
        disagrees = {form["vlmevalkit"], form["lmms_eval"]} != {form["letter"]}
        assert disagrees == bool(form["reason"]), form


def test_two_options_of_one_text_and_long_answers_mean_none() -> None:
    assert read_letter("same", {"A": "same", "B": "same"}).letter is None
    assert read_letter("B " * MAX_LENGTH, OFFERED["animals"]).letter is None


@pytest.mark.parametrize("piece", ["<answer>", "\\boxed{", "(", "$", "not ", "答案", "the answer is ", "A or ", "**"])
def test_repeated_marks_are_read_to_the_end(piece: str) -> None:
    """Nested <answer> tags once took one call of the function each."""
    for end in ("", "B", "}" * 9):
        assert read_letter(piece * (MAX_LENGTH // len(piece) - 9) + end, OFFERED["animals"]).how


WORDS = st.sampled_from(
    [*"ABCDE", "a", "b", "(", ")", ".", ":", "answer", "is", "not", "选", "答案是", "不", "a dog", "一只狗", "\\boxed{",
     "}", "<answer>", "</s>", "$", "or", "和", "\n", "I", "because", "**"]
)  # fmt: skip


@CHEAP
@given(st.one_of(st.text(max_size=60), st.lists(WORDS, max_size=12).map(" ".join)), st.sampled_from([*OFFERED]))
def test_any_text_gets_an_offered_letter_or_none(answer: str, name: str) -> None:
    options = OFFERED[name]
    reading = read_letter(answer, options)
    assert reading.letter in {None, *options}
    assert reading.how
    # What a template leaves around an answer, and blanks, decide nothing.
    assert read_letter(f"\n {answer}</s> ", options).letter == reading.letter


@CHEAP
@given(
    st.sampled_from("ABCD"),
    st.sampled_from(["{}", "({})", "{}.", "The answer is {}.", "选{}", "答案：{}", "\\boxed{{{}}}"]),
)
def test_every_letter_is_read_in_every_frame(letter: str, frame: str) -> None:
    assert read_letter(frame.format(letter), OFFERED["animals"]).letter == letter
    assert read_letter(f"not {letter}", OFFERED["animals"]).letter is None
