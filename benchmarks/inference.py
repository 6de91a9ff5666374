"""Time answering one question at a time against the default, in one process, and check that the answers agree.

    python -m benchmarks.inference --preset full     # one GPU, random weights of MGM-2B
    python -m benchmarks.inference --preset mini     # the CPU

The questions have different lengths and come four to an image, as in MMBench's circular evaluation; images are JPEGs, a
third wider than high. Answers are forced to their full length, so that a random model works as hard as a trained one.
The default comes first, in a process that has not used its device: loading the model (`Answerer.load`, from a folder
that another process wrote, so that the page cache holds it) and the first pass pay for all that a process does once:
context, libraries, plans, CUDA graphs. Two ratios are told: of the passes alone, whose rate `eval` prints; and with the
loading of either side, what a user of `eval` waits for after the imports. The reference side comes second and finds the
context and the libraries there: either ratio is rather too small.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import random
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.profiler import ProfilerActivity, profile

from benchmarks.models import clock_of, describe, device_of, model_of, seconds
from toolkit.eval.inference import Answerer
from toolkit.eval.questions import Question
from toolkit.mgm.checkpoint import load_tokenizer, save_finetuned
from toolkit.presets import load_preset

QUESTIONS_PER_IMAGE = 4
KERNELS_LISTED = 40
REPORTED = 64  # questions answered one at a time
ALONE = "reference"
# Random weights need some vocabulary: the mini world's is part of the repository.
TOKENIZER_OF = load_preset("mini").llm


def questions_of(count: int, side: int, folder: Path) -> list[Question]:
    """Questions of 5 to 60 words on images of coloured clouds with some grain."""
    chance = random.Random(0)
    noise = np.random.default_rng(0)
    words = ["sign", "what", "is", "the", "colour", "of", "left", "dog", "car", "how", "many", "A.", "B.", "C."]
    size = (side * 4 // 3, side)
    questions = []
    for number in range(count):
        path = folder / f"{number // QUESTIONS_PER_IMAGE}.jpg"
        if not path.exists():
            clouds = Image.fromarray(noise.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(size)
            grain = noise.integers(-12, 13, (size[1], size[0], 3))
            buffer = io.BytesIO()
            Image.fromarray((np.asarray(clouds) + grain).clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
            path.write_bytes(buffer.getvalue())
        text = " ".join(chance.choices(words, k=chance.randint(5, 60)))
        questions.append(Question(str(number), path, text))
    return questions


def write_model(preset: str, folder: Path) -> None:
    """A model folder as finetuning leaves it, with `model_of`'s weights."""
    figures = load_preset(preset)
    save_finetuned(model_of(figures, device_of(figures)), load_tokenizer(TOKENIZER_OF), folder)


class Parts:
    """Seconds by part of a pass; the device is waited for after each, which costs the pass next to nothing."""

    def __init__(self, answerer: Answerer):
        self.device = answerer.model.device
        self.spent: defaultdict[str, float] = defaultdict(float)
        self._watch(answerer.model, "encode_images", "towers")
        self._watch(answerer.decoder, "prefixes", "prefixes")
        self._watch(answerer.decoder, "_suffixes", "rests of prompts")
        self._watch(answerer.decoder, "_step", "steps")

    def _watch(self, owner: Any, method: str, part: str) -> None:
        plain = getattr(owner, method)

        def timed(*arguments: Any, **named: Any) -> Any:
            results = []
            self.spent[part] += seconds(lambda: results.append(plain(*arguments, **named)), self.device)
            return results[0]

        setattr(owner, method, timed)

    def report(self, total: float) -> str:
        """One line on the pass that has ended: what is not watched is the rest, as reading images and tokenising."""
        parts = [*self.spent.items(), ("rest", total - sum(self.spent.values()))]
        self.spent.clear()
        return ", ".join(f"{part} {spent:.2f}" for part, spent in parts)


