"""Checks of the mini models: each one's ability alone against a threshold, on scenes that no model was trained on."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import nn
from transformers import (
    AutoProcessor,
    AutoTokenizer,
    BlipForConditionalGeneration,
    CLIPModel,
    CLIPProcessor,
    GemmaForCausalLM,
    PreTrainedTokenizerBase,
)

from toolkit.mgm.vision import ConvNeXtTower
from toolkit.mini import captions
from toolkit.mini.build import CAPTIONER, CLIP, CONVNEXT, GEMMA
from toolkit.mini.convnext import load_tower
from toolkit.mini.questions import (
    CATEGORIES,
    SHORT_ANSWER,
    Question,
    choice_prompt,
    find_question,
    options_of,
    textvqa_prompt,
)
from toolkit.mini.scenes import SIGN_WORDS, Scene, draw_scene, render
from toolkit.mini.text_samples import IMAGE_TOKENS, ImageSimulator, TextSample, add
from toolkit.mini.training import NO_WORD, dense_labels, main_pixels, scene_batch

PROBE_TRAIN, PROBE_TEST, CLIP_PAIRS, QUESTIONS_EACH, CAPTIONED = 960, 384, 600, 60, 200
PROBE_BATCH = 48


@dataclass(frozen=True)
class Check:
    """One measured figure; it passes above its threshold, and None is for information only."""

    name: str
    value: float
    threshold: float | None


def run_checks() -> int:
    """Measure everything and print one line per check; returns 1 if a threshold is missed."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    missed = 0
    for measure in (check_language, check_signs, check_similarity, check_captioner):
        for check in measure():
            passed = check.threshold is None or check.value > check.threshold
            missed += not passed
            verdict = (
                f"  threshold {check.threshold:.2f}  {'passed' if passed else 'MISSED'}" if check.threshold else ""
            )
            print(f"{check.name:48} {check.value:.3f}{verdict}", flush=True)
    return int(missed > 0)


@torch.inference_mode()
def check_language() -> list[Check]:
    """Answers to questions about a scene given as text, and given as a simulated image."""
    tokenizer = AutoTokenizer.from_pretrained(GEMMA)
    model = GemmaForCausalLM.from_pretrained(GEMMA).eval()
    simulator = ImageSimulator(tokenizer)
    rng = random.Random("language gates")
    checks = []
    for source in ("text", "simulated image"):
        for form in ("choice", "short"):
            for category in CATEGORIES:
                right = 0
                for _ in range(QUESTIONS_EACH):
                    scene, question = _scene_asking(category, rng)
                    sample = _sample_asking(scene, question, form, source, rng, tokenizer)
                    right += _answer(model, tokenizer, simulator, sample) == question.answer
                threshold = 0.9 if source == "text" else None
                checks.append(Check(f"gemma, {source}, {form}: {category}", right / QUESTIONS_EACH, threshold))
    return checks


def _scene_asking(category: str, rng: random.Random) -> tuple[Scene, Question]:
    while True:
        scene = draw_scene(rng)
        if question := find_question(scene, category, rng):
            return scene, question


def _sample_asking(
    scene: Scene, question: Question, form: str, source: str, rng: random.Random, tokenizer
) -> TextSample:
    if form == "choice":
        asked = choice_prompt(question.text, options_of(question, rng))
    else:
        asked = textvqa_prompt(question, rng) if question.category == "text" else f"{question.text}\n{SHORT_ANSWER}"
    sample = TextSample([tokenizer.bos_token_id], [False])
    add(sample, tokenizer, "<start_of_turn>user\n", False)
    if source == "text":
        add(sample, tokenizer, f"{captions.true_caption(scene, rng)}.", False)
    else:
        sample.scene, sample.image_start = scene, len(sample.ids)
        sample.ids += [tokenizer.pad_token_id] * IMAGE_TOKENS
    add(sample, tokenizer, f"\n{asked}<end_of_turn>\n<start_of_turn>model\n", False)
    return sample


def _answer(
    model: GemmaForCausalLM, tokenizer: PreTrainedTokenizerBase, simulator: ImageSimulator, sample: TextSample
) -> str:
    table = model.get_input_embeddings()
    embeddings = table(torch.tensor([sample.ids]))
    if sample.scene:
        end = sample.image_start + IMAGE_TOKENS
        embeddings[:, sample.image_start : end] = simulator([sample.scene], table.weight)
    stop = tokenizer.convert_tokens_to_ids("<end_of_turn>")
    ids = model.generate(
        inputs_embeds=embeddings,
        attention_mask=torch.ones(embeddings.shape[:2], dtype=torch.long),
        max_new_tokens=8,
        do_sample=False,
        eos_token_id=[stop, tokenizer.eos_token_id],
    )
    return tokenizer.decode(ids[0], skip_special_tokens=True).strip()


