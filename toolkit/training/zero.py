"""DeepSpeed ZeRO stage 2: its configuration, and whether the optimizer has to leave the GPU."""

from __future__ import annotations

import os
import socket
from collections import defaultdict
from typing import Any

# Bytes a trainable parameter takes in bf16 training: an fp32 master and AdamW's two moments, shared among the
# processes, and the fp32 gradient that exists while the optimizer steps.
OPTIMIZER_BYTES = 12 + 4
MODEL_BYTES = 2
GRADIENT_BYTES = 2
# A logit lives as bf16, as fp32 and as its gradient.
LOGIT_BYTES = 2 + 4 + 4
# Words a sample brings besides its picture, generously.
WORDS = 512
# CUDA context, communication buffers, activations between checkpoints.
OTHER_BYTES = 6 << 30


def zero_config(batch: int, accumulation: int, bf16: bool, offload: bool) -> dict[str, Any]:
    """DeepSpeed's configuration.

    Clipping is off by name: the fixed training does not clip, but newer DeepSpeed does by default. The optimizer is
    ours, torch's AdamW, also where it is offloaded: DeepSpeed's own CPU Adam would have to be compiled.

    Args:
        batch: samples of a micro-batch.
        accumulation: micro-batches a process adds up.
        bf16: bf16 weights with fp32 masters; else everything is fp32.
        offload: keep optimizer state and masters in host memory.
    """
    zero: dict[str, Any] = {"stage": 2, "overlap_comm": True, "contiguous_gradients": True}
    if offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    return {
        "train_micro_batch_size_per_gpu": batch,
        "gradient_accumulation_steps": accumulation,
        "bf16": {"enabled": bf16},
        "zero_optimization": zero,
        "gradient_clipping": 0.0,
        "zero_force_ds_cpu_optimizer": False,
    }


def needs_offload(
    parameters: int, trainable: int, processes: int, batch: int, image_tokens: int, vocabulary: int, gpu_bytes: int
) -> bool:
    """Whether bf16 training with the optimizer on the GPU would not fit.

    Args:
        parameters, trainable: counts, of the whole model and of what learns.
        processes: GPUs that share the optimizer state.
        batch: samples of a micro-batch.
        image_tokens, vocabulary: length of a picture and width of the logits, the largest activation.
        gpu_bytes: memory of the smallest GPU.
    """
    weights = MODEL_BYTES * parameters + GRADIENT_BYTES * trainable
    optimizer = OPTIMIZER_BYTES * trainable // processes
    logits = LOGIT_BYTES * batch * (image_tokens + WORDS) * vocabulary
    return weights + optimizer + logits + OTHER_BYTES > gpu_bytes


def forgo_compiled_operators() -> None:
    """Declare DeepSpeed's compiled operators unavailable: there may be no compiler, and nothing here needs them."""
    import deepspeed

    deepspeed.ops.__compatible_ops__ = defaultdict(bool)


def join_alone() -> None:
    """Tell a process without a launcher that it is alone: DeepSpeed asks, and other GPUs are left in peace."""
    if "RANK" in os.environ:
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ |= {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
