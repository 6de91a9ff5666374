"""One line per logging step on the terminal: how far training is and when it will end."""

from __future__ import annotations

import time
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

BAR_WIDTH = 20


def duration(seconds: float) -> str:
    """`1:02:03`, or `02:03` below an hour."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes:02}:{seconds:02}"


class Progress(TrainerCallback):
    """Prints loss, learning rate, speed and time left.

    Args:
        stage: printed at the start of each line.
        global_batch: samples of an optimizer step.
    """

    def __init__(self, stage: str, global_batch: int):
        self.stage = stage
        self.global_batch = global_batch
        self.seconds = 0.0
        self.steps = 0

    def on_train_begin(self, _args: TrainingArguments, state: TrainerState, _control: TrainerControl, **_: Any) -> None:
        """Start the clock; a resumed run counts its own steps."""
        self.started = time.perf_counter()
        self.first_step = state.global_step

    def on_step_end(self, _args: TrainingArguments, state: TrainerState, _control: TrainerControl, **_: Any) -> None:
        """Read the clock."""
        self.seconds = time.perf_counter() - self.started
        self.steps = state.global_step - self.first_step

    @property
    def samples_per_second(self) -> float:
        """Samples of all processes over this run's training time so far."""
        return self.steps * self.global_batch / self.seconds if self.seconds else 0.0

    def on_log(
        self,
        _args: TrainingArguments,
        state: TrainerState,
        _control: TrainerControl,
        logs: dict[str, float],
        **_: Any,
    ) -> None:
        """Print one line; the Trainer's closing summary, which has no loss of its own, is left to the record."""
        if "loss" not in logs or not state.is_world_process_zero:
            return
        step, total = state.global_step, state.max_steps
        left = (total - step) * self.global_batch / self.samples_per_second
        filled = BAR_WIDTH * step // total
        print(
            f"{self.stage} [{'#' * filled}{'.' * (BAR_WIDTH - filled)}] step {step}/{total}  loss {logs['loss']:.4f}  "
            f"lr {logs['learning_rate']:.2e}  {self.samples_per_second:.1f} samples/s  {duration(left)} left",
            flush=True,
        )
