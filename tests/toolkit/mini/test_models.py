"""The committed mini models load with stock classes and do their task."""

import json
import random

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoProcessor,
    AutoTokenizer,
    BlipForConditionalGeneration,
    CLIPModel,
    CLIPProcessor,
    GemmaForCausalLM,
)

from toolkit.mini import captions
from toolkit.mini.build import CAPTIONER, CLIP, CONVNEXT, GEMMA
from toolkit.mini.checks import area_under_curve, states_everything
from toolkit.mini.convnext import DEPTHS, DIMS, load_tower
from toolkit.mini.questions import SHORT_ANSWER, ask_any
from toolkit.mini.scenes import SIGN_WORDS, draw_scene, render
from toolkit.mini.sprites import COLOURS, KINDS
from toolkit.mini.tokenizer import SPECIAL_TOKENS, build_tokenizer

ODD_TEXTS = (
    "a red dog and a sign that says HOTEL on the grass",
    "jean - philippe verrier for roche, 1930s",
    "  two  spaces \n\n and\ttabs",
    "Żółw 🦊 naïve – “quotes” … ½",
    "一张狗的照片, 日本語, العربية",
    "<image> <|__dj__eoc|> \u0000\u200b",
)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(GEMMA)


def test_tokenizer_has_gemmas_layout(tokenizer):
    assert tokenizer.convert_ids_to_tokens(range(6)) == list(SPECIAL_TOKENS)
    assert tokenizer("dog").input_ids[0] == tokenizer.bos_token_id == 2
    assert type(tokenizer).__name__ == "GemmaTokenizerFast"


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_tokenizer_keeps_any_text_without_unknown_tokens(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids) == text


def test_answer_words_are_single_tokens(tokenizer):
    for word in (*KINDS, *COLOURS, *SIGN_WORDS):
        assert len(tokenizer(word, add_special_tokens=False).input_ids) == 1
        assert len(tokenizer(f" {word}", add_special_tokens=False).input_ids) == 1


def test_tokenizer_is_built_again_byte_for_byte(tmp_path):
    build_tokenizer(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        assert (tmp_path / name).read_bytes() == (GEMMA / name).read_bytes()


def test_gemma_answers_from_text(tokenizer):
    model = GemmaForCausalLM.from_pretrained(GEMMA).eval()
    rng = random.Random("gemma test")
    right = 0
    for _ in range(30):
        scene = draw_scene(rng)
        question = ask_any(scene, rng)
        prompt = (
            f"<start_of_turn>user\n{captions.true_caption(scene, rng)}.\n{question.text}\n{SHORT_ANSWER}"
            "<end_of_turn>\n<start_of_turn>model\n"
        )
        inputs = tokenizer(prompt, return_tensors="pt")
        with torch.inference_mode():
            ids = model.generate(**inputs, max_new_tokens=8, do_sample=False, eos_token_id=tokenizer.eos_token_id)
        text = tokenizer.decode(ids[0, inputs.input_ids.shape[1] :], skip_special_tokens=True)
        right += text.split("\n")[0].strip() == question.answer
    assert right >= 24  # `mini check` asks for nine in ten of each kind of question; chance gives one or two


def test_clip_prefers_the_true_caption():
    model, processor = CLIPModel.from_pretrained(CLIP).eval(), CLIPProcessor.from_pretrained(CLIP, use_fast=False)
    assert (model.config.vision_config.image_size, model.config.vision_config.patch_size) == (96, 16)
    assert model.logit_scale.exp().item() == pytest.approx(100, rel=1e-4)
    rng = random.Random("clip test")
    scenes = [draw_scene(rng) for _ in range(24)]
    inputs = processor(
        text=[captions.true_caption(scene, rng) for scene in scenes],
        images=[render(scene)[0] for scene in scenes],
        return_tensors="pt",
        padding=True,
        truncation=True,
        max_length=model.config.text_config.max_position_embeddings,
    )
    with torch.inference_mode():
        similarity = model(**inputs).logits_per_image / 100
    assert (similarity.argmax(1) == torch.arange(24)).float().mean() > 0.7
    assert similarity.abs().max() <= 1


def test_clip_scores_text_of_any_length_and_script():
    processor = CLIPProcessor.from_pretrained(CLIP, use_fast=False)
    for text in (*ODD_TEXTS, "word " * 100):
        ids = processor.tokenizer(text, truncation=True, max_length=40).input_ids
        assert 2 < len(ids) <= 40
        assert ids[-1] == processor.tokenizer.eos_token_id


def test_convnext_has_open_clips_names():
    weights = load_file(CONVNEXT / "model.safetensors")
    config = json.loads((CONVNEXT / "open_clip_config.json").read_text())
    assert config["model_cfg"]["vision_cfg"]["timm_model_kwargs"] == {"dims": DIMS, "depths": DEPTHS}
    assert weights["visual.trunk.stem.0.weight"].shape == (DIMS[0], 3, 4, 4)
    assert weights["visual.trunk.stages.1.downsample.1.weight"].shape == (DIMS[1], DIMS[0], 2, 2)
    for stage, depth in enumerate(DEPTHS):
        for block in range(depth):
            prefix = f"visual.trunk.stages.{stage}.blocks.{block}"
            names = {name.removeprefix(f"{prefix}.") for name in weights if name.startswith(f"{prefix}.")}
            layers = ("conv_dw", "norm", "mlp.fc1", "mlp.fc2")
            assert names == {"gamma", *(f"{layer}.{part}" for layer in layers for part in ("weight", "bias"))}
    maps = load_tower(CONVNEXT)(torch.zeros(1, 3, 192, 192))
    assert [tuple(m.shape) for m in maps] == [(1, width, 48 >> stage, 48 >> stage) for stage, width in enumerate(DIMS)]


def test_captioner_writes_captions_as_data_juicer_asks_it():
    model = BlipForConditionalGeneration.from_pretrained(CAPTIONER).eval()
    processor = AutoProcessor.from_pretrained(CAPTIONER, use_fast=False)
    assert model.config.architectures == ["BlipForConditionalGeneration"]
    torch.manual_seed(0)
    rng = random.Random("captioner test")
    scenes = [draw_scene(rng) for _ in range(16)]
    inputs = processor(images=[render(scene)[0] for scene in scenes], text=None, return_tensors="pt")
    ids = model.generate(**inputs, max_new_tokens=128, do_sample=True)
    texts = processor.batch_decode(ids, skip_special_tokens=True)
    assert all("[" not in text and 1 < len(text.split()) < 25 for text in texts)
    named = sum(scene.things[0].kind.rstrip("s") in text for scene, text in zip(scenes, texts, strict=True))
    assert named >= 5  # chance gives one


def test_area_under_curve_counts_ties_half():
    assert area_under_curve([1.0, 0.5], [0.5, 0.0]) == pytest.approx(0.875)


def test_states_everything_sees_a_wrong_detail():
    rng = random.Random(5)
    for layout in ("one", "count", "pair", "sign"):
        scene = draw_scene(rng, layout)
        assert states_everything(captions.true_caption(scene, rng), scene)
        changed, _ = captions.half_wrong_scene(scene, rng)
        assert not states_everything(captions.true_caption(changed, rng), scene)
