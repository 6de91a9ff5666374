"""Time answering one question at a time against the default, in one process, and check that the answers agree.

    python -m benchmarks.inference --preset full     # one GPU, random weights of MGM-2B
    python -m benchmarks.inference --preset mini     # the CPU

The questions have different lengths and come four to an image, as in MMBench's circular evaluation. Answers are
forced to their full length, so that a random model works as hard as a trained one.
"""

from __future__ import annotations

import argparse
import io
import random
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.models import describe, device_of, model_of, seconds
from toolkit.eval.inference import Answerer
from toolkit.eval.questions import Question
from toolkit.mgm.checkpoint import load_tokenizer
from toolkit.presets import load_preset

QUESTIONS_PER_IMAGE = 4
# Random weights need some vocabulary: the mini world's is part of the repository.
TOKENIZER_OF = load_preset("mini").llm


def questions_of(count: int, side: int, folder: Path) -> list[Question]:
    """Questions of 5 to 60 words on images of random pixels."""
    chance = random.Random(0)
    pixels = np.random.default_rng(0)
    words = ["sign", "what", "is", "the", "colour", "of", "left", "dog", "car", "how", "many", "A.", "B.", "C."]
    questions = []
    for number in range(count):
        path = folder / f"{number // QUESTIONS_PER_IMAGE}.png"
        if not path.exists():
            buffer = io.BytesIO()
            Image.fromarray(pixels.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(buffer, "PNG")
            path.write_bytes(buffer.getvalue())
        text = " ".join(chance.choices(words, k=chance.randint(5, 60)))
        questions.append(Question(str(number), path, text))
    return questions


def main() -> None:
    """Answer the same questions both ways and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="mini", help="full, 10k or mini (default: mini)")
    parser.add_argument("--questions", type=int, default=64, help="how many (default: 64)")
    parser.add_argument("--batch", type=int, default=16, help="answered at a time in the default mode (default: 16)")
    parser.add_argument("--new-tokens", type=int, default=8, help="length of every answer (default: 8)")
    args = parser.parse_args()
    preset = load_preset(args.preset)
    device = device_of(preset)
    model = model_of(preset, device).eval().to(torch.float16 if device.type == "cuda" else torch.float32)
    model.generation_config.min_new_tokens = args.new_tokens
    answerer = Answerer(model, load_tokenizer(TOKENIZER_OF))
    print(describe(device))

    answers: dict[str, dict[int, str]] = {"reference": {}, "default": {}}
    times = {}
    with tempfile.TemporaryDirectory() as folder:
        questions = questions_of(args.questions, preset.image_size_aux, Path(folder))

        def run(mode: str) -> None:
            model.set_reference_mode(mode == "reference")
            work = answerer.answers_one_at_a_time if mode == "reference" else answerer.answers
            for some in work(questions, args.batch, args.new_tokens):
                answers[mode] |= some

        for mode in answers:
            next(answerer.answers(questions[:1], 1, args.new_tokens))  # warm-up
            times[mode] = seconds(lambda mode=mode: run(mode), device)
            print(f"{mode:10} {args.questions / times[mode]:8.2f} questions/s")
    agreeing = sum(answers["reference"][index] == answers["default"][index] for index in range(args.questions))
    print(f"default is {times['reference'] / times['default']:.2f} times as fast as one question at a time")
    print(f"{agreeing} of {args.questions} answers are the same text ({preset.precision} preset, {model.dtype})")
    if model.dtype == torch.float32 and agreeing < args.questions:
        raise SystemExit("error: in float32 every answer must be the same")


if __name__ == "__main__":
    main()
