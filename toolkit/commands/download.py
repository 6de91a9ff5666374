"""`python -m toolkit download`: fetch models and data to their fixed destinations, verified."""

from __future__ import annotations

import argparse
from pathlib import Path

from toolkit.download.install import Installer
from toolkit.download.manifest import HOMES, MANIFEST, choose, load_manifest
from toolkit.download.run import download, print_plan, verify
from toolkit.errors import UserError
from toolkit.files import REPOSITORY

ENVIRONMENT = """environment:
  HTTP_PROXY, HTTPS_PROXY, NO_PROXY   proxies
  HF_ENDPOINT, HF_TOKEN               a mirror of Hugging Face; an account, for gated models
  MODELSCOPE_ENDPOINT, MODELSCOPE_API_TOKEN   the same of ModelScope
  BETTER_SYNTH_URL                    another URL of the organisers' files"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m toolkit download`."""
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, ENVIRONMENT
    parser.add_argument("--kit", choices=("full", "10k", "operators"), default="full", help="what for (default: full)")
    parser.add_argument(
        "--only", type=lambda text: text.split(","), default=[], metavar="NAME,...", help="these resources, of any kit"
    )
    parser.add_argument("--source", choices=HOMES, default="", help="this source only (default: each one's in order)")
    parser.add_argument("--dry-run", action="store_true", help="print what is missing, its sources and size")
    parser.add_argument("--verify", action="store_true", help="read everything again, fetch nothing")
    parser.add_argument("--jobs", type=int, default=4, help="resources at a time (default: 4)")
    parser.add_argument("--attempts", type=int, default=8, help="failures in a row that end a transfer (default: 8)")
    parser.add_argument("--root", type=Path, default=REPOSITORY, help="base of all destinations (default: this kit)")
    parser.add_argument("--manifest", type=Path, default=MANIFEST, help="another list of resources")


def run(args: argparse.Namespace) -> None:
    """Download, plan or verify the chosen resources.

    Raises:
        UserError: a resource is missing at the end; not enough disk space; another download is running.
    """
    resources = choose(load_manifest(args.manifest), args.kit, args.only, args.source)
    if args.jobs < 1 or args.attempts < 1:
        raise UserError("--jobs and --attempts must be at least 1")
    installer = Installer(args.root, resources, args.attempts)
    if args.verify:
        verify(installer, resources)
    elif args.dry_run:
        print_plan(installer, resources)
    else:
        download(installer, resources, args.jobs)
