"""Training's fast paths on a GPU: regions that torch.compile makes kernels of, and the decoder without padding.

A region is compiled once for all layers of its kind. Fused, a value stays in registers where operations one by one
would send it to memory and back: at full size that traffic took 40 % of a step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.fx.experimental._config
import torch.nn.functional as F
from torch import nn

from toolkit.mgm.images import normalise
from toolkit.mgm.model import MGMGemmaForCausalLM
from toolkit.mgm.vision import CLIPTower, ConvNeXtBlock, ConvNeXtTower
from toolkit.training.speed.packing import PackedDecoder

# Each shape of a region is a kernel of its own: four stages of ConvNeXt, with and without stochastic depth.
SHAPES_OF_A_REGION = 64
Region = Callable[[Callable], Callable]


def speed_up(model: MGMGemmaForCausalLM, device: torch.device, say: Callable[[str], None]) -> None:
    """Let a model train without padding, and through compiled regions where they can be compiled.

    Args:
        model: changed in place; what it computes differs by rounding only.
        device: to compile for.
        say: takes the line about a missing compiler.
    """
    fault = fault_of_compiler(device)
    if fault:
        say(f"training goes on without compiled kernels, slower by a third or more: {fault}")
        model.decoder = PackedDecoder()
        return
    torch._dynamo.config.recompile_limit = SHAPES_OF_A_REGION
    # Else two lengths that happen to be equal at first would be taken for one.
    torch.fx.experimental._config.use_duck_shape = False
    model.decoder = PackedDecoder(for_lengths)
    Eyes(model, for_images).attach()


def fault_of_compiler(device: torch.device) -> str | None:
    """Why nothing can be compiled here, in a line, or None. Triton needs a C compiler and Python's headers."""
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.ones(8, device=device))
    except Exception as error:  # torch, Triton and the C compiler each have their own
        return " ".join(str(error).split())[:200]
    return None


def for_images(function: Callable) -> Callable:
    """A region of images: the first dimension of its tensors varies, nothing else."""
    region = torch.compile(function, fullgraph=True, dynamic=False)

    def call(*arguments: Any) -> Any:
        for argument in arguments:
            for tensor in argument if isinstance(argument, list) else [argument]:
                if isinstance(tensor, torch.Tensor):
                    torch._dynamo.maybe_mark_dynamic(tensor, 0)
        return region(*arguments)

    return call


def for_lengths(function: Callable) -> Callable:
    """A region of texts, whose lengths vary."""
    return torch.compile(function, fullgraph=True, dynamic=True)


class Eyes:
    """A model's towers and the adapter behind them, in regions.

    Args:
        model: see `speed_up`.
        region: likewise.
    """

    def __init__(self, model: MGMGemmaForCausalLM, region: Region):
        self.model = model.model
        self.grid = math.isqrt(model.image_tokens)
        self.layer, self.branch = region(clip_layer), region(convnext_branch)
        self.lay_out, self.adapt = region(lay_out), region(adapt)

    def attach(self) -> None:
        """Take the place of the model's own ways."""
        self.model.encode_images = self.encode_images
        self.model.encode_nothing = self.encode_nothing

    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """See MGMModel.encode_images."""
        dtype = self.model.mm_projector[0].weight.dtype
        with torch.no_grad():
            images, images_aux = normalise(pixels, self.model.config.vision_config["image_size"])
            tokens = self.tokens(images.to(dtype))
            maps = self.maps(images_aux.to(dtype, memory_format=torch.channels_last))
            positions = self.lay_out(maps, self.grid, self.model.vlm_uni_aux_projector[0].eps)
        return self.adapt(self.model, tokens, positions)

    def encode_nothing(self) -> torch.Tensor:
        """See MGMModel.encode_nothing; through the same region, so that gradients arrive in the same order."""
        like = self.model.mm_projector[0].weight
        config = self.model.config
        # As images' own are: two of them, and tokens without the first.
        tokens = like.new_zeros(2, 1 + self.grid**2, config.vision_config["hidden_size"])[:, 1:]
        side = config.image_size_aux // 4 // self.grid
        positions = like.new_zeros(2, self.grid**2, side**2, sum(config.vision_config_aux["dims"]))
        return 0.0 * self.adapt(self.model, tokens, positions).sum()

    def tokens(self, images: torch.Tensor) -> torch.Tensor:
        """See CLIPTower."""
        tower: CLIPTower = self.model.vision_tower
        clip = tower.vision_tower["vision_model"]
        x = clip.pre_layrnorm(clip.embeddings(images))
        for layer in clip.encoder.layers[: tower.select_layer % (len(clip.encoder.layers) + 1)]:
            x = self.layer(layer, x)
        return x[:, 1:]

    def maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Each stage's map of ConvNeXtTower, with its stochastic depth."""
        tower: ConvNeXtTower = self.model.vision_tower_aux
        stochastic_depth = self.model.training and tower.stochastic_depth
        x, maps = tower.vision_stem(images), []
        for stage in tower.vision_stages:
            x = stage.downsample(x)
            for block in stage.blocks:
                x = self.branch(block, x, block.conv_dw(x), block.draw(x) if stochastic_depth else None)
            maps.append(x)
        return maps


