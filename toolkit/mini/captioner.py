"""The mini captioner: a small BLIP that writes a short caption for a scene, token by token.

It takes the role of the full challenge's captioning models: useful, and sometimes wrong. A sign's word cannot be read
at its 96 px, so it learns to mention signs without their words.
"""

from __future__ import annotations

import random
from pathlib import Path

import torch
from transformers import (
    BertTokenizerFast,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    CLIPModel,
)

from toolkit.mini import captions
from toolkit.mini.clip import DenseHeads, count_labels
from toolkit.mini.scenes import SIGN_WORDS, draw_scene
from toolkit.mini.training import IGNORED, MAIN_SIDE, MiniTrainer, crowd_batch, dense_labels, main_pixels, scene_batch

WIDTH, VISION_LAYERS, TEXT_LAYERS, HEADS, TEXT_LENGTH = 128, 4, 2, 4, 32
STEPS, BATCH, CROWD, LEARNING_RATE = 4000, 24, 12, 1.5e-3
PATCH = 16  # px
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def build_captioner(folder: Path, clip_folder: Path, steps: int = STEPS) -> None:
    """Train the model, its vision half initialised from CLIP's, and store it with its processor in `folder`."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rng = random.Random("captioner")
    processor = _processor(folder)
    tokenizer = processor.tokenizer
    model = BlipForConditionalGeneration(_config(tokenizer))
    copy_clip_vision(model, CLIPModel.from_pretrained(clip_folder))
    heads = DenseHeads()
    trainer = MiniTrainer("captioner", [*model.parameters(), *heads.parameters()], LEARNING_RATE, steps)
    model.train()
    for _ in range(steps):
        scenes, x, labels = scene_batch(rng, BATCH)
        texts = [captions.true_caption(scene, rng, reads=False) for scene in scenes]
        tokens = tokenizer(texts, padding=True, return_tensors="pt")
        targets = tokens.input_ids.masked_fill(tokens.attention_mask == 0, IGNORED)
        outputs = model(
            pixel_values=main_pixels(x),
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
            labels=targets,
        )
        crowd_pixels, crowd_labels = crowd_batch(rng, signs=0, objects=CROWD)
        crowd_states = model.vision_model(main_pixels(crowd_pixels)).last_hidden_state
        states = torch.cat([outputs.last_hidden_state, crowd_states])
        dense = dense_labels(labels + crowd_labels, MAIN_SIDE // PATCH)
        dense["count"] = count_labels(scenes, dense["object"])
        losses = heads.losses(states[:, 1:], dense)
        losses["caption"] = outputs.loss
        trainer.step(losses)
    # Half the megabytes; Data-Juicer's transformers loads them as fp32 again.
    model.half().save_pretrained(folder)
    processor.save_pretrained(folder)


@torch.no_grad()
def copy_clip_vision(model: BlipForConditionalGeneration, clip: CLIPModel) -> None:
    """Copy the weights of CLIP's vision half to BLIP's, which has the same layers except the first norm.

    One factor that gives an average embedding the same size replaces that norm.
    """
    source, target = clip.vision_model, model.vision_model
    embeddings = source.embeddings(torch.zeros(1, 3, MAIN_SIDE, MAIN_SIDE))
    factor = source.pre_layrnorm(embeddings).std() / embeddings.std()
    target.embeddings.class_embedding.copy_(factor * source.embeddings.class_embedding)
    target.embeddings.position_embedding.copy_(factor * source.embeddings.position_embedding.weight[None])
    target.embeddings.patch_embedding.weight.copy_(factor * source.embeddings.patch_embedding.weight)
    target.embeddings.patch_embedding.bias.zero_()
    target.post_layernorm.load_state_dict(source.post_layernorm.state_dict())
    for to, layer in zip(target.encoder.layers, source.encoder.layers, strict=True):
        attention = layer.self_attn
        inputs = (attention.q_proj, attention.k_proj, attention.v_proj)
        to.self_attn.qkv.weight.copy_(torch.cat([projection.weight for projection in inputs]))
        to.self_attn.qkv.bias.copy_(torch.cat([projection.bias for projection in inputs]))
        to.self_attn.projection.load_state_dict(attention.out_proj.state_dict())
        to.layer_norm1.load_state_dict(layer.layer_norm1.state_dict())
        to.layer_norm2.load_state_dict(layer.layer_norm2.state_dict())
        to.mlp.load_state_dict(layer.mlp.state_dict())


def _config(tokenizer: BertTokenizerFast) -> BlipConfig:
    common = {
        "hidden_size": WIDTH, "intermediate_size": 3 * WIDTH, "num_attention_heads": HEADS, "projection_dim": WIDTH,
    }  # fmt: skip
    text = {
        "vocab_size": len(tokenizer), "encoder_hidden_size": WIDTH, "num_hidden_layers": TEXT_LAYERS,
        "max_position_embeddings": 160, "bos_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id, "sep_token_id": tokenizer.sep_token_id,
        "pad_token_id": tokenizer.pad_token_id, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
        "label_smoothing": 0.0,
    }  # fmt: skip
    vision = {
        "image_size": MAIN_SIDE,
        "patch_size": PATCH,
        "num_hidden_layers": VISION_LAYERS,
        "hidden_act": "quick_gelu",
    }
    return BlipConfig(
        text_config=common | text, vision_config=common | vision, projection_dim=WIDTH, label_smoothing=0.0
    )


def _processor(folder: Path) -> BlipProcessor:
    """A WordPiece tokenizer with every word of the world's captions, and BLIP's image processor."""
    rng = random.Random("captioner tokenizer")
    words = {word for _ in range(5000) for word in captions.true_caption(draw_scene(rng), rng).split()}
    vocabulary = [*SPECIAL_TOKENS, *sorted(words | set(SIGN_WORDS))]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in vocabulary), encoding="utf-8")
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"), do_lower_case=False, model_max_length=TEXT_LENGTH)
    return BlipProcessor(BlipImageProcessor(size={"height": MAIN_SIDE, "width": MAIN_SIDE}), tokenizer)
