"""Scale: `solution/process.py` over ever more distinct rows; time should grow with the rows, memory hardly at all.

    python -m benchmarks.scale 20000 40000 80000
    python -m benchmarks.scale 400000 --analyze --without-model

Each row has its own id, its own word in the caption and its own pixels; images are 32 px and the CLIP model is tiny,
so that what is timed is the machinery. Prints seconds, milliseconds per row and the peak memory of the process: its
own, and with the pages of files it has read, which the system takes back when it needs them (as Linux counts both).
With --analyze it is `process.py analyze`, and what its page takes: megabytes, seconds until it has counted in a
browser, milliseconds from a moved slider to the count, and to the picture.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from benchmarks.analysis import use

ROOT = Path(__file__).resolve().parents[1]
WORDS = ("red", "blue", "green", "dog", "cat", "car", "tree", "house", "on", "near", "under", "the", "a", "two", "old")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=int, nargs="+", help="row counts to try")
    parser.add_argument("--clip", default="toolkit/training/model_zoo/mini/OpenAI/clip-vit-mini-patch16-96")
    parser.add_argument("--without-model", action="store_true", help="leave the similarity filter out")
    parser.add_argument("--analyze", action="store_true", help="score all rows and drop none, and use the page")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_seed(Path(folder), max(arguments.rows))
        clip = None if arguments.without_model else str((ROOT / arguments.clip).resolve())
        for count in arguments.rows:
            measure(Path(folder), count, clip, arguments.analyze)


def write_seed(folder: Path, count: int) -> None:
    """`images/` and `rows.jsonl` with distinct rows."""
    random = np.random.default_rng(0)
    with (folder / "rows.jsonl").open("w") as file:
        for number in range(count):
            name = f"images/{number // 1000:05d}/{number:09d}.png"
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / name, compress_level=1)
            caption = " ".join([*random.choice(WORDS, size=random.integers(2, 12)), f"word{number}"])
            row = {"id": f"{number:09d}", "text": f"<__dj__image>\n{caption} <|__dj__eoc|>", "images": [name]}
            file.write(json.dumps(row) + "\n")


def own_memory(process: int) -> int:
    """Anonymous memory of a process in kB, without the pages of mapped files; 0 where it has just ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("RssAnon:")), 0)


def measure(folder: Path, count: int, clip: str | None, is_analysis: bool) -> None:
    """One whole run over the first rows, in a process of its own."""
    with (folder / "rows.jsonl").open() as source, (folder / "part.jsonl").open("w") as target:
        target.writelines(line for line, _ in zip(source, range(count), strict=False))
    process = [
        {"caption_cleanup_mapper": None},
        {"picture_deduplicator": {"max_distance": 10}},
        {"special_characters_filter": {"max_ratio": 0.6}},
        {"image_shape_filter": {"min_width": 16}},
        {"picture_sharpness_filter": {"min_sharpness": 1.0}},
        {"caption_words_filter": {"min_num": 4}},
        {"caption_deduplicator": {"min_overlap": 0.9}},
    ]
    if clip:
        process += [
            {"clip_similarity_filter": {"hf_clip": clip, "min_score": -1.0}},
            {"fill_to_cap_selector": {"cap": count // 2}},
        ]
    (folder / "scale.yaml").write_text(yaml.safe_dump({"process": process}))
    output = folder / f"out_{count}" / "processed_data"
    command = [sys.executable, str(ROOT / "solution" / "process.py")]
    command += ["analyze" if is_analysis else "--recipe", str(folder / "scale.yaml")]
    command += ["--dataset", str(folder / "part.jsonl"), "--images", str(folder), "--output", str(output)]
    started = time.perf_counter()
    with (folder / "log.txt").open("w") as log:
        run = subprocess.Popen(command, stdout=log, stderr=log)
        own = 0
        while True:
            pid, status, usage = os.wait4(run.pid, os.WNOHANG)
            if pid:
                break
            own = max(own, own_memory(run.pid))
            time.sleep(0.1)
    seconds = time.perf_counter() - started
    if status:
        sys.exit(f"error: {(folder / 'log.txt').read_text().splitlines()[-1]}")
    page = output.parent / "analysis" / "scale.part.html"
    record = page.with_suffix(".run.json") if is_analysis else output / "run.json"
    steps = json.loads(record.read_text())["steps"]
    print(
        f"{count:,} rows: {seconds:.1f} s, {1000 * seconds / count:.2f} ms per row, "
        f"at most {own / 1024:,.0f} MB of its own, {usage.ru_maxrss / 1024:,.0f} MB with files; "
        + ", ".join(f"{step['name']} {step['seconds']:.1f} s" for step in steps),
        flush=True,
    )
    if is_analysis:
        use(page, folder / "profile")


if __name__ == "__main__":
    main()
