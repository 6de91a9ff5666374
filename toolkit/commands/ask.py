"""`python -m toolkit ask`: one question about one image."""

from __future__ import annotations

import argparse
from pathlib import Path

from toolkit.errors import positive
from toolkit.eval.questions import Question

DEFAULT_ANSWER_TOKENS = 128


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m toolkit ask`."""
    parser.add_argument("--model", type=Path, required=True, help="folder of a finetuned or published MGM")
    parser.add_argument("--image", type=Path, required=True, help="image file")
    parser.add_argument(
        "--max-new-tokens", type=positive, default=DEFAULT_ANSWER_TOKENS, help="longest answer (%(default)s)"
    )
    parser.add_argument("question")


def run(args: argparse.Namespace) -> None:
    """Print the model's answer to one question about one image."""
    from toolkit.eval.inference import Answerer

    answerer = Answerer.load(args.model, full_precision=False)
    question = Question("asked", args.image, args.question)
    for answers in answerer.answers([question], batch=1, max_new_tokens=args.max_new_tokens):
        print(answers[0])
