"""GPU memory of a training stage, estimated from shapes: which micro-batch fits, with which of the two savings.

An estimate on paper, on the careful side; the runs it decides about are the same training either way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from toolkit.mgm.model import MGMGemmaForCausalLM

GIB = 1 << 30
# bf16 weights and gradients; fp32 master and AdamW's two moments; the fp32 gradient that exists while it steps, when no
# sample's activations do. ZeRO keeps that too.
WEIGHT_BYTES, GRADIENT_BYTES, OPTIMIZER_BYTES, STEPPING_BYTES = 2, 2, 12, 4
# A logit lives as bf16, as fp32 and as its gradient.
LOGIT_BYTES = 2 + 4 + 4
# The stacked aux map: kept in patches for the backward pass, and copied a few times on the way there.
AUX_KEPT_BYTES, AUX_PASSING_BYTES = 2, 6
# CUDA context, communication buffers, fragmentation.
OTHER_BYTES = 4 * GIB
# Words of a micro-batch's mean sample besides its image, generously. Micro-batches of finetuning are of like length in
# total (order.py), and padding takes no memory.
WORDS = {"pretrain": 64, "finetune": 320}


@dataclass(frozen=True)
class Sizes:
    """Counts that decide a model's memory.

    Args:
        parameters, towers, adapter: of the whole model, of its two frozen towers, of projector and mining.
        layers, hidden, intermediate, vocabulary: of the language model.
        image_tokens: an image's (576).
        aux_values: numbers in an image's stacked aux map (2880 x 192 x 192).
    """

    parameters: int
    towers: int
    adapter: int
    layers: int
    hidden: int
    intermediate: int
    vocabulary: int
    image_tokens: int
    aux_values: int


MGM_2B = Sizes(
    parameters=3_019_166_144,
    towers=499_734_720,
    adapter=13_259_008,
    layers=18,
    hidden=2048,
    intermediate=16384,
    vocabulary=256000,
    image_tokens=576,
    aux_values=2880 * 192 * 192,
)


def sizes_of(model: MGMGemmaForCausalLM) -> Sizes:
    """A model's counts."""
    config, inner = model.config, model.model
    grid = config.image_size_aux // 4  # the stem's stride
    return Sizes(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        towers=sum(p.numel() for tower in (inner.vision_tower, inner.vision_tower_aux) for p in tower.parameters()),
        adapter=sum(parameter.numel() for parameter in model.adapter_parameters().values()),
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        vocabulary=config.vocab_size,
        image_tokens=model.image_tokens,
        aux_values=sum(config.vision_config_aux["dims"]) * grid**2,
    )


@dataclass(frozen=True)
class Fit:
    """How a stage fits a GPU.

    Args:
        batch: samples of a micro-batch.
        checkpointing: recompute the language model's activations in the backward pass.
        offload: keep the optimizer in host memory.
    """

    batch: int
    checkpointing: bool
    offload: bool


def stage_bytes(sizes: Sizes, stage: Literal["pretrain", "finetune"], fit: Fit, processes: int) -> int:
    """Peak memory of one GPU.

    Args:
        sizes: of the model.
        stage: decides what learns and how long samples are.
        fit: micro-batch and savings.
        processes: GPUs that share optimizer state and gradients (ZeRO-2).
    """
    learns = sizes.adapter if stage == "pretrain" else sizes.parameters - sizes.towers
    gradients = GRADIENT_BYTES * learns // processes + (GIB if processes > 1 else 0)
    optimizer = 0 if fit.offload else OPTIMIZER_BYTES * learns // processes
    stepping = 0 if fit.offload else STEPPING_BYTES * learns // processes
    words = WORDS[stage]
    # Kept of a layer for each token: its norms, attention and residuals, and the MLP's wide maps; a frozen weight does
    # not need its input kept.
    wide_maps = 3 if stage == "pretrain" else 4
    layer = 2 * (6 * sizes.hidden + wide_maps * sizes.intermediate)
    kept_layers = layer + sizes.layers * 2 * sizes.hidden if fit.checkpointing else sizes.layers * layer
    language = kept_layers * (sizes.image_tokens + words) + LOGIT_BYTES * words * sizes.vocabulary
    sample = AUX_KEPT_BYTES * sizes.aux_values + max(AUX_PASSING_BYTES * sizes.aux_values, language)
    passing = fit.batch * sample + (stepping if processes > 1 else 0)
    return WEIGHT_BYTES * sizes.parameters + gradients + optimizer + max(stepping, passing) + OTHER_BYTES


def best_fit(
    sizes: Sizes, stage: Literal["pretrain", "finetune"], processes: int, gpu_bytes: int, batches: list[int]
) -> Fit | None:
    """The quickest way that fits: without savings rather than with, then the larger micro-batch.

    Args:
        batches: micro-batches to choose from.

    Returns:
        None where not even the smallest fits.
    """
    for offload in (False, True):
        for checkpointing in (False, True):
            for batch in sorted(batches, reverse=True):
                fit = Fit(batch, checkpointing, offload)
                if stage_bytes(sizes, stage, fit, processes) <= gpu_bytes:
                    return fit
    return None
