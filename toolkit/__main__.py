"""`python -m toolkit COMMAND`: the entry point of all commands.

`COMMAND ... --then COMMAND ...` runs several in one process, up to the first that fails: what a script does that only
finds everything done.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from typing import Any

from toolkit.arguments import Arguments
from toolkit.entry import run
from toolkit.errors import UserError, nearest
from toolkit.processes import InUseError, end_forks_with_this_process, temporary_files

# name -> what it does. `toolkit.commands.NAME` defines add_arguments(parser) and run(args); it is imported only for the
# command that was asked for, so that --help and the quick checks start without torch.
COMMANDS = {
    "doctor": "say what is there, what is missing, what that prevents, and the command for it",
    "check": "check a processed_data.jsonl: schema, tokens, images, cap, trainability of every row",
    "convert": "turn any LLaVA-format data set into a seed, or rows into LLaVA format",
    "preflight": "check batch sizes, data, models and GPUs before a run starts",
    "download": "fetch models and data to their folders, verified; run again to resume",
    "prepare": "cap the rows, restore their questions and write the LLaVA-format training file",
    "batch": "print a micro-batch and accumulation that fit these GPUs",
    "train": "train one stage of MGM: pretrain or finetune",
    "eval": "answer TextVQA and MMBench with a trained MGM",
    "ask": "ask a trained MGM one question about one image",
    "judge": "say how much each image helps to predict its caption: what image_value_filter reads",
    "score": "score an experiment's answers, beside a baseline's if named",
    "pack": "pack an experiment into a submission zip",
    "export": "write processed data as others load them: Parquet, webdataset or LLaVA, with a card; and back",
    "verify": "verify a submission zip's layout",
    "lab": "compare recipes and data sets: train on each with several seeds, say which differences are real",
    "mini": "build and check the embedded mini world",
}

# Commands of better-synth and of process.py, which this one is taken for -> what to type.
OF_RECIPES = {"process": "python solution/process.py"} | {
    name: f"python solution/process.py {name}" for name in ("analyze", "report", "operators")
}
COMMANDS_WITH_A_MODEL = ("train", "eval", "ask", "preflight")
THEN = "--then"
# transformers imports these where they are installed, for losses, metrics and data sets of others: a fifth of a start.
NEVER_USED = ("scipy", "sklearn", "datasets")


def leave_out_unused(command: str) -> None:
    """Have this process take libraries for not installed that a command with a model would import in vain."""
    modules: dict[str, Any] = sys.modules
    for name in NEVER_USED:
        if command in COMMANDS_WITH_A_MODEL:
            modules.setdefault(name, None)
        elif modules.get(name, name) is None:  # left out by a command before this one
            del modules[name]


def main(argv: list[str]) -> int:
    """Run one command.

    Args:
        argv: the words after `python -m toolkit`.

    Returns:
        Exit status: 0, 1 for a user's mistake, 2 for unusable arguments (argparse's own).
    """
    summary = "\n".join(f"  {name:10} {text}" for name, text in COMMANDS.items())
    program = os.environ.get("BETTER_SYNTH", "python -m toolkit")
    parser = Arguments(
        prog=program,
        description="The referee of the Better Synth kit.",
        epilog=f"commands:\n{summary}\n\n`{program} COMMAND --help` lists a command's arguments.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of the commands below")
    if argv and not argv[0].startswith("-") and argv[0] not in COMMANDS:
        other = OF_RECIPES.get(argv[0])
        hint = f"; `{other}` does that" if other else nearest(argv[0], COMMANDS | OF_RECIPES)
        parser.error(f"no command {argv[0]!r}; --help lists them{hint}")
    name = parser.parse_args(argv[:1]).command

    command = importlib.import_module(f"toolkit.commands.{name}")
    command_parser = Arguments(prog=f"{program} {name}", description=COMMANDS[name])
    command.add_arguments(command_parser)
    arguments = command_parser.parse_args(argv[1:])
    end_forks_with_this_process()
    try:
        return command.run(arguments) or 0
    except (UserError, InUseError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def run_in_turn(argv: list[str]) -> int:
    """Run the commands between which `--then` stands, up to the first that fails; returns its status, else 0."""
    commands: list[list[str]] = [[]]
    for word in argv:
        if word == THEN:
            commands.append([])
        else:
            commands[-1].append(word)
    for words in commands:
        leave_out_unused(*words[:1] or [""])
        sys.argv[1:] = words  # which a launcher starts again
        if status := main(words):
            return status
    return 0


if __name__ == "__main__":
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # transformers 5 remarks on each Gemma
    run(temporary_files()(lambda: run_in_turn(sys.argv[1:])))
