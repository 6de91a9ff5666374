"""`python -m toolkit download`: everything a kit needs, each to its fixed place, whole."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from toolkit.download.hubs import prepare_clients
from toolkit.download.install import DOWNLOADS, Installer
from toolkit.download.manifest import HOMES, MANIFEST, Resource, choose, load_manifest
from toolkit.download.progress import Progress
from toolkit.errors import UserError
from toolkit.files import REPOSITORY

ENVIRONMENT = """environment:
  HTTP_PROXY, HTTPS_PROXY, NO_PROXY   proxies
  HF_ENDPOINT, HF_TOKEN               a mirror of Hugging Face; an account, for gated models
  MODELSCOPE_ENDPOINT, MODELSCOPE_API_TOKEN   the same of ModelScope
  BETTER_SYNTH_URL                    another place with the organisers' files"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m toolkit download`."""
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, ENVIRONMENT
    parser.add_argument("--kit", choices=("full", "10k", "operators"), default="full", help="what for (default: full)")
    parser.add_argument(
        "--only", type=lambda text: text.split(","), default=[], metavar="NAME,...", help="these resources, of any kit"
    )
    parser.add_argument("--source", choices=HOMES, default="", help="from there only (default: each one's in order)")
    parser.add_argument("--dry-run", action="store_true", help="say what is missing, where it is, how large")
    parser.add_argument("--verify", action="store_true", help="read again what is there, fetch nothing")
    parser.add_argument("--jobs", type=int, default=4, help="resources at a time (default: 4)")
    parser.add_argument("--attempts", type=int, default=8, help="failures in a row that end a transfer (default: 8)")
    parser.add_argument("--root", type=Path, default=REPOSITORY, help="where destinations start (default: this kit)")
    parser.add_argument("--manifest", type=Path, default=MANIFEST, help="another list of resources")


def run(args: argparse.Namespace) -> None:
    """Bring the chosen resources to their places, or say what stands in the way.

    Raises:
        UserError: a resource is missing in the end; too little room; another download is running.
    """
    resources = choose(load_manifest(args.manifest), args.kit, args.only, args.source)
    if args.jobs < 1 or args.attempts < 1:
        raise UserError("--jobs and --attempts must be at least 1")
    installer = Installer(args.root, resources, args.attempts)
    if args.verify:
        verify(installer, resources)
        return
    missing = [resource for resource in resources if not installer.is_complete(resource)]
    if args.dry_run:
        plan(installer, resources, missing)
        return
    if not missing:
        print(f"Complete: {len(resources)} resources are in place (--verify reads them again).")
        return
    with only_one(args.root / DOWNLOADS):
        installer.sweep()
        found = {resource.name: place for resource in missing if (place := installer.adopt(resource))}
        for name, place in found.items():
            print(f"{name}: found in {place}")
        install(installer, [resource for resource in missing if resource.name not in found], args.jobs)
    print(f"Complete: {len(resources)} resources are in place.")


def install(installer: Installer, missing: list[Resource], jobs: int) -> None:
    """Install resources side by side.

    Raises:
        UserError: one or several cannot be had; each has its own line.
    """
    require_space(installer, missing)
    prepare_clients()
    progress, failures = Progress(), []
    tasks = [(resource, progress.task(resource.name, int(resource.fetch_gb * 1e9))) for resource in missing]
    with progress.shown(), ThreadPoolExecutor(jobs) as pool:
        running = {pool.submit(installer.install, resource, task): resource for resource, task in tasks}
        try:
            for future in as_completed(running):
                name = running[future].name
                try:
                    record = future.result()
                except (UserError, OSError) as error:
                    failures.append(str(error) if isinstance(error, UserError) else f"{name}: {error}")
                    continue
                size = f"{record['files']:,} files, {record['bytes'] / 1e9:.2f} GB"
                progress.say(f"{name}: {size} from {record['source']}")
                for warning in record["warnings"]:
                    progress.say(f"warning: {name}: {warning}")
        except KeyboardInterrupt:
            progress.say("stopped; the same command goes on from here")
            # Threads of the hubs' clients cannot be told to stop; everything on disk is safe at any moment.
            os._exit(130)
    for failure in failures[:-1]:
        print(f"error: {failure}", file=sys.stderr)
    if failures:
        raise UserError(failures[-1])


def plan(installer: Installer, resources: list[Resource], missing: list[Resource]) -> None:
    """Print what is there, and what would be fetched from where."""
    for resource in resources:
        print(f"{'fetch   ' if resource in missing else 'complete'}  {resource.name}: {resource.about}")
        print(f"          to {resource.destination}")
        if resource not in missing:
            continue
        print(f"          about {resource.fetch_gb:g} GB, {resource.disk_bytes / 1e9:g} GB of disk on the way")
        for source in resource.sources:
            print(f"          {source.home}: {source.repository or ' '.join(file.url for file in source.files)}")
        for expectation in resource.expect:
            known = [f"at least {expectation.files:,} files"] * (expectation.files > 1)
            known += [f"{expectation.size:,} bytes"] * bool(expectation.size)
            known += [f"{expectation.lines:,} lines"] * bool(expectation.lines)
            known += [f"sha256 {expectation.sha256}"] * bool(expectation.sha256)
            print(f"          must hold {' or '.join(expectation.path)}{': ' * bool(known)}{', '.join(known)}")
    total = sum(resource.fetch_gb for resource in missing)
    print(f"{len(resources) - len(missing)} of {len(resources)} complete; about {total:.1f} GB to fetch")


def verify(installer: Installer, resources: list[Resource]) -> None:
    """Read every resource again and print what became of it.

    Raises:
        UserError: one is missing or spoilt.
    """
    bad = []
    for resource in resources:
        faults = installer.verify(resource)
        print(f"{resource.name}: {'; '.join(faults) or 'sound'}", flush=True)
        bad += [resource.name] * bool(faults)
    if bad:
        raise UserError(
            f"{len(bad)} of {len(resources)} resources are not sound: {', '.join(bad)}; "
            "`python -m toolkit download` fetches what is missing, what is spoilt must be deleted first"
        )


def require_space(installer: Installer, missing: list[Resource]) -> None:
    """Refuse to begin what the disk cannot hold, by the manifest's estimates.

    Raises:
        UserError: says how much is missing, and where.
    """
    needed: Counter[int] = Counter()
    places: dict[int, Path] = {}
    for resource in missing:
        for folder, gigabytes in (
            (installer.downloads if resource.unpacked_gb else installer.destination(resource), resource.fetch_gb),
            (installer.destination(resource), resource.unpacked_gb),
        ):
            existing = next(place for place in (folder, *folder.parents) if place.exists())
            device = existing.stat().st_dev
            places.setdefault(device, existing)
            needed[device] += int(gigabytes * 1e9)
    for device, size in needed.items():
        free = shutil.disk_usage(places[device]).free
        if size > free:
            raise UserError(
                f"{places[device]}: about {size / 1e9:.0f} GB needed, {free / 1e9:.0f} GB free; make room, or fetch "
                f"in parts with --only {missing[0].name}"
            )


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold the downloads folder's lock.

    Raises:
        UserError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder}: another download is running there; wait for it") from None
        yield
