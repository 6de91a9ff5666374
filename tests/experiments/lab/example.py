"""A finished lab and a finished run without trainings: records and answers as they are left, drawn at random."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas
import yaml

from experiments.lab.cells import SUMMARY, write_record, write_table
from toolkit.eval import mmbench
from toolkit.files import REPOSITORY, display_path
from toolkit.presets import load_preset

MINI = load_preset("mini")
RECIPES = {"recipe": "solution/recipes/mini.yaml", "again": "solution/recipes/mini.yaml"}


def write_lab(folder: Path, skills: Mapping[str, float], seeds: int = 3, **changes: Any) -> Path:
    """Write a lab file and its records.

    Args:
        folder: gets `lab.yaml` and `records/`.
        skills: by arm, the chance of a right answer; arms are controls, or those of RECIPES.
        seeds: trainings of each arm.
        changes: other texts of questions, options and answers, by column of the tables.

    Returns:
        the lab file.
    """
    file = folder / "lab.yaml"
    records = folder / "records"
    arms = {name: RECIPES.get(name, name) for name in skills}
    file.write_text(yaml.safe_dump({"arms": arms, "seeds": seeds, "records": str(records)}, sort_keys=False))
    questions = _questions().assign(**{key: value for key, value in changes.items() if key != "answer"})
    write_table(records / "questions-e.parquet", questions)
    for name, skill in skills.items():
        for seed in range(seeds):
            _write_cell(records, name, seed, skill, questions, changes.get("answer"))
    text = (REPOSITORY / RECIPES["recipe"]).read_text(encoding="utf-8")
    texts = {"recipe": text, "again": text.replace("min_num: 2", "min_num: 3")}
    about: dict[str, dict[str, Any]] = {name: {"source": source} for name, source in arms.items()}
    for name in texts.keys() & about.keys():
        about[name] |= {"text": texts[name], "steps": STEPS}
    write_record(records / SUMMARY, {"name": "lab", "baseline": "raw", "arms": about, "missing": []})
    return file


STEPS = [
    {
        "name": name, "rows_in": rows_in, "kept": kept, "dropped": rows_in - kept, "failed": 0, "created": 0,
        "rewritten": 0, "reasons": {"too short": rows_in - kept} if rows_in > kept else {}, "seconds": 0.1,
    }
    for name, rows_in, kept in (("read", 2400, 2400), ("words_num_filter", 2400, 1979), ("clip_filter", 1979, 1200))
]  # fmt: skip


def _questions() -> pandas.DataFrame:
    """40 questions of MMBench-mini and 40 as TextVQA has them, with the images that are in the repository."""
    table = mmbench.read_table(MINI.mmbench.questions)[:40]
    images = sorted(path for path in MINI.textvqa.images.iterdir())[:40]
    lines = [
        ("textvqa", number, "text" if number % 2 else "object", display_path(image), f"what is {number}?", "bus")
        for number, image in enumerate(images)
    ]
    source = display_path(MINI.mmbench.questions)
    lines += [
        (
            "mmbench",
            int(row["index"]),
            row["category"],
            f"{source}#{row['index']}",
            f"{row['question']}\nA. bus\nB. dog",
            "A",
        )
        for row in table
        if int(row["index"]) < mmbench.CIRCULAR
    ]
    return pandas.DataFrame(lines, columns=["benchmark", "question", "category", "image", "text", "wanted"])


def _write_cell(
    records: Path, arm: str, seed: int, skill: float, questions: pandas.DataFrame, wrong: str | None
) -> None:
    chance = random.Random(f"{arm} {seed}")
    luck = skill + chance.gauss(0, 0.02)
    correct = [float(chance.random() < luck) for _ in range(len(questions))]
    answer = ["bus" if right else (wrong or chance.choice(["dog", "cat", ""])) for right in correct]
    table = questions[["benchmark", "question"]].assign(answer=answer, correct=correct, strict=correct)
    write_table(records / f"{arm}-draw0-seed{seed}.parquet", table)
    joined = table.assign(category=questions["category"])
    scores = {
        name: {"all": rows["correct"].mean(), **rows.groupby("category")["correct"].mean().to_dict()}
        for name, rows in joined.groupby("benchmark", sort=False)
    }
    rows = 0 if arm == "none" else 1200
    history = [2 / (1 + step / 40) + chance.gauss(0, 0.1) for step in range(300)]
    record = {
        "key": f"{arm}{seed}", "arm": arm, "draw": 0, "seed": seed, "preset": "mini", "split": "preset",
        "scores": scores, "samples": {"pretrain": rows, "finetune": 1200},
        "loss": {"pretrain": history, "finetune": [value / 2 for value in history]}, "warnings": [],
        "counts": {"rows": rows, "distinct_rows": rows}, "seconds": 45.0 + seed, "cpu_seconds": 43.0 + 5 * (rows > 0),
        "gpu_hours": 0.0, "inputs": {"evaluation": "e"}, "versions": {"torch": "2"}, "fixed_part": "f", "device": "cpu",
    }  # fmt: skip
    write_record(records / f"{arm}-draw0-seed{seed}.json", record)


ANSWERS = ["A", "red", "B", "A", "red", "A"]  # to the six questions of the fixture `benchmarks`: two of three groups


def write_run(results: Path, benchmarks: Any, name: str, right: int, mmbench: list[str], text: str = "shut") -> Path:
    """Write a finished run: its answers, and the records of both stages beside them.

    Args:
        results: stands for output/eval_results.
        benchmarks: the fixture of that name.
        name: of the experiment.
        right: how many of TextVQA's twelve questions are answered rightly, the first ones; `text` answers the others.
        mmbench: answers to MMBench's six questions.

    Returns:
        the folder of the answers.
    """
    folder = results / f"MGM-Tiny-Finetune-{name}"
    questions = [json.loads(line) for line in benchmarks.textvqa.read_text().splitlines()]
    indices = [int(line.split("\t")[0]) for line in benchmarks.mmbench.read_text().splitlines()[1:]]
    answers = {
        "textvqa": [
            {"question_id": q["question_id"], "prompt": q["text"], "text": "Open." if n < right else text}
            for n, q in enumerate(questions)
        ],
        "mmbench": [{"question_id": index, "text": answer} for index, answer in zip(indices, mmbench, strict=True)],
    }
    for benchmark, lines in answers.items():
        (folder / benchmark).mkdir(parents=True)
        (folder / benchmark / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for stage, trained in (("Pretrain", 8), ("Finetune", 12)):
        stage_folder = results.parent / "training_dirs" / f"MGM-Tiny-{stage}-{name}"
        stage_folder.mkdir(parents=True)
        record = {"counts": {"samples_trained": trained}, "seconds": 30.0, "configuration": {"processes": 1}}
        (stage_folder / "run.json").write_text(json.dumps(record))
        history = [{"step": step, "loss": 2 / step} for step in range(1, 9)] + [{"step": 8, "train_loss": 1}]
        (stage_folder / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    return folder
