"""`check --contamination` writes what `evaluation_overlap_filter` reads, though neither imports the other."""

import json
import pickle
from pathlib import Path

import pytest

from solution.operators.common.evaluation_overlaps import EvaluationOverlaps
from solution.operators.common.images import ImageError
from solution.operators.evaluation_overlap_filter import EvaluationOverlapFilter
from solution.runner.data_juicer import STATS, NestedDataset
from tests.conftest import SmallSeed
from tests.toolkit.commands.test_contamination import words  # noqa: F401 (a fixture)
from toolkit.__main__ import main


def test_rows_that_share_something_are_dropped(words: list[str], small_seed: SmallSeed, tmp_path: Path) -> None:  # noqa: F811
    assert main([*words, "--on-error", "skip"]) == 0
    rows = [json.loads(line) for line in Path(words[1]).read_text().splitlines()]
    rows.append(small_seed.row(3, id="s4", text="<image>\nnever compared <|__dj__eoc|>"))
    for number, row in enumerate(rows, 1):
        row |= {"__row__": number, "images": [str(small_seed.folder / image) for image in row["images"]]}
    file = str(tmp_path / "found" / "overlaps.parquet")
    operator = EvaluationOverlapFilter(overlaps=file, auto_op_parallelism=False, num_proc=None)
    scored = operator.run(NestedDataset.from_list(rows), reduce=False)
    assert [stats["evaluation_overlap"] for stats in scored[STATS]] == [0, 1, 1, 0, None]
    assert operator.process_batched({STATS: scored[STATS]}) == [True, False, False, True, False]
    again = pickle.loads(pickle.dumps(operator.overlaps))
    assert again.has("A dress 0.", rows[0]["images"]) is False
    with pytest.raises(ImageError, match="was not compared with the evaluation sets"):
        again.has("A dress 0.", [str(small_seed.folder / "images/5.png")])


@pytest.mark.parametrize("content", [None, b"none", b"PAR1"])
def test_a_file_that_is_missing_or_another_is_refused(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "overlaps.parquet"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=r"overlaps.parquet is .*; `python -m toolkit check SEED.jsonl"):
        EvaluationOverlaps(str(file))
