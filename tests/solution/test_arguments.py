"""`process.py` and its sub-commands: a misspelt option or choice is answered with the nearest name."""

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
        ("operators --recipe mini", ""),
    ],
)
def test_a_misspelt_word_is_told_the_nearest(capsys, monkeypatch, words, near):
    monkeypatch.setattr(sys, "argv", ["process.py", *words.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert "error: " in line
    assert line.endswith(near) if near else "did you mean" not in line
