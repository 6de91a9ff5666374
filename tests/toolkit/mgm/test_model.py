"""The model's own promises: full-size names, batches, text alone, generation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import init_empty_weights
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import DynamicCache, GemmaForCausalLM

from benchmarks.models import GEMMA_2B
from toolkit.mgm.checkpoint import build_model
from toolkit.mgm.conversation import IGNORE_INDEX, IMAGE_TOKEN_INDEX
from toolkit.mgm.model import MGMConfig, MGMGemmaForCausalLM
from toolkit.mgm.vision import (
    mine_patch_info,
    mine_patch_info_plainly,
    norm_linear,
    positions_by_patch,
    stack_maps,
)
from toolkit.training.speed.decoder import Decoder
from toolkit.training.speed.packing import PackedDecoder, pack

IMAGE = [2, 4, 9, IMAGE_TOKEN_INDEX, 30, 31]
TEXT = [2, 4, 17, 18]


def pad(rows: list[list[int]], side: str = "right") -> dict[str, torch.Tensor]:
    longest = max(map(len, rows))
    gaps = [[0] * (longest - len(row)) for row in rows]
    if side == "right":
        ids = [row + gap for row, gap in zip(rows, gaps, strict=True)]
        mask = [[1] * len(row) + gap for row, gap in zip(rows, gaps, strict=True)]
    else:
        ids = [gap + row for row, gap in zip(rows, gaps, strict=True)]
        mask = [gap + [1] * len(row) for row, gap in zip(rows, gaps, strict=True)]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def images(count: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {"pixels": torch.randint(0, 256, (count, 3, 48, 48), dtype=torch.uint8, generator=generator)}


def test_full_size_has_the_published_names_and_shapes() -> None:
    """MGM-2B on the meta device: no memory, every name."""
    with init_empty_weights(include_buffers=True):
        model = MGMGemmaForCausalLM(MGMConfig(**GEMMA_2B, hidden_act="gelu"))
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    clip, aux = "model.vision_tower.vision_tower.vision_model", "model.vision_tower_aux"
    expected = {
        "model.embed_tokens.weight": [256000, 2048],
        "lm_head.weight": [256000, 2048],
        "model.layers.17.mlp.gate_proj.weight": [16384, 2048],
        "model.layers.17.self_attn.q_proj.weight": [2048, 2048],
        "model.layers.17.self_attn.k_proj.weight": [256, 2048],
        f"{clip}.embeddings.position_embedding.weight": [577, 1024],
        f"{clip}.encoder.layers.23.mlp.fc1.weight": [4096, 1024],
        f"{clip}.pre_layrnorm.bias": [1024],
        f"{aux}.vision_stem.0.weight": [192, 3, 4, 4],
        f"{aux}.vision_stages.2.blocks.26.conv_dw.weight": [768, 1, 7, 7],
        f"{aux}.vision_stages.3.downsample.1.weight": [1536, 768, 2, 2],
        f"{aux}.vision_stages.3.blocks.2.gamma": [1536],
        "model.mm_projector.0.weight": [2048, 1024],
        "model.mm_projector.2.weight": [2048, 2048],
        "model.vlm_uni_query_projector.1.weight": [1024, 1024],
        "model.vlm_uni_aux_projector.1.weight": [1024, 2880],
        "model.vlm_uni_val_projector.0.weight": [2880],
    }
    assert {name: shapes.get(name) for name in expected} == expected
    # 18 layers of 9 tensors, 3 embeddings and norms; 24 CLIP layers of 16, 7 others; 36 blocks of 9, stem and
    # downsamplings 4 each; 16 of the adapter.
    assert len(shapes) == (18 * 9 + 3) + (24 * 16 + 7) + (36 * 9 + 4 * 4) + 16
    assert len(model.adapter_parameters()) == 16
    assert model.image_tokens == 576
    assert model.config.hidden_act == "gelu_pytorch_tanh"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_positions_are_as_exact_in_low_precision(base_models: dict[str, Path], dtype: torch.dtype) -> None:
    """Also where a whole model is cast later, as DeepSpeed does."""
    sizes = {"image_size_aux": 48, "max_length": 64, "seed": 1024}
    full, low = (build_model(**base_models, **sizes, dtype=of) for of in (torch.float32, dtype))
    where = torch.arange(600)[None]
    expected = full.model.rotary_emb(torch.zeros(1), where)[0]
    for model in (low, full.to(dtype)):
        assert model.model.embed_tokens.weight.dtype == dtype
        torch.testing.assert_close(model.model.rotary_emb(torch.zeros(1), where)[0], expected, rtol=0, atol=0)


def test_reassociated_mining_equals_the_plain_form() -> None:
    torch.manual_seed(0)
    maps = [norm_linear(8, 8), norm_linear(20, 8), norm_linear(20, 8)]
    for module in maps:  # norms with weights and biases of their own, else half the algebra is not tried
        torch.nn.init.normal_(module[0].weight, 1, 0.3)
        torch.nn.init.normal_(module[0].bias, 0, 0.3)
    tokens, stages = torch.randn(2, 9, 8), [torch.randn(2, 8, 12, 12), torch.randn(2, 12, 6, 6)]
    results = {}
    for form in (mine_patch_info, mine_patch_info_plainly):
        for module in maps:
            module.zero_grad()
        mined = form(tokens, stages, *maps)
        mined.square().sum().backward()
        results[form.__name__] = [mined.detach()] + [p.grad.clone() for module in maps for p in module.parameters()]
    for fast, plain in zip(*results.values(), strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_positions_are_those_of_the_stacked_maps(dtype: torch.dtype, layout: torch.memory_format) -> None:
    """Bit by bit, without the stack."""
    torch.manual_seed(0)
    maps = [
        torch.randn(2, 8 << stage, 24 >> stage, 24 >> stage).to(dtype).contiguous(memory_format=layout)
        for stage in range(3)
    ]
    found = positions_by_patch(maps, 3)
    stacked = stack_maps(maps)
    assert found.shape == (2, 9, 64, 56)
    for patch in range(9):
        at = [slice(8 * place, 8 * place + 8) for place in divmod(patch, 3)]
        expected = stacked[:, :, at[0], at[1]].flatten(2).transpose(1, 2)
        assert torch.equal(found[:, patch], expected)


def test_a_row_does_not_depend_on_its_batch(model: MGMGemmaForCausalLM) -> None:
    rows, both = [IMAGE, TEXT, [*IMAGE, 40, 41]], images(2)
    together = model(**pad(rows), **both).logits
    second = {name: tensor[1:] for name, tensor in both.items()}
    for number, (row, own) in enumerate([(rows[1], {}), (rows[2], second)], 1):
        alone = model(**pad([row]), **own).logits[0]
        torch.testing.assert_close(together[number, : len(alone)], alone, rtol=1e-4, atol=1e-4)


def test_images_and_placeholders_must_match(model: MGMGemmaForCausalLM) -> None:
    for given, expected in ((images(2), "2 images for 1 rows"), ({}, "0 images for 1 rows")):
        with pytest.raises(ValueError, match=expected):
            model(**pad([IMAGE, TEXT]), **given)


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_the_fast_path_gives_the_loss_and_gradients_of_the_plain_one(model: MGMGemmaForCausalLM, stage: str) -> None:
    """No mask, logits of supervised positions only, the loader's expansion: bit by bit but for mining's other order."""
    batch = pad([IMAGE, TEXT, [*IMAGE, 8, 9]]) | images(2)
    batch["labels"] = batch["input_ids"].where(batch["attention_mask"].bool() & (batch["input_ids"] > 4), IGNORE_INDEX)
    model.train()
    model.set_trainable(stage)
    model.set_stochastic_depth(False)
    with torch.no_grad():
        features = model.encode_images(batch.pop("pixels"))
    model.decoder = Decoder()
    found = {}
    for reference_mode in (True, False):
        model.zero_grad()
        model.set_reference_mode(reference_mode)
        given = {} if reference_mode else {"expansion": model.expand(*batch.values(), side="right")}
        loss = model(**batch, image_features=features, **given).loss
        if stage == "finetune":
            loss.backward()
        found[reference_mode] = [loss, *(p.grad for p in model.parameters() if p.grad is not None)]
    assert len(found[True]) == len(found[False])
    for plain, fast in zip(*found.values(), strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("decoder", [Decoder(), PackedDecoder()])
def test_training_asks_the_device_for_no_number(model: MGMGemmaForCausalLM, decoder: Callable) -> None:
    """Each would wait for the GPU: `item`, `nonzero`, a copy to the CPU, a boolean index, a list of numbers."""
    batch = pad([IMAGE, TEXT]) | images(1)
    batch["labels"] = batch["input_ids"].clamp(min=IGNORE_INDEX)
    batch["expansion"] = model.expand(batch["input_ids"], batch["attention_mask"], batch["labels"], "right")
    padding = batch["input_ids"].numel() + model.image_tokens
    batch["expansion"] |= pack(*(batch["expansion"][name] for name in ("source", "labels", "supervised")), padding)
    model.train()
    model.set_trainable("finetune")
    model.decoder = decoder
    with Waits() as waits:
        model(**batch).loss.backward()
    assert waits.found == []


class Waits(TorchDispatchMode):
    """Records the operations whose result the process has to wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function)
        if any(word in name for word in ("_local_scalar_dense", "nonzero", "masked_select", "unique")):
            self.found.append(name)
        if "lift_fresh" in name and args[0].numel() > 1:  # values of Python, on their way to the device
            self.found.append(name)
        if name == "aten.index.Tensor" and any(index is not None and index.dtype == torch.bool for index in args[1]):
            self.found.append(name)
        return function(*args, **(kwargs or {}))


