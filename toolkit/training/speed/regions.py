"""Training's fast paths on a GPU: regions that torch.compile makes kernels of, and the decoder without padding.

A region is compiled once for all layers of its kind. Fused, a value stays in registers where operations one by one
would send it to memory and back: at full size that traffic took 40 % of a step.
"""

from __future__ import annotations

import functools
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
from toolkit.training.speed.decoder import Decoder
from toolkit.training.speed.packing import PackedDecoder

# Each shape of a region is a kernel of its own: four stages of ConvNeXt, with and without stochastic depth.
SHAPES_OF_A_REGION = 64
# On one H100 compiling takes 35 s and saves 6 ms of a sample's 13 to 31. Smaller micro-batches wait for the host, which
# has more to do for each region.
WORTH_COMPILING, SMALLEST_BATCH = 6000, 8


def speed_up(
    model: MGMGemmaForCausalLM, device: torch.device, samples: int, batch: int, say: Callable[[str], None]
) -> None:
    """Let a model train without a mask; on a GPU also without padding, and through compiled regions where they pay.

    On a CPU every bit stays as it is.

    Args:
        model: changed in place; what it computes differs by rounding only.
        device: to compile for.
        samples: that it will be trained on, on one GPU.
        batch: samples of a micro-batch.
        say: takes the line about a missing compiler.
    """
    if device.type == "cpu":
        model.decoder = Decoder()
        return
    model.decoder = PackedDecoder()
    if samples < WORTH_COMPILING or batch < SMALLEST_BATCH:
        return
    if fault := fault_of_compiler(device):
        say(f"training goes on without compiled kernels, slower by a third: {fault}")
        return
    torch._dynamo.config.recompile_limit = SHAPES_OF_A_REGION
    # Else two lengths that happen to be equal at first would be taken for one.
    torch.fx.experimental._config.use_duck_shape = False
    model.decoder = PackedDecoder(for_lengths)
    eyes = Eyes(model, for_images)
    if eyes.fit():
        eyes.attach()


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
                if isinstance(tensor, torch.Tensor) and tensor.ndim > 2:  # no constant
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
        region: compiles a function.
    """

    def __init__(self, model: MGMGemmaForCausalLM, region: Callable[[Callable], Callable]):
        self.model = model.model
        self.grid = math.isqrt(model.image_tokens)
        widths, size = model.config.vision_config_aux["dims"], model.config.image_size_aux // 4
        self.shapes = [(width, size >> stage, size >> stage) for stage, width in enumerate(widths)]
        self.layer, self.branch = region(clip_layer), region(convnext_branch)
        self.norms, self.adapt = region(norms_of), region(adapt)

    def fit(self) -> bool:
        """Whether each stage's map has whole places to a patch; all published sizes have."""
        return self.shapes[0][1] % (self.grid << len(self.shapes) - 1) == 0

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
            around, weights = self.places(maps)
            norms = self.norms(around, weights, self.model.vlm_uni_aux_projector[0].eps)
        return self.adapt(self.model, tokens, around, weights, *norms)

    def encode_nothing(self) -> torch.Tensor:
        """See MGMModel.encode_nothing; through the same region, so that gradients arrive in the same order."""
        like = self.model.mm_projector[0].weight
        config = self.model.config
        # As images' own are: two of them, and tokens without the first.
        tokens = like.new_zeros(2, 1 + self.grid**2, config.vision_config["hidden_size"])[:, 1:]
        maps = [like.new_zeros(2, *shape) for shape in self.shapes]
        with torch.no_grad():
            around, weights = self.places([found.to(memory_format=torch.channels_last) for found in maps])
            norms = self.norms(around, weights, self.model.vlm_uni_aux_projector[0].eps)
        return 0.0 * self.adapt(self.model, tokens, around, weights, *norms).sum()

    def places(self, maps: list[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor | None]]:
        """See `take` and `places_of`, of each stage's map."""
        side = maps[0].shape[-1] // self.grid
        found = [places_of(self.grid, stage.shape[-1], side, stage.device) for stage in maps]
        return [take(stage, at, self.grid**2) for stage, (at, _) in zip(maps, found, strict=True)], [
            w for _, w in found
        ]

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
                depthwise = block.conv_dw
                # Its bias is added by the region: a pass over the map less.
                convolved = F.conv2d(x, depthwise.weight, padding=depthwise.padding, groups=depthwise.groups)
                x = self.branch(block, x, convolved, block.draw(x) if stochastic_depth else None)
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
    return block.finish(x, convolved + block.conv_dw.bias[:, None, None], kept)


