"""python -m toolkit: help, unknown commands, and a user's mistake as one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import toolkit.__main__ as kit
from toolkit.__main__ import COMMANDS, main, run_in_turn
from toolkit.commands.doctor import _recipe_file
from toolkit.errors import UserError
from toolkit.files import REPOSITORY


def toolkit(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "toolkit", *words], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )


def test_help_lists_every_command():
    result = toolkit("--help")
    assert result.returncode == 0
    assert all(f"\n  {name} " in result.stdout for name in COMMANDS)
    assert {"check", "train", "eval", "score", "pack", "verify", "mini"} <= set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_own_help(name, capsys):
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    assert f"python -m toolkit {name}" in capsys.readouterr().out


@pytest.mark.parametrize("words", [(), ("chekc",)])
def test_no_command_or_an_unknown_one_is_refused(words):
    result = toolkit(*words)
    assert result.returncode == 2
    assert "error:" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_mistake_is_one_line_and_status_1(tmp_path):
    result = toolkit("check", str(tmp_path / "nothing.jsonl"), "--images", str(tmp_path), "--preset", "mini")
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: {tmp_path}/nothing.jsonl: no such file")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_help_does_not_wait_for_torch():
    modules = ", ".join(f"toolkit.commands.{name}" for name in COMMANDS)
    modules += ", toolkit.training.inputs, toolkit.eval.inputs"  # what a second run of a training script looks with
    program = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=False).returncode == 0


def test_training_and_answering_import_no_library_in_vain():
    program = (
        "import sys, toolkit.__main__ as kit; kit.leave_out_unused('train');"
        "import toolkit.training.trainer, toolkit.eval.inference;"
        "print(*(name for name in (*kit.NEVER_USED, 'pandas', 'pyarrow') if sys.modules.get(name)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_commands_run_in_turn_up_to_the_first_that_fails(monkeypatch, capsys):
    ran, before = [], list(sys.argv)

    def main_of(words):
        ran.append((words, sys.argv[1:], sys.modules.get("scipy", "there")))
        return 3 if words[0] == "check" else 0

    monkeypatch.setattr(kit, "main", main_of)
    monkeypatch.setattr(sys, "argv", before)
    for name in kit.NEVER_USED:
        monkeypatch.delitem(sys.modules, name, raising=False)
    words = [["train", "pretrain"], ["score", "x", ""], ["check"], ["pack"]]
    assert run_in_turn([*words[0], "--then", *words[1], "--then", *words[2], "--then", *words[3]]) == 3
    # scipy is left out for a model's sake only.
    assert ran == [(words[0], words[0], None), (words[1], words[1], "there"), (words[2], words[2], "there")]
    monkeypatch.setattr(kit, "main", main)
    with pytest.raises(SystemExit) as end:
        run_in_turn(["--then", "score"])
    assert end.value.code == 2
    assert "COMMAND" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("prepare {file} --images {folder} --preset mini --out {file}", "is read; choose another file"),
        ("convert llava-to-dj {file} --out {file}", "is read; choose another file"),
        ("convert llava-to-dj {file} --out {folder}", "a folder; name the file to write"),
        ("check {file} --images {folder} --preset mini --json {folder}", "a folder; name the file to write"),
        ("check {file} --images {folder} --preset mini --fixes {file}/fixes.jsonl", "lies in a file, not in a folder"),
        ("pack online any --out {folder}", "a folder; name the file to write"),
        ("check {file} --images {folder} --preset mini --json /dev/null", "/dev/null: a device or a pipe; name a file"),
        ("check {file} --images {folder} --preset mini --json /dev/stdout", "/dev/stdout: a device or a pipe; name"),
        ("check {file} --images {folder} --preset mini --json {folder}/x --fixes {folder}/x", "each needs a file of"),
    ],
)
def test_a_result_is_never_written_over_what_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, said: str
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("{}\n")
    assert main(words.format(file=file, folder=tmp_path).split()) == 1
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.count("\n") == 1
    assert file.read_text() == "{}\n"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("word", "near"),
    [
        ("trian", "; did you mean train?"),
        ("xyz", ""),
        ("process", "; `python solution/process.py` does that"),
        ("proces", "; did you mean process?"),
        ("report", "; `python solution/process.py report` does that"),
    ],
)
def test_a_misspelt_command_is_told_the_nearest(capsys, word, near):
    with pytest.raises(SystemExit) as ended:
        main([word])
    assert ended.value.code == 2
    assert f"no command {word!r}; --help lists them{near}\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "near"),
    [
        ("lab rn lab.yaml", "did you mean run?"),
        ("lab run lab.yaml --plna", "did you mean --plan instead of --plna?"),
        ("lab run lab.yaml --baselin raw", ""),  # an option of `lab page`
        ("score recipe --presett=mini", "did you mean --preset instead of --presett?"),
        ("check rows.jsonl --imgaes folder", "did you mean --images instead of --imgaes?"),  # --images is required
        ("train pretrian", "did you mean pretrain?"),
        ("--hlep", "did you mean --help instead of --hlep?"),
        ("lab run lab.yaml other.yaml", ""),
    ],
)
def test_a_misspelt_word_is_told_the_nearest(capsys, words, near):
    with pytest.raises(SystemExit) as ended:
        main(words.split())
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: python -m toolkit")
    assert line.endswith(near or "; --help lists what there is")
    assert ("did you mean" in line) == bool(near)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("export a --formta parquet", "unrecognized arguments: --formta; the following arguments are required: --to"),
        ("export a --formta x --to y", "unrecognized arguments: --formta; argument --to: invalid choice: 'y'"),
        ("export a --formta x --to rows --out b", "export: unrecognized arguments: --formta x"),
        ("lab rn lab.yaml --plan", "lab: argument "),  # --plan is an option of `lab run`
    ],
)
def test_an_unknown_option_is_named_whatever_else_is_wrong(capsys, words, said):
    with pytest.raises(SystemExit):
        main(words.split())
    error = capsys.readouterr().err.splitlines()[-1]
    assert said in error
    assert error.count("unrecognized") == said.count("unrecognized")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("download --dry-run --only gema-2b-it", "; did you mean gemma-2b-it?\n"),
        ("judge {file} --chunk 0", "--chunk: has an effect with --chunks alone; add that, or leave --chunk out"),
    ],
)
def test_a_mistake_is_refused_in_a_line(tmp_path: Path, capsys, words: str, said: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("{}\n")
    assert main(words.format(file=file).split()) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == [file]


def test_the_nearest_recipe_is_named() -> None:
    with pytest.raises(UserError, match=r"no recipe defualt; did you mean default\? There are:\n  "):
        _recipe_file("defualt")