def test_clip_without_its_unread_layer_gives_the_same(model: MGMGemmaForCausalLM) -> None:
    tower = model.model.vision_tower
    size = model.config.vision_config["image_size"]
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        states = tower.vision_tower["vision_model"](pixels, output_hidden_states=True).hidden_states
        assert torch.equal(tower(pixels), states[-2][:, 1:])
        assert not torch.equal(tower(pixels), states[-1][:, 1:])


def test_logits_of_a_prompt_are_computed_for_its_last_position(model: MGMGemmaForCausalLM) -> None:
    lengths = []
    model.lm_head.register_forward_hook(lambda _, given, __: lengths.append(given[0].shape[1]))
    model.generate(**pad([IMAGE, TEXT], "left"), **images(1), do_sample=False, max_new_tokens=3)
    assert set(lengths) == {1}


def test_samples_are_cut_after_expansion(model: MGMGemmaForCausalLM) -> None:
    model.config.tokenizer_model_max_length = 10
    assert model(**pad([IMAGE]), **images(1)).logits.shape[1] == 10


def test_text_alone_gives_the_adapter_zero_gradients(model: MGMGemmaForCausalLM) -> None:
    model.train()
    model.set_trainable("finetune")
    batch = pad([TEXT])
    model(**batch, labels=batch["input_ids"]).loss.backward()
    for name, parameter in model.adapter_parameters().items():
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name
    assert all(p.grad is None for p in model.model.vision_tower.parameters())


