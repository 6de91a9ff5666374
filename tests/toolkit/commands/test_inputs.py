"""`preflight --inputs`: everything that is read hours later is looked at first, and once as long as nothing changes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.toolkit.training.conftest import SmallWorld, small_world  # noqa: F401 (a fixture)
from toolkit.__main__ import main
from toolkit.commands import preflight
from toolkit.presets import load_preset
from toolkit.training import inputs

QUESTIONS = 4


@dataclass(frozen=True)
class Own:
    """A preset whose every input lies in the test's own folder."""

    folder: Path
    words: list[str]

    def file(self, name: str) -> Path:
        return self.folder / name


@pytest.fixture
def own(small_world: SmallWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Own:  # noqa: F811
    mini = load_preset("mini")
    values = yaml.safe_load(small_world.preset.read_text())
    for name in ("llm", "vision_tower", "vision_tower_aux"):
        values[name] = str(shutil.copytree(values[name], tmp_path / name))
    values["finetune_data"] = str(shutil.copy(small_world.data, tmp_path / "finetune.json"))
    values["finetune_images"] = str(shutil.copytree(small_world.images, tmp_path / "images"))
    lines = mini.textvqa.questions.read_text().splitlines(keepends=True)[:QUESTIONS]
    (tmp_path / "textvqa").mkdir()
    for line in lines:
        shutil.copy(mini.textvqa.images / f"{json.loads(line)['image'].split('.')[0]}.jpg", tmp_path / "textvqa")
    (tmp_path / "questions.jsonl").write_text("".join(lines))
    (tmp_path / "mmbench.tsv").write_text("".join(mini.mmbench.questions.read_text().splitlines(True)[: QUESTIONS + 1]))
    shutil.copy(mini.textvqa.annotations, tmp_path / "annotations.json")
    values["textvqa"] |= {"questions": str(tmp_path / "questions.jsonl"), "images": str(tmp_path / "textvqa")}
    values["textvqa"]["annotations"] = str(tmp_path / "annotations.json")
    values["mmbench"]["questions"] = str(tmp_path / "mmbench.tsv")
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.setattr(preflight, "REPOSITORY", tmp_path)
    row = {"id": "a", "text": "<image>\na <|__dj__eoc|>", "images": ["0.png"]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    words = ["preflight", "--preset", str(tmp_path / "own.yaml"), "--inputs", "--stage-batches", "2", "2", "2", "2"]
    return Own(tmp_path, [*words, "--data", str(tmp_path / "rows.jsonl"), "--images", str(tmp_path / "images")])


def test_a_second_run_looks_at_times_only(
    own: Own, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(own.words) == 0
    assert "models, finetuning set (22 rows), benchmarks: in order" in capsys.readouterr().out
    real = inputs.look_at_stages
    monkeypatch.setattr(inputs, "look_at_stages", pytest.fail)
    assert main(own.words) == 0
    assert "unchanged since they were looked at" in capsys.readouterr().out
    monkeypatch.setattr(inputs, "look_at_stages", real)
    for name in ("images/1.png", "questions.jsonl", "llm/tokenizer.json", "output/.inputs-own.json"):
        own.file(name).write_bytes(own.file(name).read_bytes() + b"\n")
        if name.startswith("output"):
            own.file(name).write_text("{")
        assert main(own.words) == 0
        assert "in order" in capsys.readouterr().out, name


def first_image(own: Own, folder: str) -> Path:
    return sorted(own.file(folder).iterdir())[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda own: first_image(own, "textvqa").write_bytes(b"no image"), "questions.jsonl: question "),
        (lambda own: first_image(own, "textvqa").unlink(), "questions.jsonl: question "),
        (lambda own: own.file("images/1.png").write_bytes(b"no image"), "finetune.json: 4 of 22 rows cannot be"),
        (lambda own: own.file("images/1.png").unlink(), "finetune.json: 4 of 22 rows cannot be"),
        (lambda own: own.file("finetune.json").write_text("[{}]"), "finetune.json: 1 of 1 rows cannot be"),
        (lambda own: own.file("finetune.json").write_text("["), "finetune.json: not a JSON document"),
        (lambda own: own.file("questions.jsonl").write_text("{}\n"), "questions.jsonl"),
        (lambda own: own.file("annotations.json").write_text("{}"), "annotations.json"),
        (lambda own: own.file("mmbench.tsv").write_text("index\timage\n0\t\n"), "mmbench.tsv"),
        (
            lambda own: own.file("mmbench.tsv").write_text(own.file("mmbench.tsv").read_text().replace("/9j/", "AAAA")),
            "mmbench.tsv: question ",
        ),
        (lambda own: own.file("vision_tower/config.json").write_text("{"), "vision_tower/config.json: not a JSON"),
        (lambda own: own.file("llm/model.safetensors").write_bytes(b"\0" * 99), "llm/model.safetensors: damaged"),
        (
            lambda own: own.file("vision_tower_aux/open_clip_pytorch_model.bin").write_bytes(b"PK"),
            "open_clip_pytorch_model.bin: not a plain state dict",
        ),
    ],
)
def test_a_faulty_input_is_named_before_anything_is_trained(
    own: Own, capsys: pytest.CaptureFixture[str], change: Callable[[Own], object], message: str
) -> None:
    change(own)
    assert main(own.words) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not own.file("output").exists()


def test_rows_of_the_finetuning_set_can_be_left_out_and_are_named(own: Own, capsys: pytest.CaptureFixture[str]) -> None:
    """At every start; unless none is left."""
    own.file("images/1.png").unlink()
    assert main(own.words) == 1
    assert "or, for an experiment, leave these rows out: FINETUNE_ON_ERROR=skip" in capsys.readouterr().err
    for _ in range(2):
        assert main([*own.words, "--on-error", "skip"]) == 0
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: finetuning")]
        assert len(lines) == 5
        assert "leaves out row row1 (1.png): missing_image: " in lines[0]
        assert lines[-1] == "warning: finetuning leaves out 4 of 22 rows: this run is for experiments only"
    own.file("finetune.json").write_text("[{}]")
    assert main([*own.words, "--on-error", "skip"]) == 1
