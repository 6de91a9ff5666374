"""toolkit/download/progress.py: the figures of a line, on a terminal and in a file."""

from __future__ import annotations

from toolkit.download.progress import Progress


def test_a_line_adds_up_parallel_tasks_and_names_the_active_ones():
    progress = Progress()
    seed, tower, _ = (progress.task(name, 1_000_000_000) for name in ("seed", "tower", "waits"))
    progress.line(0)
    seed.phase, seed.done = "fetching seed.tar.gz", 300_000_000
    tower.phase, tower.done = "verifying", 200_000_000
    line = progress.line(10)
    assert line == "500MB of about 3.00GB  50.0MB/s  00:50 left, seed fetching seed.tar.gz, tower verifying"


def test_resumed_bytes_are_done_but_no_speed(tmp_path):
    progress = Progress()
    task, hub = progress.task("seed", 4_000_000), progress.task("tower", 1_000_000)
    progress.line(0)
    task.resume(3_000_000)
    (tmp_path / "model.safetensors").write_bytes(bytes(500_000))
    hub.watch(tmp_path)
    task.done += 100_000
    assert progress.line(1).startswith("3.60MB of about 5.00MB  100kB/s  00:14 left")


def test_a_stalled_transfer_has_no_speed():
    progress = Progress()
    task = progress.task("seed", 4_000_000)
    progress.line(0)
    task.done = 1_000_000
    assert "1.00MB/s" in progress.line(1)
    progress.line(2)
    assert "?B/s  ? left" in progress.line(18)


def test_a_restarted_transfer_has_no_negative_speed():
    progress = Progress()
    task = progress.task("seed", 4_000_000)
    task.done = 1_000_000
    progress.line(0)
    task.done = 0
    assert progress.line(1).startswith("0.00B of about 4.00MB  ?B/s")


def test_a_bar_fits_the_terminal():
    progress = Progress()
    task = progress.task("seed", 4_000_000)
    task.phase, task.done = "fetching a_long_name.tar.gz", 1_000_000
    assert " 25%|" in progress.line(0, 200)
    assert len(progress.line(1, 60)) <= 60
