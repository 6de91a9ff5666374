"""Archives that come from strangers: unpacked within limits, or refused with nothing written outside the target."""

from __future__ import annotations

import errno
import gzip
import lzma
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

BLOCK = 1 << 20
MOST_MEMBERS = 2_000_000
# Of a tar's extended headers and long names, which tarfile reads into memory whole.
LONGEST_HEADER = 1 << 20
EXTENDED_HEADERS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
# What the libraries raise over bytes that are not theirs: besides errors of their own a ValueError for a name that is
# not UTF-8, an IndexError for an empty one, a RuntimeError for a password or a compression that they do not have.
SPOILT = (
    tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, ValueError, IndexError, RuntimeError,
)  # fmt: skip


class RefusedArchive(Exception):
    """The archive holds what it should not, or not what it should; fetching it again will not help."""


class DamagedArchive(Exception):
    """The archive is cut short or has wrong bytes in it."""


@dataclass(frozen=True)
class Member:
    """One member: its path inside the archive, its content (None for a folder)."""

    path: PurePosixPath
    content: IO[bytes] | None


def unpack(archive: Path, folder: str, target: Path, limit: int) -> int:
    """Write what lies in one folder of an archive into `target`.

    Only folders and plain files are written, with names below `target` and ordinary permissions; the whole archive is
    read to its end mark and checksums even where little of it is wanted.

    Args:
        archive: .zip, or a gzip-compressed tar by any other name.
        folder: whose content is wanted, such as `eval_stage_1/textvqa`.
        target: existing folder.
        limit: bytes that may come out of the archive in all.

    Returns:
        How many files were written.

    Raises:
        RefusedArchive: absolute names, `..`, links, devices, two members in one place, too many bytes or members; no
            such folder in it.
        DamagedArchive: cut short, wrong checksums, or no archive at all.
    """
    wanted = PurePosixPath(folder).parts
    files, seen, tops = 0, 0, set()
    members = _zip_members(archive, limit) if archive.suffix == ".zip" else _tar_members(archive, limit)
    for member in members:
        seen += 1
        if seen > MOST_MEMBERS:
            raise RefusedArchive(f"more than {MOST_MEMBERS:,} members")
        parts = member.path.parts
        tops.update(parts[:1])
        if parts[: len(wanted)] != wanted:
            continue
        place = target.joinpath(*parts[len(wanted) :])
        try:
            if member.content is None:
                place.mkdir(parents=True, exist_ok=True)
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            with place.open("xb") as file:
                shutil.copyfileobj(_Content(member.content), file, BLOCK)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            raise RefusedArchive(f"two members in one place: {member.path}") from None
        files += 1
    if not files:
        raise RefusedArchive(f"no files in {folder}/; it holds {', '.join(sorted(tops)[:8]) or 'nothing'}")
    return files


def safe_path(name: str) -> PurePosixPath:
    """A member's name as a path below the archive's root.

    Raises:
        RefusedArchive: it is absolute, climbs with `..`, or is a Windows path.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or re.match("[A-Za-z]:", name):
        raise RefusedArchive(f"unsafe name {name[:80]!r}")
    return path


@contextmanager
def _reading() -> Iterator[None]:
    """Let what goes wrong because of the archive's bytes be a DamagedArchive, and a failing disk what it is."""
    try:
        yield
    except SPOILT as error:
        raise DamagedArchive(str(error)) from None
    except OSError as error:  # without a number from gzip and bzip2; EINVAL is a seek to nowhere
        if error.errno not in (None, errno.EINVAL):
            raise
        raise DamagedArchive(str(error)) from None


class _Content:
    """A member's content, for reading apart from writing: errors of the disk written to are none of the archive's."""

    def __init__(self, content: IO[bytes]):
        self._content = content

    def read(self, size: int) -> bytes:
        with _reading():
            return self._content.read(size)


class _Bounded:
    """The stream that comes out of gzip, with an end to how much may come."""

    def __init__(self, file: gzip.GzipFile, limit: int):
        self._file, self._left = file, limit

    def read(self, size: int) -> bytes:
        block = self._file.read(size)
        self._left -= len(block)
        if self._left < 0:
            raise RefusedArchive("it unpacks to far more than it should")
        return block


class _ShortHeaders(tarfile.TarInfo):
    """A member whose extended headers are short; `_proc_member` is tarfile's documented place for such a rule."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in EXTENDED_HEADERS and self.size > LONGEST_HEADER:
            raise RefusedArchive(f"an extended header of {self.size:,} bytes")
        return super()._proc_member(archive)


def _tar_members(path: Path, limit: int) -> Iterator[Member]:
    with (
        _reading(),
        gzip.open(path, "rb") as plain,
        tarfile.open(fileobj=_Bounded(plain, limit), mode="r|", tarinfo=_ShortHeaders) as tar,
    ):
        while header := tar.next():
            name = safe_path(header.name)
            if header.isdir():
                yield Member(name, None)
            elif header.isreg() and not header.issparse():
                yield Member(name, tar.extractfile(header))
            else:
                raise RefusedArchive(f"{_kind(header)} {header.name[:80]!r}")
            tar.members.clear()  # tarfile remembers every member: hundreds of megabytes for a seed
        _require_end(tar.fileobj)


def _require_end(stream: IO[bytes]) -> None:
    """Read past a tar's end mark: tarfile also stops, in silence, where a header is cut short or spoilt.

    Reading on to the end makes gzip check its checksum.
    """
    zeros = 0
    while block := stream.read(BLOCK):
        if block.count(0) != len(block):
            raise DamagedArchive("a member's header is spoilt")
        zeros += len(block)
    if zeros < tarfile.BLOCKSIZE:
        raise DamagedArchive("the end mark is missing: it was cut short")


def _kind(header: tarfile.TarInfo) -> str:
    if header.issym():
        return "symbolic link"
    return "hard link" if header.islnk() else "device or other special member"


def _zip_members(path: Path, limit: int) -> Iterator[Member]:
    with _reading(), zipfile.ZipFile(path) as archive:
        headers = archive.infolist()
        # A member never yields more than its header says, so the sum is a bound.
        if sum(header.file_size for header in headers) > limit:
            raise RefusedArchive("it unpacks to far more than it should")
        for header in headers:
            name = safe_path(header.filename)
            # The upper half holds Unix's mode where the archive was made there, else 0.
            if (kind := stat.S_IFMT(header.external_attr >> 16)) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise RefusedArchive(f"{'symbolic link' if stat.S_ISLNK(kind) else 'special member'} {str(name)!r}")
            if header.is_dir():
                yield Member(name, None)
            else:
                with archive.open(header) as content:
                    yield Member(name, content)
