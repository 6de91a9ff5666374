"""Formats of an export: Parquet with an image column, tar shards, LLaVA-format JSON; each keeps every row's own line.

| format | files | read by |
|---|---|---|
| parquet | `data/train-00000.parquet`: id, caption, image (bytes and path), line | `datasets.load_dataset(FOLDER)` |
| webdataset | `train-000000.tar`: KEY.ENDING, KEY.txt, KEY.json; the last is the line | `webdataset`, `datasets` |
| llava | `llava.json`, the images under their paths, `processed_data.jsonl` | what trains LLaVA |

KEY is the row's number from 0: ids may repeat, or hold what file names may not. ENDING is that of all images, and `jpg`
where they differ: readers want one name in all samples, and look at the content.
"""

from __future__ import annotations

import io
import itertools
import json
import shutil
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from toolkit.dataset.llava import Original, to_llava
from toolkit.dataset.rows import parse_row
from toolkit.errors import UserError
from toolkit.export.rows import Entry
from toolkit.files import parse_object

SHARD_BYTES = 500 << 20
GROUP_ROWS, GROUP_BYTES = 100, 64 << 20  # of one row group: a reader holds one in memory
ROWS = "processed_data.jsonl"
# By these both webdataset and datasets know an image.
ENDINGS = ("jpg", "jpeg", "png", "ppm")


@dataclass(frozen=True)
class Known:
    """What a writer needs besides the rows.

    Args:
        originals: the seed's samples by id, for their questions.
        ending: the images' in tar shards, without a dot.
    """

    originals: dict[str, Original] = field(default_factory=dict)
    ending: str = ENDINGS[0]


def ending_of(images: Iterable[Path]) -> str:
    """What all images are called in tar shards."""
    found = {image.suffix[1:].lower() for image in images}
    return found.pop() if len(found) == 1 and found <= {*ENDINGS} else ENDINGS[0]


