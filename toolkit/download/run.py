"""One run over the chosen resources: download them, print a plan of it, or verify what is there."""

from __future__ import annotations

import os
import shutil
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from toolkit.download.fetch import shown_url
from toolkit.download.hubs import prepare_clients
from toolkit.download.install import Installer
from toolkit.download.manifest import Resource
from toolkit.download.progress import Progress
from toolkit.errors import UserError
from toolkit.processes import owner_of


def download(installer: Installer, resources: list[Resource], jobs: int) -> None:
    """Install every resource that is not complete, `jobs` at a time.

    Raises:
        UserError: a resource cannot be downloaded; not enough disk space.
        InUseError: another download is running.
    """
    missing = [resource for resource in resources if not installer.is_complete(resource)]
    if not missing:
        print(f"Complete: {len(resources)} resources are in place (--verify reads them again).")
        return
    with owner_of(installer.downloads):
        installer.sweep()
        found = {resource.name: where for resource in missing if (where := installer.adopt(resource))}
        for name, where in found.items():
            print(f"{name}: found in {where}")
        _install(installer, [resource for resource in missing if resource.name not in found], jobs)
    print(f"Complete: {len(resources)} resources are in place.")


def print_plan(installer: Installer, resources: list[Resource]) -> None:
    """Print which resources are complete, and the sources, size and contents of the others."""
    missing = [resource for resource in resources if not installer.is_complete(resource)]
    for resource in resources:
        print(f"{'fetch   ' if resource in missing else 'complete'}  {resource.name}: {resource.about}")
        print(f"          to {resource.destination}")
        if resource not in missing:
            continue
        print(f"          about {resource.fetch_gb:g} GB, {resource.disk_bytes / 1e9:g} GB of disk on the way")
        for source in resource.sources:
            urls = " ".join(shown_url(file.url) for file in source.files)
            print(f"          {source.home}: {source.repository or urls}")
        for expectation in resource.expect:
            known = [f"at least {expectation.files:,} files"] * (expectation.files > 1)
            known += [f"{expectation.size:,} bytes"] * bool(expectation.size)
            known += [f"{expectation.lines:,} lines"] * bool(expectation.lines)
            known += [f"sha256 {expectation.sha256}"] * bool(expectation.sha256)
            print(f"          must hold {' or '.join(expectation.path)}{': ' * bool(known)}{', '.join(known)}")
    total = sum(resource.fetch_gb for resource in missing)
    print(f"{len(resources) - len(missing)} of {len(resources)} complete; about {total:.1f} GB to fetch")


def verify(installer: Installer, resources: list[Resource]) -> None:
    """Read every resource again and print its faults.

    Raises:
        UserError: a resource is missing or damaged.
    """
    bad = []
    for resource in resources:
        faults = installer.verify(resource)
        print(f"{resource.name}: {'; '.join(faults) or 'complete'}", flush=True)
        bad += [resource.name] * bool(faults)
    if bad:
        raise UserError(
            f"{len(bad)} of {len(resources)} resources are incomplete: {', '.join(bad)}; "
            "delete damaged files, then `python -m toolkit download` fetches what is missing"
        )


def _install(installer: Installer, missing: list[Resource], jobs: int) -> None:
    """Install resources in parallel; each failure has a line of its own."""
    _require_space(installer, missing)
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
            progress.say("stopped; the same command resumes from here")
            # Threads of the hubs' clients cannot be told to stop; everything on disk is safe at any moment.
            os._exit(130)
    for failure in failures[:-1]:
        print(f"error: {failure}", file=sys.stderr)
    if failures:
        raise UserError(failures[-1])


def _require_space(installer: Installer, missing: list[Resource]) -> None:
    """Refuse to begin if a disk is too small for the manifest's estimates."""
    needed: Counter[int] = Counter()
    folders: dict[int, Path] = {}
    for resource in missing:
        for folder, gigabytes in (
            (installer.downloads if resource.unpacked_gb else installer.destination(resource), resource.fetch_gb),
            (installer.destination(resource), resource.unpacked_gb),
        ):
            existing = next(path for path in (folder, *folder.parents) if path.exists())
            device = existing.stat().st_dev
            folders.setdefault(device, existing)
            needed[device] += int(gigabytes * 1e9)
    for device, size in needed.items():
        free = shutil.disk_usage(folders[device]).free
        if size > free:
            raise UserError(
                f"{folders[device]}: about {size / 1e9:.0f} GB needed, {free / 1e9:.0f} GB free; make room, or fetch "
                f"in parts with --only {missing[0].name}"
            )
