"""10k_quick_baseline.ipynb: its committed outputs are of a whole run, failures stop it, one variable switches the kit.

test_quickstart.py runs it whole.
"""

from __future__ import annotations

import re
import subprocess
import sys

import nbclient
import nbformat
import pytest

from toolkit.files import REPOSITORY

NOTEBOOK = "10k_quick_baseline.ipynb"
LARGEST_BYTES = 1_000_000


def plots(notebook: nbformat.NotebookNode) -> int:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def printed(notebook: nbformat.NotebookNode) -> str:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output.get("text", "") + output.get("data", {}).get("text/plain", "") for output in outputs)


def test_committed_outputs_are_whole_and_small() -> None:
    path = REPOSITORY / NOTEBOOK
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [output for cell in code for output in cell.outputs if output.output_type == "error"]
    assert plots(notebook) == 8
    assert "a complete online submission" in printed(notebook)
    assert path.stat().st_size < LARGEST_BYTES
    # No path of the machine it ran on: every path shown starts at the workspace.
    assert not re.findall(r"(?<![\w.])/(?:home|root|tmp|work|Users)/\S*", printed(notebook))


def first_cells() -> list[str]:
    """The cell with the one variable, and the cell that everything below uses."""
    code = [
        cell.source for cell in nbformat.read(REPOSITORY / NOTEBOOK, as_version=4).cells if cell.cell_type == "code"
    ]
    return code[:2]


def test_a_failing_command_stops_the_notebook() -> None:
    """`run` prints the command's output, and the next cell does not run."""
    notebook = nbformat.read(REPOSITORY / NOTEBOOK, as_version=4)
    cells = [*first_cells(), "run('echo spoken; exit 3')", "print('went on')"]
    notebook.cells = [nbformat.v4.new_code_cell(source) for source in cells]
    client = nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(REPOSITORY)}})
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="failed with status 3"):
        client.execute()
    assert "spoken" in printed(notebook)
    assert "went on" not in printed(notebook)


@pytest.mark.parametrize("kit", ["mini", "10k"])
def test_one_variable_switches_the_kit(kit: str) -> None:
    """The first cells run with either kit and name files that exist."""
    variable, tools = first_cells()
    assert variable.startswith('KIT = "mini"  #')
    assert "\n" not in variable
    program = f'KIT = "{kit}"\n{tools}\nprint(recipe, script, seed, download, EVALUATED)'
    result = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    recipe, script, seed, *download, evaluated = result.stdout.split()
    assert (REPOSITORY / recipe).is_file()
    assert (REPOSITORY / "toolkit" / script).is_file()
    assert (REPOSITORY / download[-1]).is_file() == (kit == "10k")
    assert ("10k" in seed) == (kit == "10k")
    assert evaluated.startswith("output/eval_results/MGM-")
