"""The eyes of MGM: a CLIP tower for the gist, a ConvNeXt tower for detail, and patch info mining between them.

Shapes are given for MGM-2B: 336 px -> 24 x 24 CLIP patches, 768 px -> a 192 x 192 grid, 8 x 8 positions per patch.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel

MAX_DROP_PATH_RATE = 0.1
CONVNEXT_NORM_EPS = 1e-6


class CLIPTower(nn.Module):
    """CLIP ViT; gives the patch tokens of a chosen hidden layer."""

    def __init__(self, config: CLIPVisionConfig, select_layer: int):
        super().__init__()
        clip = CLIPVisionModel(config)
        # transformers 4 nests the tower under `vision_model`, as the checkpoints do; 5 does not.
        self.vision_tower = nn.ModuleDict({"vision_model": getattr(clip, "vision_model", clip)})
        self.select_layer = select_layer

    def forward(self, images: torch.Tensor, plainly: bool = False) -> torch.Tensor:
        """[B, 3, 336, 336] -> [B, 576, 1024]; the class token is dropped, no final norm is applied.

        `plainly`: layers after the chosen one run too, as in the reference.
        """
        clip = self.vision_tower["vision_model"]
        used = self.select_layer % (len(clip.encoder.layers) + 1)  # hidden state 0 is the embedding
        if plainly:
            return clip(images, output_hidden_states=True).hidden_states[used][:, 1:]
        encoder = copy.copy(clip.encoder)  # the same layers, without those whose outcome nobody reads
        encoder._modules = clip.encoder._modules | {"layers": clip.encoder.layers[:used]}
        embedded = clip.pre_layrnorm(clip.embeddings(images))
        return encoder(inputs_embeds=embedded).last_hidden_state[:, 1:]


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of [B, C, H, W]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    """Depthwise 7x7, LayerNorm, MLP, layer scale, residual (Liu et al., 2201.03545), with stochastic depth."""

    def __init__(self, channels: int, drop_path_rate: float):
        super().__init__()
        self.drop_path_rate = drop_path_rate
        self.conv_dw = nn.Conv2d(channels, channels, kernel_size=7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=CONVNEXT_NORM_EPS)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(channels, 4 * channels), "fc2": nn.Linear(4 * channels, channels)})
        self.gamma = nn.Parameter(torch.full((channels,), 1e-6))

    def forward(self, x: torch.Tensor, stochastic_depth: bool) -> torch.Tensor:
        """[B, C, H, W] -> [B, C, H, W]; whole residual branches are dropped a sample at a time when asked."""
        return self.finish(x, self.conv_dw(x), self.draw(x) if stochastic_depth else None)

    def draw(self, x: torch.Tensor) -> torch.Tensor | None:
        """[B, 1, 1, 1]: what each sample's branch is multiplied by; None where none is ever dropped."""
        keep = 1 - self.drop_path_rate
        return x.new_empty(len(x), 1, 1, 1).bernoulli_(keep) / keep if self.drop_path_rate else None

    def finish(self, x: torch.Tensor, y: torch.Tensor, kept: torch.Tensor | None) -> torch.Tensor:
        """The block's output from its input x and its convolution y."""
        y = self.norm(y.permute(0, 2, 3, 1))  # [B, H, W, C]
        y = self.gamma * self.mlp["fc2"](F.gelu(self.mlp["fc1"](y)))
        return x + (y if kept is None else y * kept).permute(0, 3, 1, 2)


class ConvNeXtStage(nn.Module):
    """Blocks of one resolution; every stage but the first halves the grid before."""

    def __init__(self, channels_in: int, channels: int, drop_path_rates: list[float]):
        super().__init__()
        norm = ChannelNorm(channels_in, eps=CONVNEXT_NORM_EPS)
        halving = [] if channels_in == channels else [norm, nn.Conv2d(channels_in, channels, 2, stride=2)]
        self.downsample = nn.Sequential(*halving)
        self.blocks = nn.ModuleList(ConvNeXtBlock(channels, rate) for rate in drop_path_rates)

    def forward(self, x: torch.Tensor, stochastic_depth: bool) -> torch.Tensor:
        """[B, C_in, H, W] -> [B, C, H/2, W/2] ([B, C, H, W] in the first stage)."""
        x = self.downsample(x)
        for block in self.blocks:
            x = block(x, stochastic_depth)
        return x


