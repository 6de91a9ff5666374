"""image_value_filter against a plain loop over the judge's file, and what is not in the file."""

import json
import shlex
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from solution.operators.common.image_values import about_values
from solution.runner.data_juicer import OPERATORS, STATS, NestedDataset
from solution.runner.recipe import load_recipe
from tests.solution.image_values import write_values

CAPTIONS = ["a red dog", "two cars", "free shipping", "a cat on the grass", "a dog", "the same words"]
VALUES = [0.9, 0.5, -0.2, 0.7, 0.1, 0.3]


@pytest.fixture
def seed(make_seed) -> Path:
    """Six pairs."""
    return make_seed(CAPTIONS)


@pytest.fixture
def file(seed, tmp_path) -> Path:
    """Their values."""
    return write_values(tmp_path / "values.parquet", seed, VALUES)


def rows_of(seed: Path, **changes) -> NestedDataset:
    """The seed as operators see it."""
    lines = [json.loads(line) | changes for line in seed.read_text().splitlines()]
    for number, line in enumerate(lines, start=1):
        line |= {"__row__": number, "images": [str(seed.parent / image) for image in line["images"]]}
    return NestedDataset.from_list(lines)


def build(file: Path | list[str], **parameters):
    """The operator, in this process."""
    return OPERATORS.modules["image_value_filter"](
        values=file if isinstance(file, list) else str(file), auto_op_parallelism=False, num_proc=None, **parameters
    )


def test_values_and_ranks_equal_a_plain_loop(seed, file):
    scored = build(file).run(rows_of(seed), reduce=False)
    for stats, value in zip(scored[STATS], VALUES, strict=True):
        assert stats["image_value"] == pytest.approx(value)
        assert stats["image_rank"] == pytest.approx(sum(other < value for other in VALUES) / len(VALUES))


@pytest.mark.parametrize(
    ("parameters", "kept"),
    [
        ({}, {0, 1, 2, 3, 4, 5}),
        ({"min_value": 0.3}, {0, 1, 3, 5}),
        ({"max_value": 0.5}, {1, 2, 4, 5}),
        ({"min_rank": 0.5}, {0, 1, 3}),
        ({"max_rank": 0.5}, {1, 2, 4, 5}),
        ({"min_rank": 0.2, "max_value": 0.6}, {1, 5}),
    ],
)
def test_thresholds(seed, file, parameters, kept):
    result = build(file, **parameters).run(rows_of(seed))
    assert {number - 1 for number in result["__row__"]} == kept


def test_rows_that_are_not_in_the_file_fail_by_name(seed, file, make_recipe, run_process):
    lines = [json.loads(line) for line in seed.read_text().splitlines()]
    lines[0]["id"] = "another"
    lines[1]["text"] = lines[1]["text"].replace("cars", "boats")
    (seed.parent / lines[2]["images"][0]).write_bytes((seed.parent / lines[3]["images"][0]).read_bytes())
    seed.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = run_process(make_recipe([{"image_value_filter": {"values": str(file)}}]), seed)
    assert done.code == 0, done.err
    assert [row["id"] for row in done.rows] == ["003", "004", "005"]
    failed = {failure["id"]: failure["reason"] for failure in done.record["failed"]}
    assert set(failed) == {"another", "001", "002"}
    assert all(reason.startswith(f"no image value: {file} (made of ") for reason in failed.values())
    assert f"made of other files than {seed}" in done.err


def test_the_judges_reason_is_told(seed, tmp_path, make_recipe, run_process):
    faults = ["", "", "not_finite: the losses are nan", "", "", ""]
    file = write_values(tmp_path / "values.parquet", seed, [*VALUES[:2], None, *VALUES[3:]], faults)
    done = run_process(make_recipe([{"image_value_filter": {"values": str(file)}}]), seed)
    assert done.code == 0, done.err
    assert [failure["reason"] for failure in done.record["failed"]] == [
        "no image value: not_finite: the losses are nan"
    ]


def test_new_values_run_the_recipe_again(seed, file, make_recipe, run_process):
    recipe = make_recipe([{"image_value_filter": {"values": str(file), "min_rank": 0.5}}])
    assert [row["id"] for row in run_process(recipe, seed).rows] == ["000", "001", "003"]
    assert "already done" in run_process(recipe, seed).out
    write_values(file, seed, VALUES[::-1])
    assert [row["id"] for row in run_process(recipe, seed).rows] == ["002", "004", "005"]


def test_a_missing_file_names_the_command_that_makes_it(seed, make_recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = make_recipe([{"image_value_filter": {"values": "judge/values.parquet"}}])
    (fault,) = load_recipe(recipe, seed).faults
    assert fault.endswith(
        f"judge/values.parquet is missing; `python -m toolkit judge {seed} --preset full --out judge/values.parquet` "
        "makes it"
    )
    mini = load_recipe(recipe, Path("input/mini/mgm_pretrain_mini.jsonl"))
    assert "judge input/mini/mgm_pretrain_mini.jsonl --preset mini" in mini.faults[0]


@pytest.mark.parametrize("content", [b"", b"no Parquet", None])
def test_what_is_no_judges_file_is_refused(content, seed, tmp_path):
    file = tmp_path / "other.parquet"
    if content is None:
        pq.write_table(pa.table({"id": ["a"]}), file)
    else:
        file.write_bytes(content)
    with pytest.raises(ValueError, match="is no file of `python -m toolkit judge`"):
        build(file)


def test_file_of_another_seed_is_noted_before_the_run(seed, file, make_recipe, make_seed):
    recipe = make_recipe([{"image_value_filter": {"values": str(file)}}])
    assert load_recipe(recipe, seed).remarks == ()
    other = make_seed(["one", "two"], folder="other")
    (remark,) = load_recipe(recipe, other).remarks
    assert f"made of other files than {other}" in remark
    assert f"`python -m toolkit judge {other} --preset full --out {file} --overwrite`" in remark


def test_a_file_for_each_of_several_seeds(seed, file, make_recipe, make_seed, run_process, tmp_path):
    """Ranks are those within a row's own file."""
    other = make_seed(["one", "two", "three"], folder="other")
    more = write_values(tmp_path / "more.parquet", other, [0.01, 0.02, 0.03])
    recipe = make_recipe([{"image_value_filter": {"values": [str(file), str(more)], "min_rank": 0.5}}])
    kept = [str(number) for number in build([str(file), str(more)], min_rank=0.5).run(rows_of(other))["__row__"]]
    assert kept == ["3"]
    assert load_recipe(recipe, [seed, other]).remarks == ()
    done = run_process(recipe, other)
    assert [row["id"] for row in done.rows] == ["002"]
    more.unlink()
    (fault,) = load_recipe(recipe, [seed, other]).faults
    assert f"`python -m toolkit judge {other} --preset full --out {more}` makes it" in fault


def test_an_advised_command_can_be_typed_as_it_stands(tmp_path) -> None:
    missing = tmp_path / "my values.parquet"
    with pytest.raises(ValueError, match="is missing") as raised:
        about_values(missing)
    command = shlex.split(str(raised.value).split("`")[1])
    assert command == ["python", "-m", "toolkit", "judge", "SEED.jsonl", "--preset", "P", "--out", str(missing)]
