"""Images that operators make: in `synthetic_images/` beside the result, never in the seed's folder."""

import json
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from toolkit.__main__ import main as toolkit

OPERATORS = '''
from pathlib import Path
from data_juicer.ops.base_op import OPERATORS, Mapper
from PIL import Image

@OPERATORS.register_module("trial_writing_mapper")
class WritingMapper(Mapper):
    """Writes a new image for a row at the place that its caption names."""
    def __init__(self, places: dict, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.places = places

    def process_single(self, sample):
        place = self.places.get(sample["text"].split()[1])
        if place:
            file = Path(self.work_dir) / place
            file.parent.mkdir(parents=True, exist_ok=True)
            if "broken" in place:
                file.write_bytes(b"none of it")
            elif not file.exists():
                Image.open(sample["images"][0]).rotate(90).save(file)
            sample["images"] = [place if "relative" in place else str(file)]
        return sample
'''


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """Times of everything in a folder; its folders' own tell of a file that is gone again."""
    files = {str(path): path.lstat() for path in (folder, *folder.rglob("*"))}
    return {name: (found.st_mtime_ns, found.st_ctime_ns) for name, found in files.items()}


def made(done) -> list[str]:
    return sorted(os.listdir(done.output / "synthetic_images"))


@pytest.mark.parametrize(
    ("processes", "words"),
    [
        pytest.param(1, [], id="np 1"),
        pytest.param(2, [], id="np 2", marks=pytest.mark.slow),
        pytest.param(1, ["--executor", "ray"], id="ray", marks=pytest.mark.slow),
    ],
)
def test_a_stock_mappers_images_lie_beside_the_result(processes, words, make_seed, make_recipe, run_process):
    """Blurred twice; one row is dropped afterwards, one keeps its image. A second run makes the same files."""
    if words:
        pytest.importorskip("ray", reason="pip install -r solution/requirements-ray.txt -c constraints.txt")
    seed = make_seed(["a red dog", "two blue cars", "the cat on a mat with a hat", "a ball", "a", "the sea"])
    blur = {"image_blur_mapper": {"p": 0.75, "blur_type": "box", "radius": 3, "save_dir": str(seed.parent / "mine")}}
    recipe = make_recipe([blur, {"caption_words_filter": {"min_num": 1, "max_num": 5}}, blur], np=processes)
    before = state(seed.parent)
    done = run_process(recipe, seed, *words)
    assert done.code == 0, done.err
    assert state(seed.parent) == before
    assert "save_dir" in done.err
    changed = [row for row in done.rows if row["images"][0].startswith("synthetic_images/")]
    assert 0 < len(changed) <= 5
    assert made(done) == sorted(Path(row["images"][0]).name for row in changed)
    for row in changed:
        assert Path(row["images"][0]).name.startswith(f"{row['id']}_")
        assert Image.open(done.output / row["images"][0]).size == (48, 40)
    audit = {line["id"]: line for line in pq.read_table(done.audit).to_pylist()}
    for row in done.rows:
        line = audit[row["id"]]
        assert line["image"] == row["images"][0]
        assert line["image_state"] == ("synthetic" if row in changed else "seed")
        assert (line["reason"] == "another image from the operator") == (row in changed)
    assert sum(step["rewritten"] for step in done.record["steps"]) >= len(changed)
    files = made(done)
    again = run_process(recipe, seed, *words, "--overwrite")
    assert (again.rows, made(again)) == (done.rows, files)


def test_an_unfinished_run_keeps_them_and_check_counts_them(make_seed, make_recipe, run_process, tmp_path):
    seed, blur = make_seed(["a red dog", "two blue cars", "the cat"]), {"image_blur_mapper": {"p": 1.0}}
    stopped = run_process(make_recipe([blur, {"percentile_selector": {"score_key": "none"}}]), seed)
    assert stopped.code == 1
    assert not (stopped.output / "synthetic_images").exists()
    done = run_process(make_recipe([blur, {"caption_words_filter": {"min_num": 3}}]), seed)
    assert "resuming after operator 1" in done.err
    assert made(done) == [Path(row["images"][0]).name for row in done.rows]
    assert len(done.rows) == 2
    report = tmp_path / "report.json"
    file = done.output / "processed_data.jsonl"
    toolkit(["check", str(file), "--images", str(seed.parent), "--json", str(report)])
    found = json.loads(report.read_text())
    assert (found["counts"]["synthetic"], found["audit"]["synthetic"], found["faults"]) == (2, 2, [])


def test_an_image_elsewhere_fails_its_row_behind_the_operator(make_seed, make_recipe, run_process, tmp_path):
    (tmp_path / "trial_operators.py").write_text(OPERATORS)
    seed = make_seed(["in_place", "in_seed", "outside", "relative", "broken", "untouched", "old_one"])
    (tmp_path / "seed" / "images" / "extra.jpg").write_bytes((tmp_path / "seed" / "images" / "000.jpg").read_bytes())
    places = {
        "in_place": "synthetic_images/x.png",
        "in_seed": "../../seed/images/new.png",
        "outside": "../../elsewhere/new.png",
        "relative": "relative.png",
        "broken": "synthetic_images/broken.png",
        "old_one": "../../seed/images/extra.jpg",
    }
    process = [{"trial_writing_mapper": {"places": places}}, {"caption_words_filter": {"min_num": 1}}]
    recipe = make_recipe(process, custom_operator_paths=[str(tmp_path / "trial_operators.py")])
    done = run_process(recipe, seed)
    assert done.code == 0, done.err
    assert [row["images"] for row in done.rows] == [
        ["synthetic_images/x.png"],
        ["images/005.jpg"],
        ["images/extra.jpg"],
    ]
    failed = {row["id"]: row for row in done.record["failed"]}
    assert {row["operator"] for row in failed.values()} == {"trial_writing_mapper"}
    assert "into the seed's folder" in failed["001"]["reason"]
    assert str(tmp_path / "elsewhere" / "new.png") in failed["002"]["reason"].replace(
        "output/processed_data/../../", ""
    )
    assert "where no row may have one: relative.png" in failed["003"]["reason"]
    assert "cannot be read" in failed["004"]["reason"]
    assert all("synthetic_images in the operator's work_dir" in failed[row]["reason"] for row in ("001", "002", "003"))
    assert "\n" not in "".join(row["reason"] for row in failed.values())


def test_a_path_that_was_edited_as_a_text_is_no_image(make_seed, make_recipe, run_process):
    """Redaction goes over all of a row, and images have absolute paths while operators run."""
    process = [{"pii_redaction_mapper": {"extra_patterns": [["/.*/images", "[PATH_REDACTED]"]]}}]
    done = run_process(make_recipe(process), make_seed(["mail to a.b@example.com", "a cat"]))
    assert done.code == 0, done.err
    assert [row["images"] for row in done.rows] == [["images/000.jpg"], ["images/001.jpg"]]
    assert "mail to [EMAIL_REDACTED]" in done.rows[0]["text"]
    assert [step["rewritten"] for step in done.record["steps"]] == [0, 1]
