"""`toolkit judge` writes what `image_value_filter` reads, though neither imports the other."""

from pathlib import Path

import pyarrow.parquet as pq

from solution.operators.common.captions import caption_of
from solution.operators.common.image_values import ImageValues
from tests.conftest import SmallSeed
from tests.toolkit.eval.conftest import tiny_model  # noqa: F401
from toolkit.__main__ import main

TEXTS = ["<image>\na red  dress\tand\nmore <|__dj__eoc|>", "ein Kleid – 红色 <image>", "<image> x <|__dj__eoc|>\n"]


def test_every_judged_row_is_found(small_seed: SmallSeed, tiny_model: Path, tmp_path: Path) -> None:  # noqa: F811
    rows = [small_seed.row(number, text=text) for number, text in enumerate(TEXTS)]
    rows += [small_seed.row(0, id=7), small_seed.row(0, id="7", text="<image>\nanother <|__dj__eoc|>")]
    out = tmp_path / "values.parquet"
    words = ["judge", small_seed.write(*rows), "--images", small_seed.folder, "--preset", small_seed.preset]
    assert main([*map(str, [*words, "--model", tiny_model, "--out", out, "--workers", "0"])]) == 0
    written = pq.read_table(out)["value"].to_pylist()
    values = ImageValues([str(out)])
    for row, value in zip(rows, written, strict=True):
        paths = [str(small_seed.folder / image) for image in row["images"]]
        assert values.of(str(row["id"]), caption_of(row["text"]), paths)[0] == value
