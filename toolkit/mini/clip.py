"""The mini CLIP: scores how well a caption fits an image; its vision half is MGM's main tower.

Besides matching images with captions it learns dense labels on the layer MGM takes its tokens from, to distinguish a
caption from one with a single wrong detail, and to answer the same questions of fact from an image's embedding and from
a caption's, with the same heads: which things, of which colour, where, how many. The heads are not stored.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import nn
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizerFast

from toolkit.files import write_json
from toolkit.mini import captions
from toolkit.mini.scenes import BACKGROUNDS, Scene, draw_scene
from toolkit.mini.sprites import COLOURS, KINDS
from toolkit.mini.training import (
    IGNORED,
    MAIN_SIDE,
    NATURAL,
    NO_OBJECT,
    NO_WORD,
    MiniTrainer,
    crowd_batch,
    dense_labels,
    main_pixels,
    scene_batch,
)

WIDTH, LAYERS, TEXT_LAYERS, HEADS = 128, 4, 2, 4
VOCABULARY, TEXT_LENGTH = 1280, 40
STEPS, BATCH, CROWD, LEARNING_RATE = 7000, 32, 20, 1.5e-3
PATCHES = MAIN_SIDE // 16
MOST = 4  # things of one kind
POSITIONS = ("alone", "left of", "right of", "above", "below")  # of a thing relative to the other
FACTS_WEIGHT = 0.3
RESIDUAL_SCALE = 0.2
SIMILARITY_SCALE = 100.0  # CLIP's own; Data-Juicer divides by it, so its score is a cosine


def build_clip(folder: Path, steps: int = STEPS) -> None:
    """Train the model and store it, with tokenizer and image processor, in `folder`."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rng = random.Random("clip")
    processor = _processor(folder)
    tokenizer = processor.tokenizer
    model = CLIPModel(_config(tokenizer))
    heads, facts = DenseHeads(), FactHeads()
    nn.init.constant_(model.logit_scale, math.log(10))
    learning = [*model.parameters(), *heads.parameters(), *facts.parameters()]
    trainer = MiniTrainer("clip", learning, LEARNING_RATE, steps)
    for _ in range(steps):
        scenes, x, labels = scene_batch(rng, BATCH)
        described = scenes + [captions.half_wrong_scene(scene, rng)[0] for scene in scenes]
        texts = [captions.true_caption(scene, rng) for scene in described]
        tokens = tokenizer(texts, padding=True, return_tensors="pt")
        crowd_pixels, crowd_labels = crowd_batch(rng, signs=0, objects=CROWD)
        vision = model.vision_model(main_pixels(torch.cat([x, crowd_pixels])), output_hidden_states=True)
        image = model.visual_projection(vision.pooler_output[:BATCH])
        text = model.text_projection(model.text_model(**tokens).pooler_output)
        similarity = F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T  # [B, 2B]
        targets = dense_labels(labels + crowd_labels, PATCHES)
        targets["count"] = count_labels(scenes, targets["object"])
        losses = heads.losses(vision.hidden_states[-2][:, 1:], targets)
        losses["match"] = contrast(model.logit_scale.exp().clamp(max=SIMILARITY_SCALE) * similarity)
        losses["seen"] = facts.loss(image, [facts_of(scene) for scene in scenes])
        losses["read"] = facts.loss(text, [facts_of(scene, text) for scene, text in zip(described, texts, strict=True)])
        trainer.step(losses)
    with torch.no_grad():
        model.logit_scale.fill_(math.log(SIMILARITY_SCALE))
    scale_residual(model, RESIDUAL_SCALE)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


@torch.no_grad()
def scale_residual(model: CLIPModel, factor: float) -> None:
    """Shrink the vision half's residual stream; every layer norm undoes it, so the model's outputs stay the same.

    MGM adds the output of patch info mining to these tokens. Against tokens of this CLIP's original size (rms 1.6) a
    new adapter (rms 0.4) would need far more than the mini world's few dozen steps to have an effect.
    """
    vision = model.vision_model
    scaled: list[nn.Module] = [vision.pre_layrnorm]
    for layer in vision.encoder.layers:
        scaled += [layer.self_attn.out_proj, layer.mlp.fc2]
    for module in scaled:
        module.weight.mul_(factor)
        module.bias.mul_(factor)


def contrast(similarity: torch.Tensor) -> torch.Tensor:
    """CLIP's loss over a batch whose texts include the half-wrong captions.

    Args:
        similarity: [B, 2B] scaled similarities; text i fits image i, text B + i is its half-wrong caption.
    """
    size = len(similarity)
    own = torch.arange(size)
    to_text = F.cross_entropy(similarity, own)
    to_image = F.cross_entropy(similarity[:, :size].T, own)
    detail = F.softplus(similarity[own, own + size] - similarity[own, own]).mean()
    return (to_text + to_image) / 2 + detail


