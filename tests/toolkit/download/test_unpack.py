"""toolkit/download/unpack.py: honest archives come out whole, others are refused and write nothing outside."""

from __future__ import annotations

import gzip
import io
import random
import stat
import tarfile
import warnings
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.toolkit.download.conftest import zip_of
from tests.toolkit.download.server import tar_gz
from toolkit.download.unpack import DamagedArchive, RefusedArchive, unpack

FILES = {"top/a.txt": b"a" * 3000, "top/sub/b.bin": bytes(range(256)) * 9, "other/c.txt": b"c"}
LIMIT = 1_000_000


@pytest.fixture
def work(tmp_path):
    """An empty target, in a folder where strays would be seen."""
    (tmp_path / "target").mkdir()
    return tmp_path


def run(work, data, name="x.tar.gz", folder="top", limit=LIMIT):
    (work / name).write_bytes(data)
    return unpack(work / name, folder, work / "target", limit)


def found(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def member(name, kind=tarfile.REGTYPE, link="", content=b"x"):
    header = tarfile.TarInfo(name)
    header.type, header.linkname = kind, link
    return header, content if kind == tarfile.REGTYPE else b""


HOSTILE = {
    "climbing": [member("top/../../stray")],
    "climbing folder": [member("../stray", tarfile.DIRTYPE)],
    "absolute": [member("/tmp/stray_of_a_test")],
    "windows": [member("C:\\stray")],
    "symbolic link": [member("top/link", tarfile.SYMTYPE, "../..")],
    "file through a link": [member("top/link", tarfile.SYMTYPE, "/tmp"), member("top/link/stray_of_a_test")],
    "hard link": [member("top/hard", tarfile.LNKTYPE, "/etc/passwd")],
    "character device": [member("top/device", tarfile.CHRTYPE)],
    "block device": [member("top/device", tarfile.BLKTYPE)],
    "fifo": [member("top/fifo", tarfile.FIFOTYPE)],
    "sparse": [member("top/sparse", tarfile.GNUTYPE_SPARSE)],
    "twice": [member("top/a.txt")],
    "file as folder": [member("top/a.txt/below")],
    "elsewhere in the archive": [member("other/link", tarfile.SYMTYPE, "/")],
    "endless name": [member("top/" + "n" * 2_000_000)],
}


@pytest.mark.parametrize("name", ["x.tar.gz", "x.zip"])
def test_one_folder_of_an_archive_comes_out(work, name):
    data = zip_of(FILES) if name.endswith("zip") else tar_gz(FILES, member("top/empty", tarfile.DIRTYPE))
    assert run(work, data, name) == 2
    assert found(work / "target") == {"a.txt": FILES["top/a.txt"], "sub/b.bin": FILES["top/sub/b.bin"]}
    assert (work / "target" / "a.txt").stat().st_mode & 0o777 == 0o644


def test_names_with_a_dot_in_front(work):
    assert run(work, tar_gz({"./top/a.txt": b"a"})) == 1
    assert found(work / "target") == {"a.txt": b"a"}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_tars(work, case):
    with pytest.raises((RefusedArchive, DamagedArchive) if case == "sparse" else RefusedArchive):
        run(work, tar_gz(FILES, *HOSTILE[case]))
    assert {path.name for path in work.iterdir()} == {"target", "x.tar.gz"}
    assert not any(path.is_symlink() for path in work.rglob("*"))


def test_hostile_zips(work):
    link = zipfile.ZipInfo("top/link")
    link.external_attr = 0o120777 << 16
    for name in ("../stray", "/tmp/stray_of_a_test", link):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr(name, "/etc")
        with pytest.raises(RefusedArchive):
            run(work, buffer.getvalue(), "x.zip")
    assert {path.name for path in work.iterdir()} == {"target", "x.zip"}


@pytest.mark.parametrize("name", ["x.tar.gz", "x.zip"])
def test_bombs(work, name):
    zeros = {"top/zeros": bytes(20_000_000)}
    if name.endswith("zip"):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("top/zeros", zeros["top/zeros"])
        data = buffer.getvalue()
    else:
        data = tar_gz(zeros)
    assert len(data) < 200_000
    with pytest.raises(RefusedArchive, match="far more"):
        run(work, data, name)
    assert sum(map(len, found(work / "target").values())) <= LIMIT


def test_a_bomb_after_the_end_mark(work):
    with pytest.raises(RefusedArchive, match="far more"):
        run(work, tar_gz(FILES) + gzip.compress(bytes(20_000_000)))


def test_too_many_members(work, monkeypatch):
    monkeypatch.setattr("toolkit.download.unpack.MAX_MEMBERS", 2)
    with pytest.raises(RefusedArchive, match="members"):
        run(work, tar_gz(FILES))


def test_a_folder_that_is_not_there_is_named_with_those_that_are(work):
    with pytest.raises(RefusedArchive, match="no files in seed/; it holds other, top"):
        run(work, tar_gz(FILES), folder="seed")


@pytest.mark.parametrize("name", ["x.tar.gz", "x.zip"])
def test_every_cut_is_noticed(work, name):
    data = zip_of(FILES) if name.endswith("zip") else tar_gz(FILES)
    for size in [0, 1, *range(10, len(data), max(1, len(data) // 40)), len(data) - 1]:
        for stray in (work / "target").rglob("*.*"):
            stray.unlink()
        with pytest.raises((DamagedArchive, RefusedArchive)):
            run(work, data[:size], name)


def test_a_tar_cut_inside_a_whole_gzip_is_noticed(work):
    plain = gzip.decompress(tar_gz(FILES))
    ends = [size for size in range(512, len(plain), 512) if any(plain[size:])]
    assert len(ends) > 10
    for size in [*ends, 700, 100]:
        for stray in (work / "target").rglob("*.*"):
            stray.unlink()
        with pytest.raises((DamagedArchive, RefusedArchive)):
            run(work, gzip.compress(plain[:size]))


def test_flipped_bits_are_noticed_or_change_nothing(work):
    files = {f"top/{number}": random.Random(number).randbytes(500) for number in range(8)}
    data, draw, noticed = tar_gz(files), random.Random(0), 0
    for _ in range(60):
        damaged = bytearray(data)
        damaged[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        for stray in (work / "target").iterdir():
            stray.unlink()
        try:
            run(work, bytes(damaged))
        except (DamagedArchive, RefusedArchive):
            noticed += 1
        else:  # a bit that gzip does not use
            assert {f"top/{name}": content for name, content in found(work / "target").items()} == files
    assert noticed > 50


METHODS = {
    "stored": zipfile.ZIP_STORED,
    "deflate": zipfile.ZIP_DEFLATED,
    "bzip2": zipfile.ZIP_BZIP2,
    "lzma": zipfile.ZIP_LZMA,
}


@pytest.mark.parametrize("method", METHODS)
def test_a_zip_with_any_damaged_byte_fails_by_name(work, method):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", METHODS[method]) as archive:
        archive.writestr("top/bild ä.txt", "an image " * 9)
    noticed = 0
    for index in range(len(buffer.getvalue())):
        for change in (0x80, 0xFF, 0x01):
            damaged = bytearray(buffer.getvalue())
            damaged[index] ^= change
            for stray in (work / "target").rglob("*.*"):
                stray.unlink()
            try:
                run(work, bytes(damaged), "x.zip")
            except (DamagedArchive, RefusedArchive):
                noticed += 1
    assert noticed > len(buffer.getvalue())  # dates and the like may change unnoticed


def test_a_full_disk_is_not_the_archives_fault(work, monkeypatch):
    def full(source, target, size):
        source.read(size)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("toolkit.download.unpack.shutil.copyfileobj", full)
    with pytest.raises(OSError, match="No space left"):
        run(work, zip_of(FILES), "x.zip")


NAMES = st.one_of(
    st.lists(st.sampled_from(["top", "a", "b.txt", "..", ".", "", "\x1b[2J", "C:", "\\", "é", "\n"]), max_size=4).map(
        "/".join
    ),
    st.text(max_size=8),
)
KINDS = st.sampled_from([tarfile.REGTYPE] * 5 + [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.tuples(NAMES, KINDS, st.binary(max_size=40)), max_size=4), st.booleans())
def test_any_archive_stays_below_its_target_and_limit(tmp_path_factory, members, zipped):
    work = tmp_path_factory.mktemp("archive")
    (work / "target").mkdir()
    held = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two members of one name
        if zipped:
            with zipfile.ZipFile(held, "w") as archive:
                for name, kind, content in members:
                    header = zipfile.ZipInfo(name or "x")
                    mode = {tarfile.SYMTYPE: stat.S_IFLNK, tarfile.CHRTYPE: stat.S_IFCHR}.get(kind, stat.S_IFREG)
                    header.external_attr = mode << 16
                    archive.writestr(header, content)
        else:
            with tarfile.open(fileobj=held, mode="w:gz") as archive:
                for name, kind, content in members:
                    header = tarfile.TarInfo(name)
                    header.type, header.linkname, header.size = kind, "/etc/passwd", len(content)
                    archive.addfile(header, io.BytesIO(content))
    try:
        run(work, held.getvalue(), "x.zip" if zipped else "x.tar.gz", limit=20_000)
        message = ""
    except (RefusedArchive, DamagedArchive) as refusal:
        message = str(refusal)
    assert not any(ord(character) < 32 for character in message)  # nothing that a terminal obeys
    strays = {path.name for path in work.iterdir()} - {"target", "x.zip", "x.tar.gz"}
    assert not strays
    for path in (work / "target").rglob("*"):
        assert not path.is_symlink()
        assert path.is_dir() or path.stat().st_size <= 40
        assert not any(ord(character) < 32 for character in path.name)