class Passes:
    """Passes over the same questions: their rates, answers and parts.

    Args:
        folder: of the model.
        questions: all of them.
        new_tokens: length of every answer.
        clock: seconds; see `clock_of`.
    """

    def __init__(self, folder: Path, questions: list[Question], new_tokens: int, clock: Callable[[], float]):
        self.folder, self.questions, self.new_tokens = folder, questions, new_tokens
        self.clock = clock
        self.rates: dict[str, float] = {}
        self.texts: dict[str, dict[int, str]] = {}

    def load(self, reference: bool = False) -> float:
        """Read the model as `eval` does; returns the seconds it took."""
        started = self.clock()
        self.answerer = Answerer.load(self.folder, full_precision=False, reference_mode=reference)
        if self.answerer.model.device.type == "cuda":
            torch.cuda.synchronize()
        spent = self.clock() - started
        self.answerer.model.generation_config.min_new_tokens = self.new_tokens
        self.parts = Parts(self.answerer)
        print(f"{'reference' if reference else 'default'}: the model loaded in {spent:.2f} s", flush=True)
        return spent

    def run(self, name: str, batch: int | None, count: int | None = None, reference: bool = False) -> None:
        """Answer the first `count` questions, print rate, peak memory and parts."""
        asked, device = self.questions[:count], self.answerer.model.device
        work = self.answerer.answers_one_at_a_time if reference else self.answerer.answers
        self.texts[name] = {}
        started = self.clock()
        for some in work(asked, batch, self.new_tokens):
            self.texts[name].update(some)
            if reference and len(self.texts[name]) % REPORTED == 0:
                print(f"  {len(self.texts[name])} in {self.clock() - started:.1f} s", flush=True)
        spent = self.clock() - started
        self.rates[name] = len(asked) / spent
        peak = f", peak {torch.cuda.max_memory_allocated() / 1e9:.1f} GB" if device.type == "cuda" else ""
        print(
            f"{name:28} {self.rates[name]:8.2f} questions/s, {spent:.2f} s{peak}: {self.parts.report(spent)}",
            flush=True,
        )


def kernels(work: Callable[[], object], device: torch.device) -> str:
    """Table of the operations that took a device longest, themselves and without what they call."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities) as found:
        seconds(work, device)
    column = f"self_{device.type}_time_total"
    return found.key_averages().table(sort_by=column, row_limit=KERNELS_LISTED, max_name_column_width=90)


def main() -> None:
    """Answer the same questions both ways and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="mini", help="full, 10k or mini (default: mini)")
    parser.add_argument("--questions", type=int, default=64, help="how many (default: 64)")
    parser.add_argument("--alone", type=int, help="of these, how many one at a time too (default: all)")
    parser.add_argument("--batch", type=int, nargs="+", help="answered at a time (default: as memory allows)")
    parser.add_argument("--without-graphs", action="store_true", help="also a pass without CUDA graphs")
    parser.add_argument("--profile", action="store_true", help="also list the device's kernels by time")
    parser.add_argument("--new-tokens", type=int, default=8, help="length of every answer (default: 8)")
    args = parser.parse_args()
    preset = load_preset(args.preset)
    device = device_of(preset)
    with tempfile.TemporaryDirectory() as folder:
        trained = Path(folder, "model")
        if preset.needs_gpu:  # in a process of its own: this one has not used the GPU when it loads the model
            writer = multiprocessing.get_context("spawn").Process(target=write_model, args=(args.preset, trained))
            writer.start()
            writer.join()
            if writer.exitcode:
                raise SystemExit("error: no model could be written, see above")
        else:
            write_model(args.preset, trained)
        questions = questions_of(args.questions, preset.image_size_aux, Path(folder))
        passes = Passes(trained, questions, args.new_tokens, clock_of(device))
        loaded = passes.load()
        print(describe(device), f"; load of {os.cpu_count()} cores: {os.getloadavg()[0]:.1f}", sep="")
        for batch in args.batch or [None]:
            for turn in ("first", "next"):
                passes.run(f"default, batch {batch or 'auto'}, {turn}", batch)
        first = next(iter(passes.rates))
        if args.without_graphs:
            passes.answerer.decoder.use_graphs = False
            passes.run("without graphs", batch)
            passes.answerer.decoder.use_graphs = device.type == "cuda"
        if args.profile:
            print(kernels(lambda: list(passes.answerer.answers(questions, batch, args.new_tokens)), device))
        reloaded = passes.load(reference=True)
        passes.run("reference, warm-up", 1, count=1, reference=True)
        passes.run(ALONE, 1, count=args.alone, reference=True)
        started = passes.clock()
        for question in {question.image: question for question in questions}.values():
            passes.answerer._pixels(question)
        print(f"the images, read by one thread beside nothing: {passes.clock() - started:.2f} s")
        ratio = passes.rates[first] / passes.rates[ALONE]
        print(f"the first pass is {ratio:.2f} times as fast as one question at a time")
        each = [seconds + len(questions) / passes.rates[name] for seconds, name in ((loaded, first), (reloaded, ALONE))]
        print(f"with the model's loading: {each[1] / each[0]:.2f} times, {each[0]:.2f} s and {each[1]:.2f} s")
        plain = passes.texts[ALONE]
        for name, found in passes.texts.items():
            agreeing = sum(found[index] == plain[index] for index in found if index in plain)
            compared = len(found.keys() & plain.keys())
            print(f"{name}: {agreeing} of {compared} answers are the same text ({passes.answerer.model.dtype})")
            if passes.answerer.model.dtype == torch.float32 and agreeing < compared:
                raise SystemExit("error: in float32 every answer must be the same")


if __name__ == "__main__":
    main()
