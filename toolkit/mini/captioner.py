"""The mini captioner: a small BLIP that writes a short caption for a scene, token by token.

It stands for the captioning models of the full challenge: useful, and sometimes wrong.
"""

from __future__ import annotations

import random
from pathlib import Path

import torch
from transformers import BertTokenizerFast, BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

from toolkit.mini import captions
from toolkit.mini.clip import DenseHeads
from toolkit.mini.scenes import SIDE, SIGN_WORDS, draw_scene
from toolkit.mini.schooling import Schooling, crowd_batch, dense_labels, scene_batch

WIDTH, VISION_LAYERS, TEXT_LAYERS, HEADS, TEXT_LENGTH = 128, 3, 2, 4, 32
STEPS, BATCH, CROWD, LEARNING_RATE = 700, 20, 8, 1.2e-3
PATCH = 16  # px, on the full 192 px: about one letter of a sign
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]")


def build_captioner(folder: Path, steps: int = STEPS) -> None:
    """Train the model and store it, with its processor, in `folder`."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rng = random.Random("captioner")
    processor = _processor(folder)
    tokenizer = processor.tokenizer
    model = BlipForConditionalGeneration(_config(tokenizer))
    heads = DenseHeads()
    schooling = Schooling("captioner", [*model.parameters(), *heads.parameters()], LEARNING_RATE, steps)
    model.train()
    start = tokenizer.convert_tokens_to_ids("[DEC]")
    for _ in range(steps):
        scenes, x, labels = scene_batch(rng, BATCH)
        texts = tokenizer([captions.true_caption(scene, rng) for scene in scenes], padding=True, return_tensors="pt")
        ids = texts.input_ids
        ids[:, 0] = start
        targets = ids.masked_fill(texts.attention_mask == 0, -100)
        outputs = model(pixel_values=x, input_ids=ids, attention_mask=texts.attention_mask, labels=targets)
        crowd_pixels, crowd_labels = crowd_batch(rng, signs=CROWD // 2, objects=CROWD // 2)
        crowd_states = model.vision_model(crowd_pixels).last_hidden_state
        states = torch.cat([outputs.last_hidden_state, crowd_states])
        losses = heads.losses(states[:, 1:], dense_labels(labels + crowd_labels, SIDE // PATCH))
        losses["caption"] = outputs.loss
        schooling.step(losses)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def _config(tokenizer: BertTokenizerFast) -> BlipConfig:
    common = {
        "hidden_size": WIDTH, "intermediate_size": 3 * WIDTH, "num_attention_heads": HEADS, "projection_dim": WIDTH,
    }  # fmt: skip
    text = {
        "vocab_size": len(tokenizer), "encoder_hidden_size": WIDTH, "num_hidden_layers": TEXT_LAYERS,
        "max_position_embeddings": 160, "bos_token_id": tokenizer.convert_tokens_to_ids("[DEC]"),
        "eos_token_id": tokenizer.sep_token_id, "sep_token_id": tokenizer.sep_token_id,
        "pad_token_id": tokenizer.pad_token_id, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
        "label_smoothing": 0.0,
    }  # fmt: skip
    vision = {"image_size": SIDE, "patch_size": PATCH, "num_hidden_layers": VISION_LAYERS}
    return BlipConfig(
        text_config=common | text, vision_config=common | vision, projection_dim=WIDTH, label_smoothing=0.0
    )


def _processor(folder: Path) -> BlipProcessor:
    """A WordPiece tokenizer that knows every word of the world's captions, and BLIP's image processor at 192 px."""
    rng = random.Random("captioner tokenizer")
    words = {word for _ in range(5000) for word in captions.true_caption(draw_scene(rng), rng).split()}
    vocabulary = [*SPECIAL_TOKENS, *sorted(words | set(SIGN_WORDS))]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in vocabulary), encoding="utf-8")
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"), do_lower_case=False, model_max_length=TEXT_LENGTH)
    return BlipProcessor(BlipImageProcessor(size={"height": SIDE, "width": SIDE}), tokenizer)