class DenseHeads(nn.Module):
    """Linear classifiers of each patch's content on the layer MGM uses."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        classes = {"object": NO_OBJECT + 1, "colour": NATURAL + 1, "word": NO_WORD + 1, "count": MOST + 1}
        self.heads = nn.ModuleDict({name: nn.Linear(WIDTH, count) for name, count in classes.items()})

    def losses(self, tokens: torch.Tensor, targets: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Cross-entropies of [B, 36, width] tokens against the labels of a 6 x 6 grid."""
        tokens = self.norm(tokens).flatten(0, 1)
        losses = {}
        for name, head in self.heads.items():
            logits = head(tokens)
            weight = torch.ones(logits.shape[-1])
            if name in ("object", "word"):
                weight[-1] = 0.2
            losses[name] = 0.5 * F.cross_entropy(logits, targets[name].flatten(), weight, ignore_index=IGNORED)
        return losses


def count_labels(scenes: list[Scene], objects: torch.Tensor) -> torch.Tensor:
    """How many objects of its kind there are, at each cell that shows one; IGNORED elsewhere and past the last scene.

    Args:
        scenes: of the first images.
        objects: [B, grid, grid] classes.
    """
    counts = torch.full_like(objects, IGNORED)
    for number, scene in enumerate(scenes):
        counts[number][objects[number] != NO_OBJECT] = scene.count
    return counts


def facts_of(scene: Scene, text: str | None = None) -> list[int]:
    """Answers to the questions of FactHeads; IGNORED for the ground where a caption, `text`, does not name it."""
    first, second = scene.things[0], scene.things[-1]
    at = {}
    if scene.relation:
        opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
        at = {scene.relation: first, opposite[scene.relation]: second}
    else:
        at = {"alone": first}
    answers = [0 if scene.sign else scene.count]  # 0 marks images with a sign
    for position in POSITIONS:
        thing = at.get(position)
        answers.append(KINDS.index(thing.kind) if thing else NO_OBJECT)
        tint = COLOURS.index(thing.colour) if thing and thing.colour else NATURAL
        answers.append(tint if thing else NATURAL + 1)
    ground = list(BACKGROUNDS).index(scene.background)
    return [*answers, ground if text is None or scene.background in text else IGNORED]


class FactHeads(nn.Module):
    """Linear classifiers on an image's or a caption's embedding: the count; object and colour at each position."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH, elementwise_affine=False)
        classes = [MOST + 1, *[NO_OBJECT + 1, NATURAL + 2] * len(POSITIONS), len(BACKGROUNDS)]
        self.heads = nn.ModuleList(nn.Linear(WIDTH, count) for count in classes)

    def loss(self, embeddings: torch.Tensor, answers: list[list[int]]) -> torch.Tensor:
        """Mean over questions of the cross-entropy of [B, width] embeddings."""
        normed, targets = self.norm(embeddings), torch.tensor(answers).T
        losses = [
            F.cross_entropy(head(normed), target, ignore_index=IGNORED)
            for head, target in zip(self.heads, targets, strict=True)
        ]
        return FACTS_WEIGHT * sum(losses)


def _config(tokenizer: CLIPTokenizerFast) -> CLIPConfig:
    common = {
        "hidden_size": WIDTH, "intermediate_size": 3 * WIDTH, "num_attention_heads": HEADS, "projection_dim": WIDTH,
        "hidden_act": "quick_gelu",
    }  # fmt: skip
    text = {
        "vocab_size": len(tokenizer), "max_position_embeddings": TEXT_LENGTH, "num_hidden_layers": TEXT_LAYERS,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    vision = {"image_size": MAIN_SIDE, "patch_size": 16, "num_hidden_layers": LAYERS}
    return CLIPConfig(text_config=common | text, vision_config=common | vision, projection_dim=WIDTH)


def _processor(folder: Path) -> CLIPProcessor:
    """CLIP's own tokenizer class and image processor, with a vocabulary of the world's captions."""
    learner = Tokenizer(models.BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>"))
    learner.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Punctuation(),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    special = ["<|startoftext|>", "<|endoftext|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    # Single bytes, inside and at the end of a word, so that any text has tokens.
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special + alphabet + [f"{letter}</w>" for letter in alphabet],
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    learner.train_from_iterator(_corpus(), trainer)
    learnt = json.loads(learner.to_str())["model"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in learnt["merges"]))
    write_json(folder / "vocab.json", learnt["vocab"])
    tokenizer = CLIPTokenizerFast(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=TEXT_LENGTH)
    image_processor = CLIPImageProcessor(
        size={"shortest_edge": MAIN_SIDE}, crop_size={"height": MAIN_SIDE, "width": MAIN_SIDE}
    )
    return CLIPProcessor(image_processor, tokenizer)


def _corpus():
    rng = random.Random("clip tokenizer")
    for _ in range(4000):
        scene = draw_scene(rng)
        yield from (captions.true_caption(scene, rng) for _ in range(3))
        yield rng.choice((captions.boilerplate, captions.too_short))(rng)
        yield rng.choice((captions.foreign_caption, captions.rambling_caption))(scene, rng)
