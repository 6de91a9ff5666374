"""The mini Gemma's tokenizer: byte-fallback BPE in Gemma's layout, trained on the world's own text."""

from __future__ import annotations

import json
import random
import string
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from toolkit.dataset.llava import CAPTION_PROMPTS
from toolkit.files import write_json
from toolkit.mini import captions
from toolkit.mini.questions import ask_any, choice_prompt, options_of, textvqa_prompt
from toolkit.mini.scenes import DISTRACTOR_WORDS, SIGN_WORDS, draw_scene
from toolkit.mini.sprites import COLOURS, KINDS

SPECIAL_TOKENS = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>")
VOCABULARY = 1536
SPACE = "▁"


def build_tokenizer(folder: Path) -> None:
    """Train the tokenizer and store `tokenizer.json`, `tokenizer_config.json` and `special_tokens_map.json`."""
    byte_tokens = [f"<0x{value:02X}>" for value in range(256)]
    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.Replace(" ", SPACE)
    # Merges stay within words, as in SentencePiece; the stored tokenizer needs no such split any more.
    words = Regex(f"{SPACE}?[^{SPACE}\\s[:punct:]]+|{SPACE}|\\s|[[:punct:]]")
    learner.pre_tokenizer = pre_tokenizers.Split(words, "isolated")
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[*SPECIAL_TOKENS, *byte_tokens],
        initial_alphabet=[*string.printable[:95].replace(" ", ""), "\n", SPACE],
        limit_alphabet=180,
        show_progress=False,
    )
    learner.train_from_iterator(_corpus(), trainer)
    learnt = json.loads(learner.to_str())["model"]

    tokenizer = Tokenizer(
        models.BPE(
            vocab=learnt["vocab"],
            merges=[tuple(pair) for pair in learnt["merges"]],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos>:1 $B:1", special_tokens=[("<bos>", SPECIAL_TOKENS.index("<bos>"))]
    )
    tokenizer.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {
        "bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>",
        "additional_special_tokens": ["<start_of_turn>", "<end_of_turn>"],
    }  # fmt: skip
    write_json(folder / "special_tokens_map.json", names)
    write_json(folder / "tokenizer_config.json", {
        **names, "add_bos_token": True, "add_eos_token": False, "clean_up_tokenization_spaces": False,
        "model_max_length": 2048, "tokenizer_class": "GemmaTokenizer",
    })  # fmt: skip


def _corpus():
    """Text of every kind the world holds; the words that are answers also without a space before them."""
    rng = random.Random("tokenizer")
    for _ in range(3000):
        scene = draw_scene(rng)
        question = ask_any(scene, rng)
        yield captions.true_caption(scene, rng)
        yield textvqa_prompt(question, rng)
        yield choice_prompt(question.text, options_of(question, rng))
        yield rng.choice((captions.boilerplate, captions.too_short))(rng)
        yield rng.choice((captions.foreign_caption, captions.rambling_caption))(scene, rng)
        yield "<start_of_turn>user\nmodel\n" + rng.choice(CAPTION_PROMPTS)
    words = [*KINDS, *(captions.number_of(kind, 2) for kind in KINDS), *COLOURS, *SIGN_WORDS, *DISTRACTOR_WORDS]
    words += ["left", "right", "above", "below", *captions.NUMBERS.values(), *(word.lower() for word in SIGN_WORDS)]
    for word in words:
        yield from [word, f" {word}"] * 200
