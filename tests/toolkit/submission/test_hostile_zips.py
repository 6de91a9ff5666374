"""Zips that were made to harm: refused by name before anything large is read."""

from __future__ import annotations

import stat
import warnings
import zipfile
from pathlib import Path

import pytest

from toolkit.__main__ import main
from toolkit.submission.layout import member_faults

LOG = "output/training_dirs/MGM-2B-Pretrain-x/pretrain.log"


def info(name: str, kind: int = 0, **fields: int) -> zipfile.ZipInfo:
    """A member as a zip's directory lists it."""
    member = zipfile.ZipInfo(name)
    member.external_attr, member.header_offset = kind << 16, 0
    for key, value in fields.items():
        setattr(member, key, value)
    return member


@pytest.mark.parametrize(
    ("members", "fault"),
    [
        ([info("../x")], "../x is an absolute path or leaves the zip"),
        ([info("output/../../x")], "is an absolute path or leaves the zip"),
        ([info("/etc/passwd")], "is an absolute path or leaves the zip"),
        ([info("C:/x")], "is an absolute path or leaves the zip"),
        ([info("output\\..\\x")], "has backslashes for slashes"),
        ([info("output/link", stat.S_IFLNK | 0o777)], "output/link is a symbolic link"),
        ([info("output/pipe", stat.S_IFIFO | 0o644)], "output/pipe is a device or another special file"),
        ([info("output/null", stat.S_IFCHR | 0o644)], "output/null is a device or another special file"),
        ([info("output/\x1b[2Jx")], "'output/\\x1b[2Jx' holds control characters"),
        ([info("output/a\nerror: x")], "holds control characters"),
        ([info(LOG, file_size=9_200_000_000, compress_size=3_200_000)], "unpacks to 9,200,000,000 bytes"),
        ([info("output/a"), info("output/a", header_offset=99)], "output/a occurs twice"),
        ([info("output/a"), info("output/./a", header_offset=99)], "output/./a occurs twice"),
        ([info("output/a"), info("output//a", header_offset=99)], "output//a occurs twice"),
        ([info("output/a"), info("output/a/b", header_offset=99)], "output/a is a file and a folder"),
        (
            [info("output/a", compress_size=500), info("output/b", header_offset=40, compress_size=500)],
            "output/b lies within output/a",
        ),
    ],
)
def test_members_that_no_submission_holds(members: list[zipfile.ZipInfo], fault: str) -> None:
    assert any(fault in found for found in member_faults(members))


def test_usual_members_are_no_fault() -> None:
    members = [
        info("solution/", stat.S_IFDIR | 0o755),
        info("solution/readme.md", stat.S_IFREG | 0o644, header_offset=60),
        info(LOG, file_size=90_000_000, compress_size=100_000, header_offset=200),
        info("output/été 裙子.jpg", file_size=900_000_000, compress_size=100_000_000, header_offset=200_000),
    ]
    assert member_faults(members) == []


def test_verify_reads_no_bomb(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr(LOG, bytes(101_000_000))
    monkeypatch.setattr(zipfile.ZipFile, "open", None)  # nothing may be read
    assert main(["verify", str(bomb)]) == 1
    assert "unpacks to 101,000,000 bytes" in capsys.readouterr().err


def test_names_cannot_write_to_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = tmp_path / "hostile.zip"
    with warnings.catch_warnings(), zipfile.ZipFile(hostile, "w") as archive:
        warnings.simplefilter("ignore")
        for name in ("output/\x1b[2Jx", "output/\x1b[2Jx", "output/a\nerror: all is well"):
            archive.writestr(name, "x")
    assert main(["verify", str(hostile)]) == 1
    error = capsys.readouterr().err
    assert "\x1b" not in error
    assert error.count("\n") == 1
