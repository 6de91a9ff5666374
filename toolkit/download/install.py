"""Installation of one resource: fetched next to its destination, verified, renamed, recorded."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import time
from pathlib import Path

from toolkit.download.fetch import Partial, SourceError, fetch, shown_url
from toolkit.download.hubs import fetch_repository
from toolkit.download.manifest import HUBS, RemoteFile, Resource, Source
from toolkit.download.progress import Task, Transfer
from toolkit.download.unpack import DamagedArchive, RefusedArchive, unpack
from toolkit.download.verify import expected_files, faults_of, files_below, warnings_of
from toolkit.errors import UserError
from toolkit.files import read_json, sha256_of, write_json

# Archives and plain files in transfer, and the records of verified resources.
DOWNLOADS = Path("input") / ".downloads"


class Installer:
    """Installs resources below one root; several threads may install different resources.

    Args:
        root: folder that destinations are relative to.
        resources: all resources of this run; some share an archive.
        attempts: failures in a row without a new byte that end a transfer.
    """

    def __init__(self, root: Path, resources: list[Resource], attempts: int):
        self.root, self.downloads = root, root / DOWNLOADS
        # Complete resources no longer need an archive.
        self._waiting = {resource.name: resource for resource in resources if not self.is_complete(resource)}
        self._attempts = attempts
        sources = [source for resource in resources for source in resource.sources]
        self._files = {file.name: threading.Lock() for source in sources for file in source.files}
        self._lock = threading.Lock()

    def destination(self, resource: Resource) -> Path:
        """Folder of an installed resource."""
        return self.root / resource.destination

    def is_complete(self, resource: Resource) -> bool:
        """Whether it has a record and the files named there still have their sizes; their contents are not read."""
        record, folder = self._record(resource), self.destination(resource)
        return bool(record) and all(
            (folder / name).is_file() and (folder / name).stat().st_size == file["bytes"]
            for name, file in record["named"].items()
        )

    def sweep(self) -> None:
        """Remove half-written records and notes of a killed run; no other run may be active here."""
        for folder in (self.downloads, self.downloads / "records"):
            for path in folder.glob(".*.json.*.tmp"):  # the names of `processes.unfinished`
                path.unlink()

    def adopt(self, resource: Resource) -> str:
        """Record a resource that the user or the original kit's script already put there.

        Returns:
            Where it was found, for a message; empty if it was not.
        """
        folder, old = self.destination(resource), self.root / resource.old_destination
        if not faults_of(resource, folder):
            found = resource.destination
        elif resource.old_destination and not os.path.lexists(folder) and not faults_of(resource, old):
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.symlink_to(os.path.relpath(old, folder.parent), target_is_directory=True)
            found = f"{resource.old_destination} (linked to {resource.destination})"
        else:
            return ""
        entries = {path.relative_to(folder).parts[0] for path in expected_files(resource, folder)}
        expected = [pattern for expectation in resource.expect for pattern in expectation.path]
        # A folder that only the rows name belongs to it too: else a killed run's resource would be recorded in part.
        for name in [*expected, *(images.folder for images in resource.images if images.folder != ".")]:
            if (folder / name).is_dir():
                entries |= {name} if name != "." else {entry.name for entry in folder.iterdir()}
        self._clean(resource)
        self._write_record(resource, sorted(entries), "found there", time.monotonic())
        return found

    def install(self, resource: Resource, task: Task) -> dict:
        """Fetch a resource from the first source that delivers.

        Returns:
            Its record.

        Raises:
            UserError: no source delivers it; gives each one's reason, and the steps to do it by hand.
        """
        start, reasons = time.monotonic(), []
        for source in resource.sources:
            staging = self._staging(resource, source)
            try:
                self._stage(resource, source, staging, task)
            except SourceError as error:
                reasons.append(f"{source.home}: {error}")
                if source.home not in HUBS:  # a hub's client resumes from it
                    shutil.rmtree(staging, ignore_errors=True)
                continue
            task.phase = "installing"
            entries = self._move(staging, self.destination(resource))
            # The record is written last: after a kill before it, the next run finds the resource and cleans up.
            self._clean(resource)
            record = self._write_record(resource, entries, source.home, start)
            task.phase, task.total = "done", task.done
            return record
        task.phase = "failed"
        raise UserError(
            f"{resource.name}: {'; '.join(reasons) or 'not at this source'}. {self._manual_steps(resource)}"
        )

    def _manual_steps(self, resource: Resource) -> str:
        """How a user without access to any source can provide the resource."""
        urls = [
            shown_url(file.url) for source in resource.sources for file in source.files if source.home == "organisers"
        ]
        repositories = [f"{source.repository} of {source.home}" for source in resource.sources if source.repository]
        ways = [f"get {', '.join(urls)} into {DOWNLOADS}/"] if urls else []
        ways.append(f"put {' or '.join(repositories) or 'its files'} into {resource.destination}/")
        return f"By hand: {', or '.join(ways)}, then run the same command again"

    def verify(self, resource: Resource) -> list[str]:
        """Read a resource again; returns its faults."""
        folder = self.destination(resource)
        if faults := faults_of(resource, folder):
            return faults
        if not (record := self._record(resource)):
            return [] if self.adopt(resource) else ["not as expected"]
        now = _describe(resource, folder, record["entries"])
        faults = [
            f"{name}: its bytes differ from those verified before"
            for name, file in record["named"].items()
            if now["named"].get(name) != file
        ]
        if not faults and now["listing"] != record["listing"]:
            is_now, was = (f"{state['files']:,} files with {state['bytes']:,} bytes" for state in (now, record))
            faults = [f"there are {is_now}; {was} were verified before, or names have changed"]
        return faults

    def _stage(self, resource: Resource, source: Source, staging: Path, task: Task) -> None:
        """Build the whole resource in `staging`; damaged files are fetched a second time."""
        for retry in (True, False):
            task.phase, task.done = f"from {source.home}", 0
            try:
                if source.home in HUBS:
                    fetch_repository(source, staging, task)
                else:
                    self._fetch_files(resource, source, staging, task)
                task.phase = "verifying"
                faults, suspects = faults_of(resource, staging), [file for file in source.files if not file.unpack]
                retryable = bool(suspects)
            except DamagedArchive as error:  # the archive is already deleted
                faults, suspects, retryable = [str(error)], [], True
            if not faults:
                return
            for file in suspects:
                self._discard(file)
            shutil.rmtree(staging, ignore_errors=True)
            if not (retry and retryable):
                break
        raise SourceError("; ".join(faults))

    def _fetch_files(self, resource: Resource, source: Source, staging: Path, task: Task) -> None:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        for file in source.files:
            local, into = self.downloads / file.name, staging / file.inside
            into.mkdir(parents=True, exist_ok=True)
            # Two resources may need the same archive: it is locked until it is read, or the other might delete it.
            with self._files[file.name]:
                task.phase = f"fetching {file.name}"
                fetch(file.url, local, self._attempts, Transfer(task))
                if not file.unpack:
                    shutil.copyfile(local, into / file.name)
                    continue
                task.phase = f"unpacking {file.name}"
                try:
                    unpack(local, file.unpack, into, int(4e9 * resource.unpacked_gb + 1e9))
                except RefusedArchive as error:
                    raise SourceError(
                        f"{DOWNLOADS / file.name} refused: {error}; none of its files were used"
                    ) from None
                except DamagedArchive as error:
                    local.unlink()
                    raise DamagedArchive(f"{file.name} is damaged: {error}") from None

    def _move(self, staging: Path, destination: Path) -> list[str]:
        """Rename the staged folder to its destination, or its entries if that folder exists already."""
        entries = sorted(entry.name for entry in staging.iterdir())
        with self._lock:
            if not destination.exists():
                os.rename(staging, destination)
                return entries
            for name in entries:
                # A folder cannot be renamed over a non-empty one: that one is renamed first.
                if (destination / name).exists():
                    os.rename(destination / name, staging / f"{name}.old")
                os.rename(staging / name, destination / name)
        shutil.rmtree(staging)
        return entries

    def _staging(self, resource: Resource, source: Source) -> Path:
        # Next to the real destination, so that renaming is atomic and not a copy.
        parent = self.destination(resource).resolve().parent
        return parent / f".{resource.name}.{source.home}.incoming"

    def _clean(self, resource: Resource) -> None:
        """Remove the files that an installed resource no longer needs."""
        with self._lock:
            self._waiting.pop(resource.name, None)
            sources = [source for other in self._waiting.values() for source in other.sources]
            needed = {file.name for source in sources for file in source.files}
        for source in resource.sources:
            shutil.rmtree(self._staging(resource, source), ignore_errors=True)
            for file in source.files:
                if file.name not in needed:
                    self._discard(file)

    def _discard(self, file: RemoteFile) -> None:
        with self._files[file.name]:
            (self.downloads / file.name).unlink(missing_ok=True)
            Partial(self.downloads / file.name).clear()

    def _record_path(self, resource: Resource) -> Path:
        return self.downloads / "records" / f"{resource.name}.json"

    def _record(self, resource: Resource) -> dict:
        """The record of a verified resource; empty without one, or if it was verified under another manifest entry."""
        path = self._record_path(resource)
        record = read_json(path) if path.exists() else {}
        return record if record.get("fingerprint") == resource.fingerprint else {}

    def _write_record(self, resource: Resource, entries: list[str], home: str, start: float) -> dict:
        folder = self.destination(resource)
        record = {
            "resource": resource.name,
            "fingerprint": resource.fingerprint,
            "source": home,
            "destination": resource.destination,
            **_describe(resource, folder, entries),
            "warnings": warnings_of(resource, folder),
            "seconds": round(time.monotonic() - start, 1),
        }
        write_json(self._record_path(resource), record)
        return record


def _describe(resource: Resource, folder: Path, entries: list[str]) -> dict:
    """Contents of some entries of a folder: a hash over all names and sizes, and the expected files' own hashes."""
    listing, files, total = hashlib.sha256(), 0, 0
    for entry in entries:
        path = folder / entry
        below = files_below(path) if path.is_dir() else [("", path.stat().st_size)] if path.exists() else []
        for name, size in below:
            listing.update(f"{entry}/{name}\t{size}\n".encode(errors="surrogateescape"))
            files, total = files + 1, total + size
    named = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for path in expected_files(resource, folder)
    }
    return {"entries": entries, "files": files, "bytes": total, "listing": listing.hexdigest(), "named": named}
