"""Disturb every command many times, or repeat some for hours: `python -m tests.faults --kills 20` prints a table."""

from __future__ import annotations

import argparse
import os
import sys

import pytest


class Table:
    """Collects what each test recorded, and prints it at the end."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, dict]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the outcome of a test that has one."""
        if report.when == "call" and report.user_properties:
            name = report.nodeid.partition("[")[2].rstrip("]")
            self.rows.append((name, dict(report.user_properties)))
            print(f"\n{self._line(*self.rows[-1])}", flush=True)
        if report.failed:
            print(f"\n{report.nodeid}:\n{report.longreprtext[-4000:]}", flush=True)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """One line per command, in Markdown."""
        if any("rounds" in found for _, found in self.rows):
            terminalreporter.write_line("| command | rounds | memory of its largest process, MB |")
            terminalreporter.write_line("|---|---|---|")
        else:
            terminalreporter.write_line(
                "| command | undisturbed | runs disturbed | signals that met it | differences |"
            )
            terminalreporter.write_line("|---|---|---|---|---|")
        for row in self.rows:
            terminalreporter.write_line(self._line(*row))

    @staticmethod
    def _line(name: str, found: dict) -> str:
        if "rounds" in found:
            return f"| {name} | {found['rounds']} | {found['memory']} |"
        return f"| {name} | {found['seconds']:.1f} s | {found['kills']} | {found['met']} | {found['different']} |"


def main() -> int:
    """Read the options, hand the rest to pytest."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="disturbed runs of each command (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of signals, targets and moments (%(default)s)")
    parser.add_argument("--only", default="", help="commands whose name holds this, in pytest's -k language")
    parser.add_argument("--minutes", type=float, help="instead of kills: repeat them so long in all; look for leaks")
    arguments = parser.parse_args()
    if arguments.kills < 2:
        parser.error("--kills: 2 or more")
    os.environ |= {"FAULTS_KILLS": str(arguments.kills), "FAULTS_SEED": str(arguments.seed)}
    if arguments.minutes:
        os.environ["FAULTS_MINUTES"] = str(arguments.minutes)
    tests = "tests/faults/test_leaks.py" if arguments.minutes else "tests/faults/test_kills.py"
    chosen = ["-k", arguments.only] if arguments.only else []
    return pytest.main(["-p", "no:cacheprovider", "--tb=short", "-q", tests, *chosen], [Table()])


if __name__ == "__main__":
    sys.exit(main())
