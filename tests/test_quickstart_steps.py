"""quickstart.sh with stand-ins for its steps: what it says at its end, and where it ends if a step fails."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.test_install import script
from toolkit.files import REPOSITORY


def test_quickstart_ends_on_the_comparison_and_what_to_do_next(tmp_path: Path) -> None:
    """All steps are stand-ins; pack's is as long as the real one."""
    (tmp_path / "toolkit").mkdir()
    shutil.copy(REPOSITORY / "quickstart.sh", tmp_path)
    for name in ("install.sh", "toolkit/train_mgm_mini_stage_1.sh"):
        (tmp_path / name).touch()
    (tmp_path / "toolkit/environment.sh").write_text("TIED=(env)\n")
    said = 'case "$3" in pack) seq 50; echo "submit.zip: packed";; score) echo "MMBench strict 0.00";; esac'
    script(tmp_path / "bin" / "python", said)
    result = subprocess.run(
        ["bash", "quickstart.sh"],
        cwd=tmp_path,
        env={"PATH": f"{tmp_path}/bin:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    end = result.stdout.partition("== 4/4")[2].splitlines()
    assert end[1:4] == ["submit.zip: packed", "", "MMBench strict 0.00"]
    assert sum("MMBench strict" in line for line in end) == 1  # `score` says it
    following = [line.split()[0] for line in end[end.index("Next:") + 1 :] if line.startswith("  ")]
    assert following == ["python3", "TRAIN_SEED=1", "bash"]


def test_quickstart_ends_where_a_training_or_the_recipe_does(tmp_path: Path) -> None:
    """They run side by side: a failure of raw's training is said, one of the others ends it."""
    (tmp_path / "toolkit").mkdir()
    shutil.copy(REPOSITORY / "quickstart.sh", tmp_path)
    (tmp_path / "install.sh").touch()
    (tmp_path / "toolkit/environment.sh").write_text("TIED=(env)\n")
    script(tmp_path / "bin" / "python", "true")

    def started(raw: str, recipe: str) -> subprocess.CompletedProcess[str]:
        stage = f'case "$EXP_NAME" in raw) {raw};; recipe) {recipe};; esac'
        (tmp_path / "toolkit/train_mgm_mini_stage_1.sh").write_text(stage)
        environment = {"PATH": f"{tmp_path}/bin:/usr/bin:/bin"}
        return subprocess.run(["bash", "quickstart.sh"], cwd=tmp_path, env=environment, capture_output=True, text=True)

    failed = started('echo "error: raw is broken" >&2; exit 3', "sleep 0.2")
    assert (failed.returncode, failed.stderr) == (1, "error: raw is broken\n")
    assert "== 4/4" not in failed.stdout
    waits = "until [ -s raw.pid ]; do sleep 0.1; done; exit 4"
    for python, recipe in (("true", waits), (waits, "true")):  # the recipe runs beside raw's training too
        (tmp_path / "raw.pid").unlink(missing_ok=True)
        script(tmp_path / "bin" / "python", python)
        assert started("echo $$ >raw.pid; exec sleep 600", recipe).returncode == 4
        assert not Path("/proc", (tmp_path / "raw.pid").read_text().strip(), "cwd").exists()
