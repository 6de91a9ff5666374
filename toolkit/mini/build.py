"""Paths of all products of the mini world, and the parts that build them."""

from __future__ import annotations

import time
from collections.abc import Callable

from toolkit.files import REPOSITORY
from toolkit.mini.evaluation import build_mmbench, build_textvqa
from toolkit.mini.instruct import build_instruct
from toolkit.mini.seed import build_seed

SEED = REPOSITORY / "input" / "mini"
TRUTH = REPOSITORY / "toolkit" / "mini" / "truth" / "seed_truth.jsonl"
INSTRUCT = REPOSITORY / "toolkit" / "training" / "data" / "mini"
TEXTVQA = REPOSITORY / "toolkit" / "eval" / "mini" / "textvqa"
MMBENCH = REPOSITORY / "toolkit" / "eval" / "mini" / "mmbench" / "mmbench_mini.tsv"
ZOO = REPOSITORY / "toolkit" / "training" / "model_zoo" / "mini"
CLIP = ZOO / "OpenAI" / "clip-vit-mini-patch16-96"
CONVNEXT = ZOO / "OpenAI" / "openclip-convnext-mini"
GEMMA = ZOO / "LLM" / "gemma" / "gemma-mini-it"
CAPTIONER = ZOO / "captioner"


def _seed() -> None:
    build_seed(SEED, TRUTH, draw=0)


def _instruct() -> None:
    build_instruct(INSTRUCT)


def _evaluation() -> None:
    build_textvqa(TEXTVQA, "dev")
    build_mmbench(MMBENCH, "dev")


def _clip() -> None:
    from toolkit.mini.clip import build_clip

    build_clip(CLIP)


def _convnext() -> None:
    from toolkit.mini.convnext import build_convnext

    build_convnext(CONVNEXT)


def _gemma() -> None:
    from toolkit.mini.gemma import build_gemma

    build_gemma(GEMMA)


def _captioner() -> None:
    from toolkit.mini.captioner import build_captioner

    build_captioner(CAPTIONER, CLIP)


PARTS: dict[str, Callable[[], None]] = {
    "seed": _seed, "instruct": _instruct, "eval": _evaluation,
    "clip": _clip, "convnext": _convnext, "gemma": _gemma, "captioner": _captioner,
}  # fmt: skip


def build(names: list[str]) -> None:
    """Build the named parts in order and print the time each took."""
    for name in names:
        started = time.monotonic()
        PARTS[name]()
        print(f"{name}: built in {time.monotonic() - started:.0f} s", flush=True)
