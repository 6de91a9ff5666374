"""Which arms differ: means, intervals and verdicts of a lab's trainings. The values it makes are in `results.py`.

Input is one table of scores, and one of single answers where the records hold them; nothing here knows a file.
"""

from __future__ import annotations

# Columns of the two tables, both long, one row per value.
SCORES = ("arm", "draw", "seed", "benchmark", "score")  # score: 0 to 1
ANSWERS = ("arm", "draw", "seed", "benchmark", "question", "correct")  # correct: 0 to 1; further columns are ignored
