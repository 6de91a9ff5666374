"""Operators: Data-Juicer's own against ours on the same rows, in one run.

    python -m benchmarks.operators --data SEED.jsonl [--clip FOLDER] [--rows 1000]

For similarity it prints seconds, their ratio and the largest difference of a score; without --clip a ViT-B/32-sized
CLIPModel with random weights is made, which costs the same. For the text and image measures of the LLaVA refinement
it times `dj-process` against `solution/process.py`, whole commands, and compares the kept rows (needs ray importable).
For operators that look at images it times a recipe in which each decodes them by itself, in one thread, against one
that decodes them once, while the seed is read, and compares rows and audits. Both sides take turns, so that a busy
machine slows both alike.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[1]
# The LLaVA refinement's thresholds for what needs no model (Data-Juicer's recipe; see solution/recipes).
REFINE = [
    {"alphanumeric_filter": {"tokenization": False, "min_ratio": 0.60}},
    {"character_repetition_filter": {"rep_len": 10, "max_ratio": 0.0937}},
    {"special_characters_filter": {"min_ratio": 0.165, "max_ratio": 0.420}},
    {"word_repetition_filter": {"rep_len": 10, "max_ratio": 0.0309}},
    {"image_aspect_ratio_filter": {"min_ratio": 0.333, "max_ratio": 3.0}},
    {"image_shape_filter": {"max_width": 727, "max_height": 606}},
    {"image_size_filter": {"max_size": "124KB"}},
]
IMAGES = [
    {"picture_deduplicator": {"max_distance": 10}},
    {"image_shape_filter": {"min_width": 100, "min_height": 100}},
    {"image_aspect_ratio_filter": {"min_ratio": 0.333, "max_ratio": 3.0}},
    {"picture_sharpness_filter": {"min_sharpness": 50.0}},
]
# process.py as it were if nothing of an image outlived its check.
EACH_BY_ITSELF = """
from solution import process
from solution.runner import run
from solution.runner.configuration import seed_images
run.measures_of = lambda operators: {}
seed_images._MOST_THREADS = 1
process.main()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="jsonl of pairs; image paths start at its folder")
    parser.add_argument("--clip", help="folder of a CLIPModel (default: ViT-B/32 with random weights)")
    parser.add_argument("--rows", type=int, default=1000, help="rows to work on (default: 1000)")
    parser.add_argument("--slices", type=int, default=4, help="turns of each side (default: 4)")
    parser.add_argument("--only", choices=("similarity", "refine", "images"), help="one of the three comparisons")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SCORE_STORE"] = f"{folder}/scores"  # an empty one
        if arguments.only in (None, "similarity"):
            similarity(arguments.data, arguments.clip or random_clip(Path(folder)), arguments.rows, arguments.slices)
        if arguments.only in (None, "refine"):
            refine(arguments.data, arguments.rows, Path(folder))
        if arguments.only in (None, "images"):
            images(arguments.data, arguments.rows, arguments.slices, Path(folder))


def random_clip(folder: Path) -> str:
    """A CLIPModel of ViT-B/32's size with random weights and a tokenizer that cuts words into pairs of letters."""
    import torch
    from tokenizers import Tokenizer, models, trainers
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizerFast
    from transformers.models.clip.tokenization_clip import bytes_to_unicode

    letters = [*bytes_to_unicode().values()]
    letters += [f"{letter}</w>" for letter in letters]
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = Whitespace()
    text = (ROOT / "README.md").read_text(), (ROOT / "solution" / "readme.md").read_text()
    learner.train_from_iterator(text, trainers.BpeTrainer(vocab_size=1500, end_of_word_suffix="</w>"))
    merges = [pair for pair in json.loads(learner.to_str())["model"]["merges"] if all(map(str.isascii, pair))]
    words = [*dict.fromkeys([*letters, *map("".join, merges)]), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, merges)) + "\n")
    tokenizer = CLIPTokenizerFast(str(folder / "vocab.json"), str(folder / "merges.txt"))
    torch.manual_seed(0)
    tokens = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1}
    target = folder / "clip"
    CLIPModel(CLIPConfig(text_config=tokens, vision_config={}, projection_dim=512)).save_pretrained(target)
    CLIPProcessor(CLIPImageProcessor(), tokenizer).save_pretrained(target)
    return str(target)


