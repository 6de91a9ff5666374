"""One stage of the fixed training, from a model and rows to trained weights."""

from __future__ import annotations

import functools
import importlib.util
import logging
import math
import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import transformers
from transformers import TrainingArguments

from toolkit.allocator import keep_freed_memory
from toolkit.errors import UserError
from toolkit.mgm.model import MGMGemmaForCausalLM
from toolkit.presets import WARMUP_RATIO
from toolkit.training.checkpoints import last_checkpoint
from toolkit.training.data import Collator, SampleReader, TrainingSet
from toolkit.training.disk import require_space
from toolkit.training.health import Weights, warnings_of
from toolkit.training.memory import Fit, best_fit, sizes_of
from toolkit.training.order import micro_batches, modality_grouped_order, shuffled_order, word_lengths
from toolkit.training.plan import RunOptions, Settings
from toolkit.training.progress import Progress
from toolkit.training.speed.packing import PackedDecoder
from toolkit.training.speed.regions import speed_up
from toolkit.training.trainer import FixedTrainer
from toolkit.training.zero import (
    disable_compiled_operators,
    refuse_code_in_checkpoints,
    set_single_process_environment,
    zero_config,
)

# A process may wait while another prepares data or writes a checkpoint of tens of GB.
WAIT_SECONDS = 3600 * 2
LONGEST_TMPDIR = 75  # bytes: a socket's path may have 107, and torch adds /pymp-xxxxxxxx/listener-xxxxxxxx


@dataclass(frozen=True)
class Outcome:
    """What a stage did.

    Args:
        trainer: the Trainer after its last step.
        steps, micro_batches, samples: of all processes, over the whole stage.
        resumed_at_step: step of the checkpoint it resumed from, or 0.
        seconds, samples_per_second: of this process's training loop.
        warnings: see `warnings_of`.
    """

    trainer: FixedTrainer
    steps: int
    micro_batches: int
    samples: int
    resumed_at_step: int
    seconds: float
    samples_per_second: float
    warnings: list[str]


def fit(
    model: MGMGemmaForCausalLM,
    rows: Sequence[dict[str, Any]],
    reader: SampleReader,
    settings: Settings,
    options: RunOptions,
    folder: Path,
    save_weights: Callable[[Path], None],
) -> Outcome:
    """Train one stage for one epoch, or what is left of it after the last checkpoint in `folder`.

    Args:
        model: in the dtype of the settings' precision, on the CPU; trained in place.
        rows: LLaVA-format, all of them trainable (see `data.scan`).
        reader: makes samples of them.
        folder: receives checkpoints and TensorBoard logs.
        save_weights: writes the model's weights into the checkpoint folder it is given.

    Raises:
        UserError: too few rows for one optimizer step; too little room on the disk; an image has become unreadable;
            the loss is not finite; a worker that reads rows was killed.
    """
    _silence_libraries()
    if options.workers and len(os.fsencode(tempfile.gettempdir())) > LONGEST_TMPDIR:
        raise UserError(
            f"TMPDIR={tempfile.gettempdir()}: too long a path for data loader workers, whose sockets lie there (at "
            f"most {LONGEST_TMPDIR} bytes); choose another: TMPDIR=/tmp"
        )
    model.set_trainable(settings.stage)
    model.set_stochastic_depth(settings.stochastic_depth)
    model.set_reference_mode(options.reference_mode)
    gpu = torch.cuda.is_available()
    if gpu:
        # Not by the Trainer's `tf32`: from transformers 5 on that sets the new names, of which torch.compile knows
        # nothing before torch 2.12 and stops (pytorch/pytorch#166387).
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    batches = _global_batches(rows, settings)
    per_process = len(batches) // settings.processes
    steps = per_process // settings.accumulation
    if not options.reference_mode:
        warn = functools.partial(print, "warning:", flush=True)
        device = torch.device("cuda" if gpu else "cpu")
        if not gpu:
            keep_freed_memory()
        speed_up(model, device, per_process * settings.batch, settings.batch, warn)
    require_space(folder, sizes_of(model), settings.stage, settings.precision, options.save_total_limit)
    packed = isinstance(model.decoder, PackedDecoder)
    collate = Collator(reader.tokenizer.pad_token_id, reader.image_tokens, reader.max_length, packed)
    progress = Progress(settings.stage, settings.global_batch)
    arguments = _arguments(model, settings, options, steps, folder)
    trainer = FixedTrainer(
        micro_batches=batches[arguments.process_index :: settings.processes],
        save_weights=save_weights,
        keep=options.save_total_limit,
        model=model,
        args=arguments,
        train_dataset=TrainingSet(rows, reader),
        data_collator=collate,
        callbacks=[progress],
    )
    with arguments.main_process_first(local=False):
        checkpoint = last_checkpoint(folder, say=lambda line: print(line, flush=True))
    weights = Weights(model)
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except UnpicklingError:
        raise UserError(
            f"{checkpoint}: one of its files would run code when it is loaded; remove the folder and run the same "
            "command again"
        ) from None
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise UserError(
            f"{str(error).splitlines()[0]}, as where memory is short; the same command resumes after the last "
            f"checkpoint; fewer workers than {options.workers} take less memory"
        ) from None
    return Outcome(
        trainer=trainer,
        steps=steps,
        micro_batches=len(batches),
        samples=sum(len(batch) for batch in batches),
        resumed_at_step=progress.first_step,
        seconds=progress.seconds,
        samples_per_second=progress.samples_per_second,
        warnings=warnings_of(settings.stage, steps, trainer.state.log_history, weights.unchanged()),
    )


