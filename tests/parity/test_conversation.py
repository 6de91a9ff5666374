"""Token ids and labels against the reference, in all its 26 conversations; its faults are refused by name."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from transformers import AddedToken, AutoTokenizer, PreTrainedTokenizerBase

from toolkit.errors import RowFault
from toolkit.mgm.conversation import encode_conversation

FAULTS = {
    "empty_answer_image": "empty_answer",
    "empty_answer_text": "empty_answer",
    "empty_first_answer_multi": "empty_answer",
    "image_in_answer": "image_in_answer",
    "ends_with_human": "question_without_answer",
    "literal_eos_in_question": "special_token_in_text",
    "literal_model_turn_in_question": "special_token_in_text",
    "unknown_role": "unknown_role",
}


def check_all_conversations(goldens: Path, tokenizer: PreTrainedTokenizerBase, measured_as: str) -> None:
    golden = json.loads((goldens / "tokenisation.json").read_text())
    assert len(golden["samples"]) == 26
    for name, sample in golden["samples"].items():
        arguments = (sample["conversations"], tokenizer, "image" in sample, golden["model_max_length"])
        if name in FAULTS:
            with pytest.raises(RowFault) as fault:
                encode_conversation(*arguments)
            assert fault.value.reason == FAULTS[name]
        else:
            ids, labels = encode_conversation(*arguments)
            assert ids == golden[measured_as][name]["input_ids"], name
            assert labels == golden[measured_as][name]["labels"], name


def test_tiny_tokenizer(goldens: Path) -> None:
    check_all_conversations(goldens, AutoTokenizer.from_pretrained(goldens / "tiny_tokenizer"), "tiny")


@pytest.mark.parametrize("turn_tokens", [True, False])
def test_real_gemma_tokenizer(goldens: Path, turn_tokens: bool) -> None:
    """Gemma's own vocabulary: with the turn markers as special tokens (gemma-2b-it) and without (as some ship it)."""
    if "GEMMA_TOKENIZER" not in os.environ:
        pytest.skip("set GEMMA_TOKENIZER to a folder with Gemma's tokenizer.json to run this")
    tokenizer = AutoTokenizer.from_pretrained(os.environ["GEMMA_TOKENIZER"])
    marked = tokenizer.added_tokens_decoder.get(106)
    if turn_tokens:
        markers = [AddedToken(text, special=True, normalized=False) for text in ("<start_of_turn>", "<end_of_turn>")]
        tokenizer.add_special_tokens({"additional_special_tokens": markers})
        check_all_conversations(goldens, tokenizer, "gemma_npm_plus_turn_tokens")
    elif marked is None:
        check_all_conversations(goldens, tokenizer, "gemma_npm_as_shipped")
    else:
        pytest.skip("this folder declares the turn markers already")