def similarity(data: Path, clip: str, count: int, slices: int) -> None:
    """Stock image_text_similarity_filter against clip_similarity_filter: whole steps, the model's loading included."""
    from solution.operators import register
    from solution.runner.data_juicer import OPERATORS, STATS, NestedDataset, register_stock

    register(["clip_similarity_filter"])
    register_stock(["image_text_similarity_filter"])

    rows = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()[:count]]
    for row in rows:
        row["images"] = [str(data.parent / image) for image in row["images"]]
        row["text"] = row["text"].replace("<image>", "<__dj__image>")
    size = -(-len(rows) // slices)
    seconds, scores = {"stock": 0.0, "ours": 0.0}, {"stock": [], "ours": []}
    names = {"stock": "image_text_similarity_filter", "ours": "clip_similarity_filter"}
    operators = {}
    for start in range(0, len(rows), size):
        part = NestedDataset.from_list(rows[start : start + size])
        for side, name in names.items():
            started = time.perf_counter()
            if side not in operators:
                options = {"hf_clip": clip, "min_score": -1, "auto_op_parallelism": False, "num_proc": None}
                operators[side] = OPERATORS.modules[name](**options)
            stats = operators[side].run(part, reduce=False)[STATS]
            seconds[side] += time.perf_counter() - started
            scores[side] += [
                row["image_text_similarity"][0] if side == "stock" else row["clip_similarity"] for row in stats
            ]
    gap = max(abs(one - other) for one, other in zip(scores["stock"], scores["ours"], strict=True))
    print(
        f"similarity, {len(rows):,} pairs on {'a GPU' if operators['ours'].use_cuda() else 'the CPU'}: "
        f"stock {seconds['stock']:.1f} s, "
        f"ours {seconds['ours']:.1f} s, x{seconds['stock'] / seconds['ours']:.2f}; scores differ by at most {gap:.1e}",
        flush=True,
    )
    started = time.perf_counter()
    options = {"hf_clip": clip, "min_score": 0.0, "auto_op_parallelism": False, "num_proc": None}
    OPERATORS.modules[names["ours"]](**options).run(NestedDataset.from_list(rows))
    print(f"the same with another threshold: {time.perf_counter() - started:.1f} s", flush=True)
    if gap > 1e-4:
        sys.exit("error: scores differ by more than 1e-4")


def refine(data: Path, count: int, folder: Path) -> None:
    """`dj-process` against `process.py`: whole commands on the same rows and thresholds."""
    import yaml

    seed = folder / "seed.jsonl"
    lines = data.read_text(encoding="utf-8").splitlines()[:count]
    seed.write_text("\n".join(line.replace("<image>", "<__dj__image>") for line in lines) + "\n", encoding="utf-8")
    recipe = {"process": REFINE}
    (folder / "ours.yaml").write_text(yaml.safe_dump(recipe))
    stock = {
        "dataset": {"configs": [{"type": "local", "path": str(seed)}]},
        "export_path": str(folder / "stock" / "kept.jsonl"),
    }
    (folder / "stock.yaml").write_text(yaml.safe_dump(recipe | stock | {"np": 1, "open_tracer": False}))
    dj_process = shutil.which("dj-process", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if dj_process is None:
        sys.exit("error: no dj-process beside this Python or on PATH; run: bash install.sh")
    ours = [sys.executable, str(ROOT / "solution" / "process.py"), "--recipe", str(folder / "ours.yaml")]
    ours += ["--dataset", str(seed), "--images", str(data.parent), "--output", str(folder / "ours")]
    commands = {"stock": [dj_process, "--config", str(folder / "stock.yaml")], "ours": ours}
    results = {"stock": folder / "stock" / "kept.jsonl", "ours": folder / "ours" / "processed_data.jsonl"}
    seconds, cpu, kept = {}, {}, {}
    for side, command in commands.items():
        started, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, cwd=data.parent, capture_output=True, text=True)
        seconds[side], now = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu[side] = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
        if done.returncode or not results[side].is_file():
            sys.exit(f"error: {side} failed: {' '.join((done.stderr or done.stdout).splitlines()[-1:])}")
        kept[side] = [json.loads(line)["id"] for line in results[side].read_text(encoding="utf-8").splitlines()]
    print(
        f"LLaVA refinement without models, {len(lines):,} rows: dj-process {seconds['stock']:.1f} s, process.py "
        f"{seconds['ours']:.1f} s, x{seconds['stock'] / seconds['ours']:.2f} "
        f"(of CPU {cpu['stock']:.1f} s and {cpu['ours']:.1f} s, "
        f"x{cpu['stock'] / cpu['ours']:.2f}); {len(kept['ours']):,} rows kept, "
        + ("the same" if kept["ours"] == kept["stock"] else f"not the same as stock's {len(kept['stock']):,}"),
        flush=True,
    )
    if kept["ours"] != kept["stock"]:
        sys.exit("error: other rows kept")


def images(data: Path, count: int, turns: int, folder: Path) -> None:
    """Operators that decode by themselves against images decoded once: whole commands, the start included."""
    import yaml

    (folder / "images.yaml").write_text(yaml.safe_dump({"process": IMAGES}))
    words = ["--recipe", str(folder / "images.yaml"), "--dataset", str(data), "--images", str(data.parent)]
    words += ["--limit", str(count)]
    starts = {"each by itself": ["-c", EACH_BY_ITSELF], "decoded once": [str(ROOT / "solution" / "process.py")]}
    seconds, cpu, results = dict.fromkeys(starts, 0.0), dict.fromkeys(starts, 0.0), {}
    for turn in range(turns):
        for side, start in starts.items():
            output = folder / f"{side} {turn}"
            command = [sys.executable, *start, *words, "--output", str(output / "rows")]
            started, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
            seconds[side] += time.perf_counter() - started
            now = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu[side] += now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
            if done.returncode:
                sys.exit(f"error: {side} failed: {' '.join(done.stderr.splitlines()[-1:])}")
            (rows,), (audit,) = output.glob("rows*/*.jsonl"), output.glob("audit/*.parquet")
            results[side] = rows.read_bytes(), pq.read_table(audit)
    (one, plain), (other, once) = results.values()
    is_same = one == other and plain.equals(once)
    side, default = starts
    print(
        f"images, {count:,} rows, {turns} turns: {side} {seconds[side]:.1f} s, {default} {seconds[default]:.1f} s, "
        f"x{seconds[side] / seconds[default]:.2f} (of CPU {cpu[side]:.1f} s and {cpu[default]:.1f} s, "
        f"x{cpu[side] / cpu[default]:.2f}; load {os.getloadavg()[0]:.0f}); {len(one.splitlines()):,} rows kept, "
        + ("rows and audit the same" if is_same else "not the same"),
        flush=True,
    )
    if not is_same:
        sys.exit("error: other rows or another audit")


if __name__ == "__main__":
    main()