# Patch info mining looks at 64 positions of each patch, of 2880 channels: 212 MB an image, of which nine tenths are
# resized from the smaller maps. Resizing is linear and commutes with what mining does: sums over channels (scores,
# mean) and over positions (pooling). So the maps stay small; a position's sum of squares comes from the products of the
# few places that it is resized from. A quarter of the bytes.


@functools.cache
def places_of(grid: int, size: int, side: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What a patch's positions are resized from in a map of size x size.

    Its own places and one more on each side, at the map's edge the nearest again: 36, 16 and 9 of 96, 48 and 24. A map
    of the positions' own size is not resized: its places are the positions.

    Args:
        grid: patches of a side (24).
        size: of the map.
        side: positions of a patch's side (8).
        device: of the result.

    Returns:
        the places [576 * K] in [size * size]; weights [64, K] of bilinear resizing, or None.
    """
    own = size // grid
    more = int(own != side)
    along = torch.arange(grid, device=device)[:, None] * own + torch.arange(-more, own + more, device=device)
    along = along.clamp(0, size - 1)  # [24, own + 2 * more]
    places = (along[:, None, :, None] * size + along[None, :, None, :]).flatten()
    if not more:
        return places, None
    count, factor = own + 2, side // own
    each = torch.eye(count**2, device=device).view(-1, 1, count, count)
    resized = F.interpolate(each, scale_factor=factor, mode="bilinear")[..., factor:-factor, factor:-factor]
    return places, resized.flatten(1).T.contiguous()


def take(found: torch.Tensor, places: torch.Tensor, patches: int) -> torch.Tensor:
    """[N, C, H, W], channels last -> [N, 576, K, C]."""
    return found.permute(0, 2, 3, 1).flatten(1, 2).index_select(1, places).unflatten(1, (patches, -1))


def norms_of(
    around: list[torch.Tensor], weights: list[torch.Tensor | None], eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and 1 / deviation of each position's channels, fp32: LayerNorm's, [N, 576, 64] each."""
    total = squares = torch.zeros((), device=around[0].device)
    for places, weight in zip(around, weights, strict=True):
        values = places.float()
        if weight is None:
            total, squares = total + values.sum(-1), squares + values.square().sum(-1)
        else:
            total = total + values.sum(-1) @ weight.T
            pairs = (weight[:, :, None] * weight[:, None]).flatten(1)  # [64, K * K]
            squares = squares + (values @ values.mT).flatten(2) @ pairs.T
    channels = sum(places.shape[-1] for places in around)
    mean = total / channels
    return mean, (squares / channels - mean.square()).clamp(min=0).add(eps).rsqrt()


def adapt(
    model: nn.Module,
    tokens: torch.Tensor,
    around: list[torch.Tensor],
    weights: list[torch.Tensor | None],
    mean: torch.Tensor,
    rstd: torch.Tensor,
) -> torch.Tensor:
    """MGMModel.adapt with `mine_patch_info`'s sums over channels and positions done at the maps' own places.

    Args:
        model: MGMModel.
        tokens: [N, 576, 1024] of CLIP.
        around, weights: each stage's places, see `take`, and their weights, see `places_of`.
        mean, rstd: see `norms_of`.

    Returns:
        [N, 576, 2048]
    """
    query, key, value = model.vlm_uni_query_projector, model.vlm_uni_aux_projector, model.vlm_uni_val_projector
    queries = ((query(tokens) @ key[1].weight) * key[0].weight).float()  # [N, 576, 2880]
    scores = -mean * queries.sum(-1, keepdim=True)  # [N, 576, 64]
    parts = queries.split([places.shape[-1] for places in around], dim=-1)
    for part, places, weight in zip(parts, around, weights, strict=True):
        found = (part[:, :, None] * places).sum(-1)
        scores = scores + (found if weight is None else found @ weight.T)
    scores = scores * rstd / math.sqrt(tokens.shape[-1]) + 0.0 * (key[0].bias.sum() + key[1].bias.sum())
    shares = torch.nan_to_num(scores).softmax(dim=-1) * rstd
    pooled = [
        ((shares if weight is None else shares @ weight)[..., None] * places).sum(2)
        for places, weight in zip(around, weights, strict=True)
    ]
    pooled = torch.cat(pooled, dim=-1) - (shares * mean).sum(-1, keepdim=True)  # [N, 576, 2880]
    mined = value[1](pooled.to(tokens.dtype) * value[0].weight + value[0].bias)
    return model.mm_projector(tokens + mined)