def _global_batches(rows: Sequence[dict[str, Any]], settings: Settings) -> list[list[int]]:
    if settings.group_by_modality_length:
        chunks = settings.accumulation * settings.processes
        order = modality_grouped_order(word_lengths(rows), settings.batch, chunks, settings.order_seed)
    else:
        order = shuffled_order(len(rows), settings.order_seed)
    batches = micro_batches(order, settings.batch, settings.accumulation, settings.processes)
    if not batches:
        raise UserError(
            f"{len(rows)} rows make no {settings.stage} step: one takes {settings.global_batch}; bring more rows"
        )
    return batches


def _arguments(
    model: MGMGemmaForCausalLM, settings: Settings, options: RunOptions, steps: int, folder: Path
) -> TrainingArguments:
    gpu = torch.cuda.is_available()
    bf16 = settings.precision == "bf16"
    deepspeed = None
    fit = _fit_gpu(model, settings) if gpu else Fit(settings.batch, checkpointing=False, offload=False)
    checkpointing = fit.checkpointing or (gpu and options.reference_mode)
    # On the only GPU, where it holds the optimizer, fp32 masters of our own do the same with less work (see master.py).
    # With further GPUs in sight the Trainer would spread one process over all of them.
    if options.deepspeed or fit.offload or torch.cuda.device_count() > 1:
        if not importlib.util.find_spec("deepspeed"):
            raise UserError("this training needs DeepSpeed: `pip install deepspeed`, or run install.sh again")
        set_single_process_environment()
        disable_compiled_operators()
        refuse_code_in_checkpoints()
        deepspeed = zero_config(settings.batch, settings.accumulation, bf16, fit.offload)
    return TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=settings.batch,
        gradient_accumulation_steps=settings.accumulation,
        max_steps=steps,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=math.ceil(WARMUP_RATIO * steps),
        max_grad_norm=0.0,  # off: the fixed training does not clip
        seed=settings.order_seed,
        bf16=bf16 and deepspeed is not None,  # else it would mean autocast
        use_cpu=not gpu,
        ddp_backend="gloo" if "RANK" in os.environ and not gpu else None,
        ddp_timeout=WAIT_SECONDS,
        deepspeed=deepspeed,
        gradient_checkpointing=checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if checkpointing else None,
        dataloader_num_workers=options.workers,
        logging_steps=options.logging_steps,
        logging_nan_inf_filter=False,
        save_steps=options.save_steps,
        report_to=["tensorboard"] if importlib.util.find_spec("tensorboard") else [],
        disable_tqdm=True,
    )


def _fit_gpu(model: MGMGemmaForCausalLM, settings: Settings) -> Fit:
    """The quickest way to train this micro-batch within the GPUs' memory; all savings where none seems to fit."""
    # Total, not free: every process must come to the same answer, whichever looks first.
    smallest = min(torch.cuda.mem_get_info(gpu)[1] for gpu in range(torch.cuda.device_count()))
    fit = best_fit(sizes_of(model), settings.stage, settings.processes, smallest, [settings.batch])
    return fit or Fit(settings.batch, checkpointing=True, offload=True)


def _silence_libraries() -> None:
    """Leave the terminal to the progress lines."""
    # accelerate imports DeepSpeed where it is installed, which then reports what it looked for and found.
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
    transformers.logging.set_verbosity_error()
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(torch|transformers|accelerate|deepspeed)\b.*")
