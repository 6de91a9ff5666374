"""`process.py` and its sub-commands: a misspelt option or choice is answered with the nearest name,
and one of `dj-process` with its name here."""

import sys

import pytest

from solution.process import main


@pytest.mark.parametrize(
    ("words", "near"),
    [
        ("--recpie mini", "did you mean --recipe instead of --recpie?"),  # --recipe is required
        ("--recipe mini --datset seed.jsonl", "did you mean --dataset instead of --datset?"),
        ("--recipe mini --on-error=skpi", "did you mean skip?"),
        ("--recipe mini --executor rya", "did you mean ray?"),
        ("check mini --datasset seed.jsonl", "did you mean --dataset instead of --datasset?"),
        ("analyze mini --limt 5", "did you mean --limit instead of --limt?"),
        ("report mini --comprae other", "did you mean --compare instead of --comprae?"),
        ("operators --makrdown", "did you mean --markdown instead of --makrdown?"),
        ("operators --recipe mini", "; --help lists what there is"),
        ("--config mine.yaml", "; --config is --recipe here; --help lists what there is"),
        ("--recipe mini --export_path=a", "; --export_path is --output here; --help lists what there is"),
        ("--recipe mini --dataset_path a", "; --dataset_path is --dataset here; --help lists what there is"),
        ("--recipe mini --ray_address a", "; --ray_address is --ray-address here; --help lists what there is"),
        ("--recipe mini --np 8", "; --np is a key of the recipe here, np: ...; --help lists what there is"),
        ("report --config mini", "here: process.py report RECIPE; --help lists what there is"),
    ],
)
def test_a_misspelt_word_is_told_the_nearest(capsys, monkeypatch, words, near):
    monkeypatch.setattr(sys, "argv", ["process.py", *words.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: process.py")
    assert line.endswith(near)