def clip_layer(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """transformers' CLIPEncoderLayer: [N, 577, 1024] -> [N, 577, 1024]."""
    attention = layer.self_attn
    normed = layer.layer_norm1(x)
    parts = [projection(normed) for projection in (attention.q_proj, attention.k_proj, attention.v_proj)]
    parts = [part.unflatten(2, (attention.num_heads, -1)).transpose(1, 2) for part in parts]
    found = F.scaled_dot_product_attention(*parts, scale=attention.scale)
    x = x + attention.out_proj(found.transpose(1, 2).flatten(2))
    return x + layer.mlp(layer.layer_norm2(x))


def convnext_branch(
    block: ConvNeXtBlock, x: torch.Tensor, convolved: torch.Tensor, kept: torch.Tensor | None
) -> torch.Tensor:
    """What follows the convolution of a block, and the residual: [N, C, H, W] -> [N, C, H, W]."""
    return block.finish(x, convolved, kept)


def lay_out(maps: list[torch.Tensor], grid: int, eps: float) -> torch.Tensor:
    """The stages' maps on the first one's grid, by patch and normalised: -> [N, 576, 64, 2880].

    Equal to `stack_maps` and the first steps of `mine_patch_info`, in one pass.
    """
    size = maps[0].shape[-2:]
    side = size[0] // grid
    resized = maps[:1] + [F.interpolate(m.float(), size=size, mode="bilinear").to(m.dtype) for m in maps[1:]]
    patches = [m.permute(0, 2, 3, 1).unflatten(2, (grid, side)).unflatten(1, (grid, side)) for m in resized]
    positions = torch.cat([patch.transpose(2, 3).flatten(3, 4).flatten(1, 2) for patch in patches], dim=-1)
    return F.layer_norm(positions, positions.shape[-1:], eps=eps)


def adapt(model: nn.Module, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """MGMModel.adapt from normalised positions, its sums written as such: a kernel reads each position once."""
    query, key, value = model.vlm_uni_query_projector, model.vlm_uni_aux_projector, model.vlm_uni_val_projector
    queries = (query(tokens) @ key[1].weight) * key[0].weight  # [N, 576, 2880]
    scores = (queries[:, :, None].float() * positions.float()).sum(-1) / math.sqrt(tokens.shape[-1])  # [N, 576, 64]
    scores = scores + 0.0 * (key[0].bias.sum() + key[1].bias.sum())
    weights = torch.nan_to_num(scores).softmax(dim=-1)
    pooled = (weights[..., None] * positions.float()).sum(2).to(positions.dtype)  # [N, 576, 2880]
    mined = value[1](pooled * value[0].weight + value[0].bias)
    return model.mm_projector(tokens + mined)
