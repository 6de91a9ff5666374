"""CLIP's towers with less work: transformers' features, the same in any batch."""

import pytest
import torch
from transformers import CLIPModel

from solution.operators.common.clip_towers import Towers, towers_of


@pytest.fixture
def model(clip_folder) -> CLIPModel:
    return CLIPModel.from_pretrained(clip_folder).eval()


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.inference_mode():
        yield


def captions_of(model: CLIPModel, lengths: list[int], width: int) -> torch.Tensor:
    """Captions of these lengths, as token ids [captions, width]: random letters, then end tokens."""
    end = model.config.text_config.eos_token_id
    ids = torch.randint(0, end - 1, (len(lengths), width), generator=torch.Generator().manual_seed(7))
    for row, length in zip(ids, lengths, strict=True):
        row[length - 1 :] = end
    return ids


def unit(features: torch.Tensor) -> torch.Tensor:
    return features / features.norm(dim=-1, keepdim=True)


@pytest.mark.parametrize("images", [4, 3])  # the size that the weights are packed for, and another one
def test_image_features_equal_transformers(model, images):
    pixels = torch.randn(images, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    found = Towers(model, 4, 48).image_features(pixels)
    torch.testing.assert_close(found, unit(model.get_image_features(pixels)), atol=1e-6, rtol=0)
    assert found.std(0).min() > 1e-3  # the tiny model tells images apart


@pytest.mark.parametrize("width", [12, 16, 77])
@pytest.mark.parametrize("end", ["its own", "from before 2023"])
def test_text_features_equal_transformers(model, width, end):
    ids = captions_of(model, [3, width, 7, 5], width)
    expected = torch.cat([unit(model.get_text_features(input_ids=row[None])) for row in ids])
    if end != "its own":
        model.text_model.config.eos_token_id = 2
    found = Towers(model, 4, 48).text_features(ids)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_the_rest_of_the_batch_does_not_show(model):
    towers = Towers(model, 4, 48)
    pixels, others = torch.randn(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    mixed = torch.stack([others[0], pixels[3], others[1], pixels[0]])
    alone, mixed_in = towers.image_features(pixels), towers.image_features(mixed)
    assert torch.equal(mixed_in[1], alone[3])
    assert torch.equal(mixed_in[3], alone[0])
    ids = captions_of(model, [3, 9, 12, 5], 12)
    assert torch.equal(towers.text_features(ids.flip(0)), towers.text_features(ids).flip(0))


def test_a_model_is_packed_once_and_forgotten_with_its_model(model, clip_folder):
    assert towers_of(model, 4, 48) is towers_of(model, 4, 48)
    assert towers_of(CLIPModel.from_pretrained(clip_folder), 4, 48) is not towers_of(model, 4, 48)
