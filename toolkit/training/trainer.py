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
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer

from toolkit.errors import UserError
from toolkit.mgm.checkpoint import read_weights
from toolkit.training.master import make_optimizer

TRAINER_STATE = "trainer_state.json"


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
        kwargs: the Trainer's own.
    """

    def __init__(self, micro_batches: list[list[int]], save_weights: Callable[[Path], None], **kwargs: Any):
        super().__init__(**kwargs)
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

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """See Trainer; keeps the loss for `log`."""
        loss = super().training_step(*args, **kwargs)
        self.step_losses.append(loss.detach())
        return loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Replace the Trainer's rounded loss by the full one.

        Raises:
            UserError: the loss is not finite.
        """
        if "loss" in logs:
            steps = len(self.step_losses) / self.args.gradient_accumulation_steps
            mean = torch.stack(self.step_losses).sum() / steps
            self.step_losses.clear()
            logs["loss"] = self.accelerator.gather(mean).mean().item()
            if not math.isfinite(logs["loss"]):
                raise UserError(
                    f"the loss is {logs['loss']} at step {self.state.global_step}: training has failed; "
                    "check the data of this run, or try another TRAIN_SEED"
                )
        super().log(logs, *args, **kwargs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write a checkpoint's weights; under ZeRO-2 every process holds all of them."""
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            self.save_weights(folder)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.is_deepspeed_enabled:
            self.model_wrapped.save_checkpoint(output_dir, exclude_frozen_parameters=True)
            if self.args.should_save:
                torch.save(self.lr_scheduler.state_dict(), Path(output_dir, "scheduler.pt"))
        else:
            super()._save_optimizer_and_scheduler(output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, _model: Any = None) -> None:
        # Without DeepSpeed, which brings its own. `_allow_missing_frozen` applies here too.
        self.model.load_state_dict(dict(read_weights(Path(resume_from_checkpoint))))


def _allow_missing_frozen(model: torch.nn.Module, keys: Any) -> None:
    """Checkpoints hold what learns; frozen weights come from the base models, the tied lm_head from the embedding."""
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    keys.missing_keys[:] = [name for name in keys.missing_keys if name in trainable]


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint; incomplete ones, whose writing was cut short, are removed."""
    found: dict[int, Path] = {}
    for path in folder.glob("checkpoint-*"):
        if (path / TRAINER_STATE).is_file():
            found[int(path.name.removeprefix("checkpoint-"))] = path
        else:
            shutil.rmtree(path)
    return found[max(found)] if found else None
