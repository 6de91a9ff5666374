"""DeepSpeed ZeRO stage 2: its configuration, and what it needs to start without a launcher or a compiler."""

from __future__ import annotations

import os
import socket
from collections import defaultdict
from pickle import UnpicklingError
from typing import Any


def zero_config(batch: int, accumulation: int, bf16: bool, offload: bool) -> dict[str, Any]:
    """DeepSpeed's configuration.

    Clipping is off by name: the fixed training does not clip, but newer DeepSpeed does by default. The optimizer is
    ours, torch's AdamW, also where it is offloaded: DeepSpeed's own CPU Adam would have to be compiled.

    Args:
        batch: samples of a micro-batch.
        accumulation: micro-batches per process and step.
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


def disable_compiled_operators() -> None:
    """Declare DeepSpeed's compiled operators unavailable: there may be no compiler, and nothing here needs them."""
    import deepspeed

    deepspeed.ops.__compatible_ops__ = defaultdict(bool)


def refuse_code_in_checkpoints() -> None:
    """Have DeepSpeed read its states as all else is read: tensors, plain values and three classes of its own."""
    import torch
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    def stage_named(kind: type[ZeroStageEnum], name: str) -> ZeroStageEnum:
        if kind is not ZeroStageEnum:
            raise UnpicklingError(f"{kind} is no ZeRO stage")
        return kind[name]

    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"  # it asks for an unpickler that runs what a file says
    # Python up to 3.11.3 writes an enumeration's member as `getattr` of its class.
    torch.serialization.add_safe_globals(
        [LossScaler, ZeroStageEnum, fragment_address, (stage_named, "builtins.getattr")]
    )


def set_single_process_environment() -> None:
    """Give a process without a launcher the environment of a group of one, which DeepSpeed asks for."""
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