def write_parquet(entries: Iterator[Entry], folder: Path, _known: Known) -> None:
    """Parquet files whose `image` column is one of Hugging Face's `datasets`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = {"dtype": "string", "_type": "Value"}
    features = {"id": text, "caption": text, "image": {"_type": "Image"}, "line": text}
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    fields = [("id", pa.string()), ("caption", pa.string()), ("image", image), ("line", pa.string())]
    schema = pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": features}})})
    (folder / "data").mkdir()
    for number, shard in _shards(entries):
        with pq.ParquetWriter(folder / "data" / f"train-{number:05d}.parquet", schema) as writer:
            for group in _groups(shard):
                table = {
                    "id": [entry.row.id for entry in group],
                    "caption": [entry.row.caption for entry in group],
                    "image": [_image(entry) for entry in group],
                    "line": [entry.line.decode() for entry in group],
                }
                writer.write_table(pa.table(table, schema=schema))


def _image(entry: Entry) -> dict[str, bytes | str | None] | None:
    return {"bytes": entry.image_bytes, "path": entry.row.image} if entry.image else None


def _shards(entries: Iterator[Entry]) -> Iterator[tuple[int, Iterator[Entry]]]:
    """(number from 0, entries) of each file; an entry is read when its turn comes."""
    written = 0

    def numbered() -> Iterator[tuple[int, Entry]]:
        nonlocal written
        for entry in entries:
            written += entry.image.stat().st_size if entry.image else 0
            yield written // SHARD_BYTES, entry

    numbers: dict[int, int] = {}
    for place, group in groupby(numbered(), key=itemgetter(0)):
        yield numbers.setdefault(place, len(numbers)), (entry for _, entry in group)


def _groups(entries: Iterator[Entry]) -> Iterator[list[Entry]]:
    group, size = [], 0
    for entry in entries:
        group.append(entry)
        size += entry.image.stat().st_size if entry.image else 0
        if len(group) == GROUP_ROWS or size >= GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def read_parquet(folder: Path) -> Iterator[tuple[bytes, bytes]]:
    """(line, image bytes) of every row."""
    import pyarrow.parquet as pq

    for path in sorted((folder / "data").glob("train-*.parquet")):
        file = pq.ParquetFile(path)
        for group in range(file.num_row_groups):  # iter_batches would keep all that it has read
            for row in file.read_row_group(group, columns=["image", "line"]).to_pylist():
                yield row["line"].encode(), row["image"]["bytes"] if row["image"] else b""


def write_webdataset(entries: Iterator[Entry], folder: Path, known: Known) -> None:
    """Tar shards; equal rows give equal bytes."""
    index = itertools.count()
    for number, some in _shards(entries):
        with tarfile.open(folder / f"train-{number:06d}.tar", "w", format=tarfile.USTAR_FORMAT) as shard:
            for entry in some:
                members = {"json": entry.line, "txt": entry.row.caption.encode()}
                if entry.image:
                    members = {known.ending: entry.image_bytes} | members
                key = f"{next(index):09d}"
                for ending, content in members.items():
                    member = tarfile.TarInfo(f"{key}.{ending}")
                    member.size = len(content)
                    shard.addfile(member, io.BytesIO(content))
                _forget_members(shard)


def _forget_members(shard: tarfile.TarFile) -> None:
    vars(shard)["members"].clear()  # tarfile keeps them all, for look-ups that nobody makes


def read_webdataset(folder: Path) -> Iterator[tuple[bytes, bytes]]:
    """(line, image bytes) of every row."""
    for path in sorted(folder.glob("train-*.tar")):
        with tarfile.open(path) as shard:
            image = b""
            while member := shard.next():
                _forget_members(shard)
                file = shard.extractfile(member)
                if file is None:
                    raise ValueError(f"{member.name} is no file")
                if member.name.endswith(".json"):
                    yield file.read(), image
                    image = b""
                elif not member.name.endswith(".txt"):
                    image = file.read()


def write_llava(entries: Iterator[Entry], folder: Path, known: Known) -> None:
    """LLaVA-format samples beside the images that they name; questions as training would ask them."""
    with (folder / "llava.json").open("w", encoding="utf-8") as samples, (folder / ROWS).open("wb") as lines:
        between = "[\n"
        for entry in entries:
            sample = to_llava(entry.row, known.originals.get(entry.row.id))
            samples.write(between + json.dumps(sample, ensure_ascii=False))
            between = ",\n"
            lines.write(entry.line + b"\n")
            if entry.image and not (target := folder / str(entry.row.image)).exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(entry.image, target)
        samples.write("\n]\n")


def read_llava(folder: Path) -> Iterator[tuple[bytes, bytes]]:
    """(line, image bytes) of every row."""
    with (folder / ROWS).open("rb") as lines:
        for line in lines:
            row = parse_row(parse_object(line))
            yield line.rstrip(b"\n"), (folder / row.image).read_bytes() if row.image else b""


WRITERS: dict[str, Callable[[Iterator[Entry], Path, Known], None]] = {
    "parquet": write_parquet,
    "webdataset": write_webdataset,
    "llava": write_llava,
}
READERS: dict[str, Callable[[Path], Iterator[tuple[bytes, bytes]]]] = {
    "parquet": read_parquet,
    "webdataset": read_webdataset,
    "llava": read_llava,
}


def read_back(kind: str, folder: Path, target: Path) -> dict[str, int]:
    """Write an export's rows as `processed_data.jsonl`, and its images under their paths beside it.

    Args:
        kind: key of READERS.
        folder: of the export.
        target: exists, and holds nothing.

    Raises:
        UserError: a file of the export is damaged.
    """
    counts = {"rows": 0, "images": 0}
    try:
        with (target / ROWS).open("wb") as lines:
            for line, image in READERS[kind](folder):
                row = parse_row(parse_object(line))
                lines.write(line + b"\n")
                counts["rows"] += 1
                if row.image and not (path := target / row.image).exists():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(image)
                    counts["images"] += 1
    except (tarfile.TarError, ValueError, KeyError, TypeError) as error:  # pyarrow's errors are ValueErrors
        raise UserError(f"{folder}: a damaged export ({error}); export again") from None
    return counts
