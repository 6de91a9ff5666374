"""The model against the reference: names, towers, mining, expansion, logits, loss, gradients."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.parity.reference_weights import golden_model, rule_pixels
from toolkit.mgm.checkpoint import load_tokenizer
from toolkit.mgm.conversation import IMAGE_TOKEN_INDEX, encode_conversation
from toolkit.mgm.images import open_image, scale_image
from toolkit.mgm.model import MGMGemmaForCausalLM
from toolkit.mgm.vision import mine_patch_info, mine_patch_info_plainly, stack_maps

FORWARD, GRADIENT = 2e-4, 1e-3


def assert_close(actual: torch.Tensor | np.ndarray, expected: np.ndarray, relative: float) -> None:
    """Largest difference against the largest magnitude of what is expected."""
    actual = np.asarray(actual.detach() if isinstance(actual, torch.Tensor) else actual)
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= relative * np.abs(expected).max()


@pytest.fixture(scope="module")
def manifest(goldens: Path) -> dict:
    return json.loads((goldens / "manifest.json").read_text())


@pytest.fixture(scope="module")
def model(goldens: Path, tmp_path_factory: pytest.TempPathFactory) -> MGMGemmaForCausalLM:
    return golden_model(goldens, tmp_path_factory.mktemp("base")).eval()


@pytest.fixture(scope="module")
def vision(goldens: Path, manifest: dict) -> dict:
    names = json.loads((goldens / "model.json").read_text())["vision"]["pixel_names"]
    return {
        "golden": np.load(goldens / "vision.npz"),
        "images": torch.stack([rule_pixels(n, [3, 336, 336], manifest["salt"]) for n in names["main"]]),
        "images_aux": torch.stack([rule_pixels(n, [3, 768, 768], manifest["salt"]) for n in names["aux"]]),
    }


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_state_dict_and_trainable_names(model: MGMGemmaForCausalLM, manifest: dict, stage: str) -> None:
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    assert shapes == manifest[f"state_dict_{stage}"]
    model.set_trainable(stage)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable == set(manifest[f"trainable_{stage}"]) - {"lm_head.weight"}


def test_towers_mining_and_projector(model: MGMGemmaForCausalLM, vision: dict) -> None:
    golden, inner = vision["golden"], model.model
    with torch.no_grad():
        tokens = inner.vision_tower(vision["images"])
        assert_close(tokens, golden["clip_features"], FORWARD)
        stages = inner.vision_tower_aux(vision["images_aux"])
        aux = stack_maps(stages)
        assert_close(aux[:, :, ::24, ::24], golden["aux_slice_y0x0_stride24"], FORWARD)
        assert_close(aux[:, :, -2:, -2:], golden["aux_slice_corner"], FORWARD)
        maps = (inner.vlm_uni_query_projector, inner.vlm_uni_aux_projector, inner.vlm_uni_val_projector)
        mined = mine_patch_info(tokens, stages, *maps)
        assert_close(mined, golden["mined"], FORWARD)
        assert_close(mined, mine_patch_info_plainly(tokens, stages, *maps).numpy(), 1e-5)
        assert_close(inner.mm_projector(tokens + mined), golden["projected"], FORWARD)


def batch_of_three(goldens: Path, model: MGMGemmaForCausalLM, aspect: str) -> dict[str, torch.Tensor]:
    """The goldens' three samples (two images, one text alone), padded on the right."""
    tokenizer = load_tokenizer(goldens / "tiny_tokenizer")
    encoded, images = [], []
    for row in json.loads((goldens / "data" / "batch3.json").read_text()):
        ids, labels = encode_conversation(row["conversations"], tokenizer, "image" in row, max_length=2048)
        encoded.append((ids, labels))
        if IMAGE_TOKEN_INDEX in ids:
            images.append(scale_image(open_image(goldens / row["image"]), model.config.image_size_aux, aspect))
    longest = max(len(ids) for ids, _ in encoded)
    return {
        "input_ids": torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in encoded]),
        "attention_mask": torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in encoded]),
        "labels": torch.tensor([labels + [-100] * (longest - len(labels)) for _, labels in encoded]),
        "pixels": torch.stack(images),
    }


@pytest.mark.parametrize("reference_mode", [False, True])
@pytest.mark.parametrize(("stage", "aspect"), [("pretrain", "square"), ("finetune", "pad")])
def test_expansion_logits_loss_and_gradients(
    goldens: Path, model: MGMGemmaForCausalLM, stage: str, aspect: str, reference_mode: bool
) -> None:
    golden = np.load(goldens / f"batch3_{stage}.npz")
    measured = json.loads((goldens / "model.json").read_text())[f"batch3_{stage}"]
    batch = batch_of_three(goldens, model, aspect)
    for name in ("input_ids", "labels"):
        assert (batch[name].numpy() == golden[name]).all()

    model.train()
    model.set_stochastic_depth(False)
    model.set_trainable(stage)
    model.zero_grad()
    with torch.no_grad():
        features = model.encode_images(batch["pixels"])
    words = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
    expansion = model.expand(*words.values(), side="right")
    _, mask = model.embed(words["input_ids"], features, expansion)
    assert (mask.numpy() == golden["expanded_attention_mask"]).all()
    assert (expansion["labels"].numpy() == golden["expanded_labels"]).all()

    model.eval()
    with torch.no_grad():
        output = model(**words, image_features=features)
    lengths = mask.sum(dim=1).tolist()
    seen = [torch.cat([row[:8], row[n - 8 : n]]) for row, n in zip(output.logits, lengths, strict=True)]
    assert_close(torch.stack(seen), golden["logits_first8_last8_valid"], FORWARD)

    model.train()
    model.set_reference_mode(reference_mode)
    loss = model(**batch).loss
    assert loss.item() == pytest.approx(measured["loss"], rel=FORWARD)
    loss.backward()
    model.set_reference_mode(False)
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert set(gradients) == set(measured["grad"])
    total = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
    assert total.item() == pytest.approx(measured["grad_total_norm"], rel=GRADIENT)
    for name, gradient in gradients.items():
        expected = measured["grad"][name]
        # Biases of the key path have gradient zero; the reference shows its rounding there.
        floor = 1e-6 * measured["grad_total_norm"]
        assert gradient.norm().item() == pytest.approx(expected["norm"], rel=GRADIENT, abs=floor), name
        first = gradient.flatten()[:4].tolist()
        assert first == pytest.approx(expected["first4"], rel=GRADIENT, abs=GRADIENT * expected["norm"] + floor), name


def test_stochastic_depth_rates_and_switch(goldens: Path, model: MGMGemmaForCausalLM, vision: dict) -> None:
    tower = model.model.vision_tower_aux
    rates = [block.drop_path_rate for stage in tower.vision_stages for block in stage.blocks]
    golden = json.loads((goldens / "model.json").read_text())["droppath_default_true"]
    assert rates[0] == 0
    assert rates[1:] == pytest.approx([rate for _, rate in golden["rates"]], rel=1e-6)
    pixels = vision["images_aux"][:1, :, :128, :128]
    with torch.no_grad():
        tower.eval()
        still = stack_maps(tower(pixels))
        tower.train()
        model.set_stochastic_depth(True)
        assert not torch.allclose(stack_maps(tower(pixels)), still)
        model.set_stochastic_depth(False)
        assert torch.equal(stack_maps(tower(pixels)), still)
        tower.eval()
