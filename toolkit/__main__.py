"""`python -m toolkit COMMAND`: one door to everything the referee does."""

from __future__ import annotations

import argparse
import importlib
import sys

from toolkit.errors import UserError

# name -> (module, what it does). The module defines NAME_arguments(parser) and NAME_command(args); it is imported only
# for the command that was asked for, so that --help and the quick checks start without torch.
COMMANDS = {
    "check": (
        "toolkit.commands.check",
        "check a processed_data.jsonl: schema, tokens, images, cap, trainability of every row",
    ),
    "convert": ("toolkit.commands.convert", "turn any LLaVA-format data set into a seed, or rows into LLaVA format"),
    "preflight": ("toolkit.commands.preflight", "check batch sizes, data, models and GPUs before a run starts"),
    "download": ("toolkit.commands.download", "fetch models and data to their places, verified; runs again to go on"),
    "prepare": (
        "toolkit.commands.prepare",
        "cap the rows, restore their questions and write the LLaVA-format training file",
    ),
    "batch": ("toolkit.commands.batch", "print a micro-batch and accumulation that fit these GPUs"),
    "train": ("toolkit.training.run", "train one stage of MGM: pretrain or finetune"),
    "eval": ("toolkit.eval.answer", "answer TextVQA and MMBench with a trained MGM"),
    "ask": ("toolkit.eval.answer", "ask a trained MGM one question about one picture"),
    "score": ("toolkit.eval.score", "score an experiment's answers, beside a baseline's if named"),
    "pack": ("toolkit.submission.layout", "pack an experiment into a submission zip"),
    "verify": ("toolkit.submission.layout", "verify a submission zip's layout"),
    "mini": ("toolkit.commands.mini", "build and check the embedded mini world"),
}


def main(argv: list[str]) -> int:
    """Run one command.

    Args:
        argv: the words after `python -m toolkit`.

    Returns:
        Exit status: 0, 1 for a user's mistake, 2 for unusable arguments (argparse's own).
    """
    summary = "\n".join(f"  {name:10} {text}" for name, (_, text) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="python -m toolkit",
        description="The referee of the Better Synth kit.",
        epilog=f"commands:\n{summary}\n\n`python -m toolkit COMMAND --help` lists a command's arguments.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of the commands below")
    name = parser.parse_args(argv[:1]).command

    module_name, text = COMMANDS[name]
    module = importlib.import_module(module_name)
    command_parser = argparse.ArgumentParser(prog=f"python -m toolkit {name}", description=text)
    getattr(module, f"{name}_arguments")(command_parser)
    arguments = command_parser.parse_args(argv[1:])
    try:
        return getattr(module, f"{name}_command")(arguments) or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
