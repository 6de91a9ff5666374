"""What install.sh asks of an environment's Python; needs no package and imports nothing of the kit.

python toolkit/installed.py state cpu requirements.txt ...    where it is, and a hash of what decides pip's answer
python toolkit/installed.py repair                            forget packages whose files were cut off
"""

import csv
import hashlib
import os
import shutil
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

_RECORDS = (".dist-info", ".egg-info", ".egg-link")


def state(build: str, requirements: Sequence[str]) -> str:
    """A hash of PyTorch's kind, the requirements' files and the packages' records wherever Python looks for them."""
    known = hashlib.sha256(build.encode())
    for file in requirements:
        known.update(b"\0" + Path(file).read_bytes())
    for folder in sys.path:
        if not os.path.isdir(folder) or not os.access(folder, os.R_OK):
            continue
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            if entry.name.endswith(_RECORDS):
                changed = entry.stat(follow_symlinks=False).st_mtime_ns
                known.update(f"\0{entry.path}\0{changed}".encode("utf-8", "surrogateescape"))
    return known.hexdigest()


def repair(site: Path) -> None:
    """Remove the records of packages whose files were cut off: without one, pip installs a package whole."""
    for record in site.glob("*.dist-info"):
        if not _is_whole(record):
            print(f".venv: {record.name.partition('-')[0]} is incomplete and is installed again")
            shutil.rmtree(record)
    for rest in site.glob("~*"):  # what pip had moved aside
        shutil.rmtree(rest)


def _is_whole(record: Path) -> bool:
    """Whether all files of a package are there, of the size that pip noted."""
    if not all((record / name).is_file() for name in ("INSTALLER", "RECORD")):  # pip writes these last
        return False
    with (record / "RECORD").open(encoding="utf-8") as file:
        for name, _, size in csv.reader(file):
            if name.endswith(".pyc"):
                continue
            try:
                found = os.stat(os.path.join(record.parent, name)).st_size  # tens of thousands: no Path for each
            except OSError:
                return False
            if size not in ("", str(found)):
                return False
    return True


if __name__ == "__main__":
    if sys.argv[1] == "repair":
        repair(Path(sysconfig.get_path("purelib")))
    else:
        print(sys.prefix, state(sys.argv[2], sys.argv[3:]), sep="\n")
