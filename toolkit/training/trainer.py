"""The fixed training on transformers' Trainer: its averaging, optimizer, sample order and checkpoints.

Does no argument reading (train.py) and knows nothing of rows (data.py). Works with transformers 4.57 and 5.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer

from toolkit.errors import UserError
from toolkit.training.checkpoints import UNFINISHED, publish
from toolkit.training.data import start_worker
from toolkit.training.master import make_optimizer
from toolkit.weights import read_weights

LOSSES = "losses_{process}.pt"
# How torch says that a file could not be written.
WRITE_FAULTS = ("PytorchStreamWriter", "unexpected pos", "file write failed")


class MicroBatches:
    """The micro-batches of one optimizer step, each read only when it is due.

    The Trainer would read all of them first: the device would wait, and hundreds of images would fill the memory.
    """

    def __init__(self, iterator: Iterator[dict[str, Any]], count: int):
        self.iterator = iterator
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for _ in range(self.count):
            batch = next(self.iterator)
            if "fault" in batch:
                raise UserError(
                    f"{batch['fault']}; bring the file back and run the same command again to resume, or remove the "
                    "row and start again"
                )
            yield batch


class FixedTrainer(Trainer):
    """Trainer of one stage.

    Args:
        micro_batches: indices of this process's micro-batches, in training order.
        save_weights: writes the model into a checkpoint folder.
        keep: checkpoints kept.
        kwargs: the Trainer's own.
    """

    def __init__(self, micro_batches: list[list[int]], save_weights: Callable[[Path], None], keep: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.keep = keep
        self.micro_batches = micro_batches
        self.save_weights = save_weights
        self.step_losses: list[torch.Tensor] = []
        # It prints raw dictionaries; progress.py prints lines.
        self.remove_callback(PrinterCallback)
        self.model.register_load_state_dict_post_hook(_allow_missing_frozen)

    def get_train_dataloader(self) -> DataLoader:
        """This process's share, in the order it was given: accelerate neither shuffles nor shares it out again."""
        return DataLoader(
            self.train_dataset,
            batch_sampler=self.micro_batches,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=start_worker,
        )

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, _device: torch.device
    ) -> tuple[MicroBatches, None]:
        """A step's micro-batches, and no count of their tokens: the loss is the mean of micro-batch means then."""
        return MicroBatches(epoch_iterator, num_batches), None

    def create_optimizer(self, *_: Any) -> torch.optim.Optimizer:
        """See `make_optimizer`; called more than once."""
        if self.optimizer is None:
            own_masters = not self.is_deepspeed_enabled
            self.optimizer = make_optimizer(self.model, self.args.learning_rate, own_masters)
        return self.optimizer

    def _prepare_input(self, data: Any) -> Any:
        # From pinned memory nobody waits for a copy: the device takes its work in order.
        if isinstance(data, torch.Tensor):
            return data.to(self.args.device, non_blocking=True)
        return super()._prepare_input(data)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """See Trainer; keeps the loss for `log`, and looks at it before the weights are changed by it.

        Raises:
            UserError: the loss of a step is not finite.
        """
        loss = super().training_step(*args, **kwargs)
        self.step_losses.append(loss.detach())
        count = self.args.gradient_accumulation_steps
        if len(self.step_losses) % count == 0:
            total = self._mean_of_processes(torch.stack(self.step_losses[-count:]).sum())
            if not math.isfinite(total):
                raise UserError(
                    f"the loss is {total} at step {self.state.global_step + 1}: training has failed and nothing of "
                    "this step is saved; check the data of this run, or try another TRAIN_SEED"
                )
        return loss

    def _mean_of_processes(self, value: torch.Tensor) -> float:
        return self.accelerator.gather(value).mean().item()

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Replace the Trainer's rounded loss by the full one."""
        if "loss" in logs:
            steps = len(self.step_losses) / self.args.gradient_accumulation_steps
            logs["loss"] = self._mean_of_processes(torch.stack(self.step_losses).sum() / steps)
            self.step_losses.clear()
        super().log(logs, *args, **kwargs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write a checkpoint's weights; under ZeRO-2 every process holds all of them."""
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            self.save_weights(folder)

    def _get_output_dir(self, trial: Any) -> str:
        # Where the Trainer writes checkpoints.
        return str(Path(self.args.output_dir, UNFINISHED))

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        if self.state.global_step == self.state.max_steps:
            return  # the result is written next: of MGM-2B 6 GB, where a checkpoint is 41
        unfinished = Path(self.args.output_dir, UNFINISHED)
        try:
            super()._save_checkpoint(*args, **kwargs)
        except (OSError, RuntimeError, SafetensorError) as error:
            if isinstance(error, RuntimeError) and not any(fault in str(error) for fault in WRITE_FAULTS):
                raise
            free = shutil.disk_usage(self.args.output_dir).free
            shutil.rmtree(unfinished, ignore_errors=True)
            raise UserError(
                f"the checkpoint of step {self.state.global_step} cannot be written to {self.args.output_dir} "
                f"({free / 1e9:.1f} GB were free): {str(error).splitlines()[0]}; make room and run the same command "
                "again to resume"
            ) from None
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            publish(unfinished / f"checkpoint-{self.state.global_step}", unfinished.parent, self.keep)
        self.accelerator.wait_for_everyone()

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        losses = Path(output_dir, LOSSES.format(process=self.args.process_index))
        losses.parent.mkdir(parents=True, exist_ok=True)
        torch.save([loss.cpu() for loss in self.step_losses], losses)
        if self.is_deepspeed_enabled:
            self.model_wrapped.save_checkpoint(output_dir, exclude_frozen_parameters=True)
            if self.args.should_save:
                torch.save(self.lr_scheduler.state_dict(), Path(output_dir, "scheduler.pt"))
        else:
            super()._save_optimizer_and_scheduler(output_dir)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint:  # the next logged loss is the mean of the steps before the checkpoint too
            losses = torch.load(Path(checkpoint, LOSSES.format(process=self.args.process_index)), weights_only=True)
            self.step_losses = [loss.to(self.args.device) for loss in losses]

    def _load_from_checkpoint(self, resume_from_checkpoint: str, _model: Any = None) -> None:
        # Without DeepSpeed, which brings its own. `_allow_missing_frozen` applies here too.
        self.model.load_state_dict(dict(read_weights(Path(resume_from_checkpoint))))


def _allow_missing_frozen(model: torch.nn.Module, keys: Any) -> None:
    """Checkpoints hold what learns; frozen weights come from the base models, the tied lm_head from the embedding."""
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    keys.missing_keys[:] = [name for name in keys.missing_keys if name in trainable]