def check_signs() -> list[Check]:
    """Linear probes for the sign's word, on each tower's features averaged over the board."""
    tower = load_tower(CONVNEXT)
    clip = CLIPModel.from_pretrained(CLIP).eval()
    rng = random.Random("sign gates")
    features: dict[str, list[torch.Tensor]] = {"aux": [], "main": []}
    words = []
    with torch.inference_mode():
        for _ in range((PROBE_TRAIN + PROBE_TEST) // PROBE_BATCH):
            scenes, x, labels = scene_batch(rng, PROBE_BATCH, "sign")
            on_board = (dense_labels(labels, 12)["word"] != NO_WORD).float()[..., None]  # [B, 12, 12, 1]
            for name, maps in (("aux", _aux_cells(tower, x)), ("main", _main_cells(clip, x))):
                features[name].append((maps * on_board).sum(dim=(1, 2)) / on_board.sum(dim=(1, 2)))
            words += [SIGN_WORDS.index(scene.sign.word) for scene in scenes]
    target = torch.tensor(words)
    accuracy = {name: _probe(torch.cat(rows), target) for name, rows in features.items()}
    return [
        Check("sign probe, aux tower", accuracy["aux"], 0.9),
        Check("sign probe, main tower", accuracy["main"], None),
        Check("sign probe, aux tower above main tower", accuracy["aux"] - accuracy["main"], 0.1),
    ]


def _aux_cells(tower: ConvNeXtTower, x: torch.Tensor) -> torch.Tensor:
    cells = torch.cat([F.adaptive_avg_pool2d(m, 12) for m in tower(x)], dim=1)
    return F.layer_norm(cells.permute(0, 2, 3, 1), cells.shape[1:2])


def _main_cells(clip: CLIPModel, x: torch.Tensor) -> torch.Tensor:
    tokens = clip.vision_model(main_pixels(x), output_hidden_states=True).hidden_states[-2][:, 1:]
    tokens = F.layer_norm(tokens, tokens.shape[-1:])
    return tokens.view(len(x), 6, 6, -1).repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)


def _probe(features: torch.Tensor, target: torch.Tensor) -> float:
    """Test accuracy of a logistic regression."""
    probe = nn.Linear(features.shape[1], len(SIGN_WORDS))
    optimizer = torch.optim.AdamW(probe.parameters(), lr=0.02, weight_decay=0.05)
    features = features.clone()
    for _ in range(400):
        optimizer.zero_grad()
        F.cross_entropy(probe(features[:PROBE_TRAIN]), target[:PROBE_TRAIN]).backward()
        optimizer.step()
    return (probe(features[PROBE_TRAIN:]).argmax(1) == target[PROBE_TRAIN:]).float().mean().item()


@torch.inference_mode()
def check_similarity() -> list[Check]:
    """How well CLIP's similarity separates true captions from those of other scenes and from half-wrong ones."""
    model, processor = CLIPModel.from_pretrained(CLIP).eval(), CLIPProcessor.from_pretrained(CLIP, use_fast=False)
    rng = random.Random("similarity gates")
    true, other = [], []
    wrong: dict[str, list[float]] = {}
    for _ in range(CLIP_PAIRS):
        scene = draw_scene(rng)
        changed, detail = captions.half_wrong_scene(scene, rng)
        texts = [captions.true_caption(s, rng) for s in (scene, draw_scene(rng), changed)]
        inputs = processor(text=texts, images=render(scene)[0], return_tensors="pt", padding=True)
        scores = (model(**inputs).logits_per_image[0] / 100).tolist()
        true.append(scores[0])
        other.append(scores[1])
        wrong.setdefault(detail, []).append(scores[2])
    every_detail = [score for scores in wrong.values() for score in scores]
    visible = [score for detail, scores in wrong.items() if detail != "sign" for score in scores]
    return [
        Check("clip AUC, caption of another scene", area_under_curve(true, other), 0.95),
        # A sign cannot be read at 96 px, hence the second tower; its word has no threshold of its own.
        Check("clip AUC, one detail wrong but a sign's word", area_under_curve(true, visible), 0.95),
        Check("clip AUC, half of another scene, half one detail", area_under_curve(true, other + every_detail), 0.95),
        Check("clip AUC, one detail wrong", area_under_curve(true, every_detail), None),
        *(Check(f"clip AUC, {detail} wrong", area_under_curve(true, s), None) for detail, s in sorted(wrong.items())),
    ]


def area_under_curve(positives: list[float], negatives: list[float]) -> float:
    """Chance that a positive scores above a negative; ties count half."""
    p, n = torch.tensor(positives)[:, None], torch.tensor(negatives)[None]
    return ((p > n).float() + 0.5 * (p == n).float()).mean().item()


@torch.inference_mode()
def check_captioner() -> list[Check]:
    """Share of generated captions that name the objects, and that name everything."""
    model = BlipForConditionalGeneration.from_pretrained(CAPTIONER).eval()
    processor = AutoProcessor.from_pretrained(CAPTIONER, use_fast=False)
    rng = random.Random("captioner gates")
    named = complete = 0
    for _ in range(CAPTIONED):
        scene = draw_scene(rng)
        inputs = processor(images=render(scene)[0], return_tensors="pt")
        ids = model.generate(**inputs, max_new_tokens=24, do_sample=False)
        text = processor.batch_decode(ids, skip_special_tokens=True)[0]
        named += captions.noun_phrase(scene.things[0], scene.count) in text
        complete += states_everything(text, replace(scene, sign=None))
    return [
        Check("captioner states first object", named / CAPTIONED, 0.9),
        Check("captioner states everything but a sign's word", complete / CAPTIONED, None),
    ]


def states_everything(text: str, scene: Scene) -> bool:
    """Whether a caption names the objects with number and colour, the relation and the sign's word."""
    phrases = [captions.noun_phrase(scene.things[0], scene.count)]
    if scene.relation:
        phrases.append(captions.noun_phrase(scene.things[1]))
        if not any(phrase in text for phrase in captions.RELATION_PHRASES[scene.relation]):
            return False
        if text.find(phrases[0]) > text.find(phrases[1]):
            return False
    if scene.sign:
        phrases.append(scene.sign.word)
    return all(phrase in text for phrase in phrases)
