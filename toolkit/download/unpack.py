"""Untrusted archives: unpacked within limits, or refused with nothing written outside the target."""

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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

BLOCK = 1 << 20
MAX_MEMBERS = 2_000_000
# Bytes of a tar's extended header or long name, which tarfile reads into memory at once.
MAX_HEADER = 1 << 20
EXTENDED_HEADERS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
UNSAFE = re.compile(r"^[A-Za-z]:|[\\\x00-\x1f\x7f-\x9f]")
# Errors of the libraries on damaged bytes: besides their own a ValueError for a name that is not UTF-8, an IndexError
# for an empty one, a RuntimeError for a password or an unsupported compression.
DAMAGE_ERRORS = (
    tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, ValueError, IndexError, RuntimeError,
)  # fmt: skip


class RefusedArchive(Exception):
    """The archive has forbidden members or lacks expected ones; fetching it again will not help."""


class DamagedArchive(Exception):
    """The archive is truncated or has wrong bytes."""


@dataclass(frozen=True)
class Member:
    """One member: its path inside the archive, its content (None for a folder)."""

    path: PurePosixPath
    content: IO[bytes] | None


def unpack(archive: Path, folder: str, target: Path, limit: int) -> int:
    """Write the content of one folder of an archive into `target`.

    Only folders and plain files are written, with names below `target` and ordinary permissions; the whole archive is
    read to its end mark and checksums even if little of it is wanted.

    Args:
        archive: .zip, or a gzip-compressed tar by any other name.
        folder: the wanted folder, such as `eval_stage_1/textvqa`.
        target: existing folder.
        limit: bytes that may be unpacked in total.

    Returns:
        Number of files written.

    Raises:
        RefusedArchive: absolute names, `..`, links, devices, two members with one path, too many bytes or members; no
            such folder in it.
        DamagedArchive: truncated, wrong checksums, or no archive at all.
    """
    wanted = PurePosixPath(folder).parts
    files, seen, tops = 0, 0, set()
    members = _zip_members(archive, limit) if archive.suffix == ".zip" else _tar_members(archive, limit)
    for member in members:
        seen += 1
        if seen > MAX_MEMBERS:
            raise RefusedArchive(f"more than {MAX_MEMBERS:,} members")
        parts = member.path.parts
        tops.update(parts[:1])
        if parts[: len(wanted)] != wanted:
            continue
        path = target.joinpath(*parts[len(wanted) :])
        try:
            if member.content is None:
                path.mkdir(parents=True, exist_ok=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                shutil.copyfileobj(_Content(member.content), file, BLOCK)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            raise RefusedArchive(f"two members with one path: {member.path}") from None
        files += 1
    if not files:
        raise RefusedArchive(f"no files in {folder}/; it holds {', '.join(sorted(tops)[:8]) or 'nothing'}")
    return files


def safe_path(name: str) -> PurePosixPath:
    """A member's name as a path below the archive's root.

    Raises:
        RefusedArchive: it is absolute, climbs with `..`, is a Windows path, or holds characters that a terminal obeys.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or UNSAFE.search(name):
        raise RefusedArchive(f"unsafe name {name[:80]!r}")
    return path


@contextmanager
def _reading() -> Iterator[None]:
    """Turn errors that the archive's bytes cause into DamagedArchive; errors of the disk stay as they are."""
    try:
        yield
    except DAMAGE_ERRORS as error:
        raise DamagedArchive(str(error)) from None
    except OSError as error:  # without a number from gzip and bzip2; EINVAL is a seek to nowhere
        if error.errno not in (None, errno.EINVAL):
            raise
        raise DamagedArchive(str(error)) from None


class _Content:
    """A member's content, whose read errors are the archive's; errors of the disk written to are not."""

    def __init__(self, content: IO[bytes]):
        self._content = content

    def read(self, size: int = -1) -> bytes:
        with _reading():
            return self._content.read(size)


class _Bounded(gzip.GzipFile):
    """The decompressed stream of gzip, up to a limit of bytes."""

    def __init__(self, path: Path, limit: int):
        super().__init__(path, "rb")
        self._left = limit

    def read(self, size: int | None = -1) -> bytes:
        block = super().read(size)
        self._left -= len(block)
        if self._left < 0:
            raise RefusedArchive("it unpacks to far more than it should")
        return block


class _ShortHeaders(tarfile.TarInfo):
    """A member whose extended headers are short: tarfile reads them whole right after `frombuf`."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _ShortHeaders:
        header = super().frombuf(buf, encoding, errors)
        if header.type in EXTENDED_HEADERS and header.size > MAX_HEADER:
            raise RefusedArchive(f"an extended header of {header.size:,} bytes")
        return header


class _StreamedTar(tarfile.TarFile):
    """Keeps no members: their headers would take hundreds of megabytes for a seed."""

    tarinfo = _ShortHeaders
    members: list[tarfile.TarInfo]

    def next(self) -> tarfile.TarInfo | None:
        header = super().next()
        self.members.clear()
        return header


def _tar_members(path: Path, limit: int) -> Iterator[Member]:
    with (
        _reading(),
        _Bounded(path, limit) as plain,
        _StreamedTar.open(fileobj=plain, mode="r|") as tar,
    ):
        while header := tar.next():
            name = safe_path(header.name)
            if header.isdir():
                yield Member(name, None)
            elif header.isreg() and not header.issparse():
                yield Member(name, tar.extractfile(header))
            else:
                raise RefusedArchive(f"{_kind(header)} {header.name[:80]!r}")
        _require_end(tar.fileobj.read)


def _require_end(read: Callable[[int], bytes]) -> None:
    """Read past a tar's end mark: tarfile also stops, without an error, at a truncated or damaged header.

    Reading on to the end makes gzip check its checksum.
    """
    zeros = 0
    while block := read(BLOCK):
        if block.count(0) != len(block):
            raise DamagedArchive("a member's header is damaged")
        zeros += len(block)
    if zeros < tarfile.BLOCKSIZE:
        raise DamagedArchive("the end mark is missing: it is truncated")


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
