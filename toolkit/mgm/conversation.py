"""Text of MGM: Gemma's turn template, token ids with a placeholder for the image, labels on the answers alone.

One round reads `<start_of_turn>user\\nQ<end_of_turn>\\n<start_of_turn>model\\nA<end_of_turn>\\n<eos>`;
`<bos>` stands once at the start. Supervised are the answer, its `<end_of_turn>`, the newline and `<eos>`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from toolkit.errors import RowFault

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IMAGE_TOKEN = "<image>"
IMAGE_TOKEN_INDEX = -200
IGNORE_INDEX = -100

QUESTION_TURN = "<start_of_turn>user\n{}<end_of_turn>\n"
ANSWER_HEADER = "<start_of_turn>model\n"
ANSWER_END = "<end_of_turn>\n<eos>"
# Gemma's tokenizer falls back on bytes, at most four per character in UTF-8.
TOKENS_PER_CHARACTER = 4


def encode_conversation(
    conversations: list[dict[str, str]], tokenizer: PreTrainedTokenizerBase, has_image: bool, max_length: int
) -> tuple[list[int], list[int]]:
    """Token ids and labels of one training sample.

    Args:
        conversations: LLaVA-format turns `{"from": "human" | "gpt", "value": text}`. A leading gpt turn is left out, as
            the reference does.
        tokenizer: Gemma's, or one of the same layout.
        has_image: the sample brings an image; `<image>` then stands for it, else it is ordinary text.
        max_length: a text-only sample is cut to this many tokens here; one with an image only after the image's
            tokens are known (see `require_supervision` and the model).

    Returns:
        ids and labels of equal length; IMAGE_TOKEN_INDEX where the image goes, IGNORE_INDEX where nothing is learnt.

    Raises:
        RowFault: unknown_role, roles_not_alternating, question_without_answer, image_in_two_turns, empty_question,
            empty_answer, image_in_answer, special_token_in_text. The reference trains such samples wrongly or not at
            all, in silence.
    """
    ids, labels = [tokenizer.bos_token_id], [IGNORE_INDEX]
    for question, answer in _rounds(conversations, tokenizer, has_image):
        prompt = QUESTION_TURN.format(question) + ANSWER_HEADER
        prompt_length = len(_tokenise(prompt, tokenizer, has_image))
        # The round is tokenised in one piece: an answer that starts with a newline merges with the header's.
        round_ids = _tokenise(prompt + answer + ANSWER_END, tokenizer, has_image)
        ids += round_ids
        labels += [IGNORE_INDEX] * prompt_length + round_ids[prompt_length:]
    if not has_image:
        ids, labels = ids[:max_length], labels[:max_length]
    return ids, labels


def require_trainable(
    conversations: list[dict[str, str]],
    tokenizer: PreTrainedTokenizerBase,
    has_image: bool,
    max_length: int,
    image_tokens: int,
) -> None:
    """Refuse a sample that `encode_conversation` refuses, or that leaves nothing to learn at `max_length`.

    Only a sample whose first question is long is tokenised: of any other, the first answer surely begins in time.

    Args:
        conversations, tokenizer, has_image, max_length: as in `encode_conversation`.
        image_tokens: how many tokens an image takes.

    Raises:
        RowFault: those of `encode_conversation` and `require_supervision`.
    """
    question, _ = _rounds(conversations, tokenizer, has_image)[0]
    prompt = QUESTION_TURN.format(question) + ANSWER_HEADER
    if TOKENS_PER_CHARACTER * len(prompt) + image_tokens + 1 < max_length:
        return
    ids, labels = encode_conversation(conversations, tokenizer, has_image, max_length)
    require_supervision(labels, max_length, image_tokens if IMAGE_TOKEN_INDEX in ids else 0)


def require_supervision(labels: list[int], max_length: int, image_tokens: int) -> None:
    """Refuse a sample that leaves nothing to learn once it is cut to `max_length`.

    Args:
        labels: as `encode_conversation` returns them.
        max_length: tokens kept of the expanded sample.
        image_tokens: how many tokens the image takes (0 without one).

    Raises:
        RowFault: `nothing_supervised`.
    """
    kept = max_length - max(image_tokens - 1, 0)
    if all(label == IGNORE_INDEX for label in labels[:kept]):
        raise RowFault("nothing_supervised", f"the first {max_length} tokens hold no answer")


def encode_prompt(question: str, tokenizer: PreTrainedTokenizerBase, has_image: bool) -> list[int]:
    """Token ids of one question with the answer's turn left open; an image's placeholder comes first."""
    text = f"{IMAGE_TOKEN}\n{question}" if has_image else question
    prompt = QUESTION_TURN.format(text) + ANSWER_HEADER
    return [tokenizer.bos_token_id, *_tokenise(prompt, tokenizer, has_image)]


def _rounds(conversations: list[dict], tokenizer: PreTrainedTokenizerBase, has_image: bool) -> list[tuple[str, str]]:
    """Questions, the image's placeholder in front, and their answers. Raises the faults of `encode_conversation`."""
    turns = [(turn["from"], turn["value"]) for turn in conversations]
    for role, _ in turns:
        if role not in ("human", "gpt"):
            raise RowFault("unknown_role", f"a turn is from {role!r}, expected human or gpt")
    if turns and turns[0][0] == "gpt":
        turns = turns[1:]
    if any(role != ("human", "gpt")[number % 2] for number, (role, _) in enumerate(turns)):
        raise RowFault("roles_not_alternating", "expected human and gpt in turn")
    if not turns or len(turns) % 2:
        raise RowFault("question_without_answer", "the conversation ends before an answer")
    if has_image and sum(IMAGE_TOKEN in question for _, question in turns[::2]) > 1:
        raise RowFault("image_in_two_turns", f"{IMAGE_TOKEN} in several questions, expected one for the one image")
    # The attention mask leaves out padding, so a <pad> within a text would be a hole in it.
    marks = (tokenizer.eos_token, tokenizer.pad_token, ANSWER_HEADER)
    rounds = []
    for (_, question), (_, answer) in zip(turns[::2], turns[1::2], strict=True):
        if has_image:
            if IMAGE_TOKEN in answer:
                raise RowFault("image_in_answer", f"the answer {answer[:60]!r} holds {IMAGE_TOKEN}")
            if IMAGE_TOKEN in question:
                question = f"{IMAGE_TOKEN}\n{question.replace(IMAGE_TOKEN, '').strip()}".strip()
        if not question.strip():
            raise RowFault("empty_question", f"no question before {answer[:60]!r}")
        if not answer:
            raise RowFault("empty_answer", f"no answer to {question[:60]!r}")
        for text in (question, answer):
            if mark := next((mark for mark in marks if mark in text), None):
                raise RowFault("special_token_in_text", f"{mark!r} inside {text[:60]!r}")
        rounds.append((question, answer))
    return rounds


def _tokenise(text: str, tokenizer: PreTrainedTokenizerBase, has_image: bool) -> list[int]:
    pieces = text.split(IMAGE_TOKEN) if has_image else [text]
    encoded = (tokenizer(piece, add_special_tokens=False).input_ids for piece in pieces)
    return [token for ids in encoded for token in (IMAGE_TOKEN_INDEX, *ids)][1:]  # it stands between the pieces