class ConvNeXtTower(nn.Module):
    """ConvNeXt that gives the map of each stage.

    Args:
        dims: channels of each stage (192, 384, 768, 1536 in MGM-2B).
        depths: blocks of each stage (3, 3, 27, 3).
    """

    def __init__(self, dims: list[int], depths: list[int]):
        super().__init__()
        self.stochastic_depth = True
        rates = torch.linspace(0, MAX_DROP_PATH_RATE, sum(depths), device="cpu").split(depths)
        self.vision_stem = nn.Sequential(
            nn.Conv2d(3, dims[0], kernel_size=4, stride=4), ChannelNorm(dims[0], eps=CONVNEXT_NORM_EPS)
        )
        self.vision_stages = nn.ModuleList(
            ConvNeXtStage(channels_in, channels, stage_rates.tolist())
            for channels_in, channels, stage_rates in zip([dims[0], *dims], dims, rates, strict=False)
        )

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """[B, 3, 768, 768] -> [B, 192, 192, 192], [B, 384, 96, 96], [B, 768, 48, 48], [B, 1536, 24, 24].

        In training the residual branches are dropped at random unless `stochastic_depth` is off: the tower is frozen,
        yet the fixed training runs it so.
        """
        maps = [self.vision_stem(images)]
        for stage in self.vision_stages:
            maps.append(stage(maps[-1], self.training and self.stochastic_depth))
        return maps[1:]


def stack_maps(maps: list[torch.Tensor]) -> torch.Tensor:
    """The stages' maps on the first one's grid, one above the other: [B, 192, 192, 192], ... -> [B, 2880, 192, 192]."""
    return torch.cat(_on_first_grid(maps), dim=1)


def _on_first_grid(maps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    grid = maps[0].shape[-2:]
    resized = [F.interpolate(m.float(), size=grid, mode="bilinear", align_corners=False).to(m) for m in maps[1:]]
    return [maps[0], *resized]


def norm_linear(channels_in: int, channels: int) -> nn.Sequential:
    """LayerNorm then Linear, the form of all three maps of patch info mining."""
    return nn.Sequential(nn.LayerNorm(channels_in), nn.Linear(channels_in, channels))


def mine_patch_info(
    tokens: torch.Tensor, maps: list[torch.Tensor], query: nn.Sequential, key: nn.Sequential, value: nn.Sequential
) -> torch.Tensor:
    """Patch info mining (Mini-Gemini, 2403.18814, eq. 1): each CLIP token looks at its own positions of the aux map.

    The maps are linear, so they commute with the attention sum: queries are taken into the key space of 2880 channels
    (instead of 36,864 positions into the query space), and values are mapped after pooling. Biases on the key side add
    the same number to all scores of a patch, which softmax ignores.

    Args:
        tokens: [B, 576, 1024] CLIP patch tokens, a square grid in row order.
        maps: ConvNeXt's, see there; the first one's side is a multiple of the token grid's.
        query, key, value: `norm_linear` maps to 1024 channels.

    Returns:
        [B, 576, 1024], to be added to the tokens.
    """
    queries = (query(tokens) @ key[1].weight) * key[0].weight  # [B, 576, 2880]
    # Their exact gradient is zero; an optimizer must see zeros, not a missing gradient.
    nothing = 0.0 * (key[0].bias.sum() + key[1].bias.sum())

    def pool(queries: torch.Tensor, *maps: torch.Tensor) -> torch.Tensor:
        positions = positions_by_patch(maps, math.isqrt(tokens.shape[1]))  # [B, 576, 64, 2880]
        positions = F.layer_norm(positions, positions.shape[-1:], eps=key[0].eps)
        scores = torch.einsum("bpc,bpjc->bpj", queries, positions) / math.sqrt(tokens.shape[-1])  # [B, 576, 64]
        weights = torch.nan_to_num(scores + nothing).softmax(dim=-1)
        return torch.einsum("bpj,bpjc->bpc", weights, positions)  # [B, 576, 2880]

    # On a CPU an image at a time: its positions stay in the cache.
    together = 1 if tokens.device.type == "cpu" else max(1, len(tokens))
    parts = zip(*(part.split(together) for part in [queries, *maps]), strict=True)
    pooled = torch.cat([pool(*part) for part in parts])
    return value[1](pooled * value[0].weight + value[0].bias)


def mine_patch_info_plainly(
    tokens: torch.Tensor, maps: list[torch.Tensor], query: nn.Sequential, key: nn.Sequential, value: nn.Sequential
) -> torch.Tensor:
    """The same by the paper's formula, every position projected: what the fast form is tested against."""
    positions = _by_patch(stack_maps(maps), math.isqrt(tokens.shape[1])).flatten(3, 4).flatten(1, 2)
    scores = torch.einsum("bpd,bpjd->bpj", query(tokens), key(positions)) / math.sqrt(tokens.shape[-1])
    weights = torch.nan_to_num(scores).softmax(dim=-1)
    return torch.einsum("bpj,bpjd->bpd", weights, value(positions))


def positions_by_patch(maps: Sequence[torch.Tensor], grid: int) -> torch.Tensor:
    """The stacked maps' positions, patch by patch: [B, grid * grid, s * s, 2880]. Each map is copied once."""
    return torch.cat([_by_patch(m, grid) for m in _on_first_grid(maps)], dim=-1).flatten(3, 4).flatten(1, 2)


def _by_patch(found: torch.Tensor, grid: int) -> torch.Tensor:
    """[B, C, grid * s, grid * s] -> [B, grid, grid, s, s, C], a view."""
    side = found.shape[2] // grid
    return found.unflatten(3, (grid, side)).unflatten(2, (grid, side)).permute(0, 2, 4, 3, 5, 1)
