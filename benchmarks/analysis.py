"""The page of `process.py analyze` at many rows: how long it takes to make, how large it is, how quickly it answers.

    python -m benchmarks.analysis 400000

Rows, captions of eleven words and eight statistics of usual distributions are made up, so that nothing is timed but the
page: seconds and peak memory of making it, megabytes, seconds until it has counted in a headless Chromium, milliseconds
from a moved slider to the count, and to the frame that shows it. `python -m benchmarks.scale 400000 --analyze` times
the scoring as well.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from solution import operators
from solution.analysis.page import write_page
from solution.analysis.scoring import Asked
from solution.runner.data_juicer import register_stock
from solution.runner.recipe import load_recipe
from tests.solution.analysis.browser import Browser

STARTS, ENDS = ("ca", "do", "li", "ro", "mu", "ne"), ("t", "g", "on", "ver", "sic", "w")
WORDS = [f"{start}{end}" for start in STARTS for end in ENDS]
STEPS: list[tuple[str, dict[str, dict[str, float]]]] = [
    ("caption_words_filter", {"caption_words": {"min_num": 3, "max_num": 24}}),
    ("caption_latin_filter", {"caption_latin_ratio": {"min_ratio": 0.7}}),
    ("special_characters_filter", {"special_char_ratio": {"max_ratio": 0.6}}),
    ("image_shape_filter", {"image_width": {"min_width": 224}, "image_height": {"min_height": 224}}),
    ("image_aspect_ratio_filter", {"aspect_ratios": {"min_ratio": 0.333, "max_ratio": 3.0}}),
    ("picture_sharpness_filter", {"picture_sharpness": {"min_sharpness": 30.0}}),
    ("clip_similarity_filter", {"clip_similarity": {"min_score": 0.28}}),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=int, help="scored rows")
    arguments = parser.parse_args()
    operators.register([step for step, _ in STEPS])
    register_stock([step for step, _ in STEPS])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_scores(folder / "scores.parquet", arguments.rows)
        steps = [{step: {key: limit for own in stats.values() for key, limit in own.items()}} for step, stats in STEPS]
        (folder / "scale.yaml").write_text(json.dumps({"process": steps}))
        asked = [Asked(place, step, step, "filter", own, True) for place, (step, own) in enumerate(STEPS, 1)]
        for number in range(200):
            pixels = np.random.default_rng(number).integers(0, 256, (24, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((640, 480), Image.Resampling.BICUBIC).save(folder / f"{number}.jpg")
        started = time.perf_counter()
        write_page(
            load_recipe(folder / "scale.yaml", None), folder / "scores.parquet", folder / "scale.html", asked,
            lambda rows: [[str(folder / f"{row % 200}.jpg")] for row in rows],
        )  # fmt: skip
        seconds = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"{arguments.rows:,} rows, {len(asked) + 1} statistics: made in {seconds:.1f} s, at most {peak:,.0f} MB",
            flush=True,
        )
        use(folder / "scale.html", folder / "profile")


def write_scores(file: Path, rows: int) -> None:
    """A file as an analysis leaves it."""
    random = np.random.default_rng(0)
    values = {
        "caption_words_filter.caption_words": random.poisson(10.8, rows) + 1,
        "caption_latin_filter.caption_latin_ratio": random.beta(40, 1, rows),
        "special_characters_filter.special_char_ratio": random.beta(8, 30, rows),
        "image_shape_filter.image_width": np.floor(10 ** random.normal(2.7, 0.25, rows)),
        "image_shape_filter.image_height": np.floor(10 ** random.normal(2.65, 0.25, rows)),
        "image_aspect_ratio_filter.aspect_ratios": 10 ** random.normal(0.05, 0.2, rows),
        "picture_sharpness_filter.picture_sharpness": 10 ** random.normal(2.6, 0.7, rows),
        "clip_similarity_filter.clip_similarity": random.normal(0.3, 0.04, rows),
    }
    texts = random.choice(WORDS, (rows, 11))
    lines = {
        "id": [f"{number:09d}" for number in range(rows)], "row": np.arange(1, rows + 1),
        "parent": pa.nulls(rows, pa.int64()), "state": ["scored"] * rows, "operator": [""] * rows,
        "reason": [""] * rows, "caption": [" ".join(words) for words in texts],
    }  # fmt: skip
    marks = {step: np.ones(rows, bool) for step, _ in STEPS}
    columns = lines | marks | {name: column.astype(float) for name, column in values.items()}
    pq.write_table(pa.table(columns), file, row_group_size=1 << 14)


def use(page: Path, profile: Path) -> None:
    """Move each slider of an analysis's page in a browser."""
    with Browser(profile) as browser:
        started = time.perf_counter()
        browser.open(page.as_uri())
        opened = time.perf_counter() - started
        times = json.loads(browser.evaluate(_MOVES))
    counted, drawn = zip(*times, strict=True)
    print(
        f"page: {page.stat().st_size / 1e6:.1f} MB, opened in {opened:.1f} s; of {len(times)} moves the median one was "
        f"counted in {np.median(counted):.0f} ms and drawn in {np.median(drawn):.0f} ms, the slowest one in "
        f"{max(counted):.0f} and {max(drawn):.0f} ms",
        flush=True,
    )


# Each slider to twenty places; milliseconds to the count and to the frame that shows it.
_MOVES = """(async () => {
  const times = [];
  for (const slider of document.querySelectorAll("input[type=range]")) {
    for (let place = 0; place < 1000; place += 50) {
      const started = performance.now();
      slider.value = place;
      slider.dispatchEvent(new Event("input"));
      const counted = performance.now() - started;
      await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
      times.push([counted, performance.now() - started]);
    }
  }
  return JSON.stringify(times);
})()"""


if __name__ == "__main__":
    main()
