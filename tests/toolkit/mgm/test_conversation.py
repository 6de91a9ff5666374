"""require_trainable: the quick verdict on a sample is the verdict of its tokens."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import TINY_TOKENIZER
from toolkit.errors import RowFault
from toolkit.mgm import conversation
from toolkit.mgm.checkpoint import load_tokenizer
from toolkit.mgm.conversation import (
    IGNORE_INDEX,
    IMAGE_TOKEN_INDEX,
    encode_conversation,
    require_supervision,
    require_trainable,
)

MAX_LENGTH, IMAGE_TOKENS = 500, 36
WORDS = ["why ", "\U0001f600", "\u732b", "\n\n", "e\u0301 "]  # of one, four, three bytes per character


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(TINY_TOKENIZER)


def turns(question, answer):
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def reason(function, *arguments):
    try:
        function(*arguments)
    except RowFault as fault:
        return fault.reason
    return None


def test_the_verdict_is_that_of_the_tokens(tokenizer):
    def slow(sample, has_image):
        ids, labels = encode_conversation(sample, tokenizer, has_image, MAX_LENGTH)
        require_supervision(labels, MAX_LENGTH, IMAGE_TOKENS if IMAGE_TOKEN_INDEX in ids else 0)

    verdicts = set()
    for word, count, image in itertools.product(WORDS, range(0, 600, 7), ("", "<image>\n")):
        sample = turns(image + word * count, "a cat")
        expected = reason(slow, sample, bool(image))
        found = reason(require_trainable, sample, tokenizer, bool(image), MAX_LENGTH, IMAGE_TOKENS)
        assert found == expected, (word, count, image)
        verdicts.add(found)
    assert verdicts == {None, "nothing_supervised", "empty_question"}


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        (turns("<image>\nwhy?", ""), "empty_answer"),
        (turns("<image>\nwhy?", "a <image>"), "image_in_answer"),
        (turns("<image>\nwhy?", "a <eos>"), "special_token_in_text"),
        (turns("<image>\nwhy?", "a <pad>"), "special_token_in_text"),
        (turns("<image>\na <pad>?", "a"), "special_token_in_text"),
        ([*turns("<image>\nwhy?", "a"), *turns("<image>\nand?", "b")], "image_in_two_turns"),
        ([*turns("<image>\nwhy?", "a"), *turns(" \n", "b")], "empty_question"),
        (turns("", "b"), "empty_question"),
        (turns("<image>\nwhy?", "a")[:1], "question_without_answer"),
        ([*turns("<image>\nwhy?", "a"), *turns("and?", "")], "empty_answer"),
    ],
)
def test_faults_are_found_without_tokens(tokenizer, monkeypatch, sample, expected):
    monkeypatch.setattr(conversation, "encode_conversation", lambda *_: pytest.fail("tokenised"))
    assert reason(require_trainable, sample, tokenizer, True, MAX_LENGTH, IMAGE_TOKENS) == expected
    assert reason(require_trainable, turns("<image>\nwhy?", "a"), tokenizer, True, MAX_LENGTH, IMAGE_TOKENS) is None


PIECES = st.sampled_from(
    ["<image>", "<eos>", "<pad>", "<bos>", "<end_of_turn>", "<start_of_turn>model\n", "\n", " ", "why?", "猫", "\0"]
)
TEXTS = st.one_of(st.text(max_size=12), st.lists(PIECES, max_size=4).map("".join))
IN_TURN = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=2).map(
    lambda rounds: [turn for question, answer in rounds for turn in (("human", question), ("gpt", answer))]
)
TURNS = st.lists(st.tuples(st.sampled_from(["human", "gpt", "human", "gpt", "system"]), TEXTS), max_size=5)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.one_of(TURNS, IN_TURN), st.booleans())
def test_any_conversation_is_trained_as_written_or_refused_by_name(tokenizer, said, has_image):
    sample = [{"from": role, "value": value} for role, value in said]
    try:
        ids, labels = encode_conversation(sample, tokenizer, has_image, MAX_LENGTH)
    except RowFault:
        return
    assert len(ids) == len(labels)
    assert all(label in (IGNORE_INDEX, token) for token, label in zip(ids, labels, strict=True))
    assert tokenizer.pad_token_id not in ids
    assert ids.count(IMAGE_TOKEN_INDEX) <= has_image
    assert IMAGE_TOKEN_INDEX not in labels
    # One <eos> a round, and each is learnt.
    assert ids.count(tokenizer.eos_token_id) == labels.count(tokenizer.eos_token_id) == len(said) // 2