def test_batched_generation_equals_one_at_a_time(model: MGMGemmaForCausalLM) -> None:
    rows, both = [IMAGE, [*TEXT, 50, 51, 52], [*IMAGE, 40, 41]], images(2)
    together = model.generate(**pad(rows, side="left"), **both, max_new_tokens=6, do_sample=False, eos_token_id=None)
    own_images = [0, None, 1]
    for number, (row, image) in enumerate(zip(rows, own_images, strict=True)):
        own = {} if image is None else {n: t[image : image + 1] for n, t in both.items()}
        alone = model.generate(**pad([row]), **own, max_new_tokens=6, do_sample=False, eos_token_id=None)
        assert alone[0].tolist() == together[number].tolist()


def test_generation_is_greedy_by_forward(model: MGMGemmaForCausalLM) -> None:
    """The cache changes nothing: each new token is the argmax of a plain forward over all before it."""
    row, own = list(IMAGE), images(1)
    new = model.generate(**pad([row]), **own, max_new_tokens=4, do_sample=False, eos_token_id=None)[0].tolist()
    for token in new:
        assert model(**pad([row]), **own).logits[0, -1].argmax().item() == token
        row.append(token)


@pytest.mark.parametrize("name", ["past_key_values", "cache"])
def test_a_step_with_a_cache_goes_to_gemma_whatever_the_cache_is_called(
    name: str, model: MGMGemmaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers 5.24 renamed generation's argument; a token that met `expand` ended in an IndexError."""
    seen = {}
    monkeypatch.setattr(GemmaForCausalLM, "forward", lambda self, **arguments: seen.update(arguments))
    cache = DynamicCache()
    model(input_ids=torch.tensor([[7]]), attention_mask=torch.ones(1, 5), **{name: cache})
    assert seen[name] is cache
