"""`python -m toolkit pack` makes a submission zip of an experiment, `verify` looks one over, also one made by hand.

    solution/                                    readme, requirements.txt, code
    output/train.sh                              the script as this experiment ran it
    output/training_dirs/<run>-Pretrain-<exp>/   pretrain.log                     offline also mm_projector.bin
    output/training_dirs/<run>-Finetune-<exp>/   finetune.log                     offline also model-*.safetensors,
                                                                                  its index, config and tokenizer
    output/eval_results/<run>-Finetune-<exp>/    textvqa/ and mmbench/
    output/processed_data/                       offline only: processed_data.jsonl, synthetic_images/

An online zip holds no weights and no data. `output/audit` and hidden files are never packed.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import re
import shutil
import stat
import tempfile
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from toolkit.dataset.rows import ImageRoots, is_synthetic
from toolkit.errors import RowFault, UserError
from toolkit.files import REPOSITORY, parse_object, read_json, sha256_of
from toolkit.presets import PRESETS, Preset, load_preset
from toolkit.submission.layout.fixed_part import LOG_LINE, fixed_part_sha256

READMES = ("readme", "readme.md", "README.md")
ROWS = "output/processed_data/processed_data.jsonl"
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".onnx", ".h5", ".msgpack")
# Of the finetuning folder, an offline zip holds these.
MODEL_FILES = (
    "model-*.safetensors",
    "model.safetensors.index.json",
    "*config.json",
    "tokenizer*",
    "special_tokens_map.json",
)
# Compressing these costs time and gains nothing.
COMPRESSED_SUFFIXES = (*WEIGHT_SUFFIXES, ".jpg", ".jpeg", ".png", ".webp", ".gif", ".zip", ".gz", ".xlsx", ".parquet")
COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
ENCRYPTED = 1  # bit of a member's flags
ZIP_DATE = (1980, 1, 1, 0, 0, 0)
FILES_SHOWN = 4  # of a folder, in the printed tree

TRAINING = re.compile(r"output/training_dirs/([^/]+)-(Pretrain|Finetune)-([^/]+)/([^/]+)")
RESULTS = re.compile(r"output/eval_results/([^/]+)-Finetune-([^/]+)/(textvqa|mmbench)/.+")
RESULTS_EXTRA = re.compile(r"output/eval_results/[^/]+-Finetune-[^/]+/score\.json")


def pack_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m toolkit pack`."""
    parser.add_argument("kind", choices=("online", "offline"), help="offline adds the data and the weights")
    parser.add_argument("experiment", metavar="EXP", help="name of the experiment")
    parser.add_argument("--preset", help="full, 10k, mini or a YAML file (default: the one whose run EXP is)")
    parser.add_argument("--images", type=Path, help="the seed's folder, for offline (default: the preset's)")
    parser.add_argument("--out", type=Path, default=Path("submit.zip"), help="zip to write (%(default)s)")


def verify_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `python -m toolkit verify`."""
    parser.add_argument("zip", type=Path, help="submission zip, made by `pack` or by hand")


def pack_command(args: argparse.Namespace) -> None:
    """Gather an experiment's files, hold them against the rules, write the zip and print what is in it."""
    preset = _preset_of(args.experiment, args.preset)
    runs = {stage: preset.run_folder(stage, args.experiment) for stage in ("pretrain", "finetune")}
    _refuse_experiments(runs)
    members = dict(_members(args.kind, runs))
    faults = layout_faults(members.keys(), args.kind)
    faults += _log_faults({name: path.read_bytes() for name, path in members.items() if name.endswith(".log")})
    if args.kind == "offline" and not faults:
        rows = members[ROWS]
        faults += _data_faults(runs["pretrain"], rows)
        with rows.open("rb") as lines:
            faults += image_faults(lines, members.keys(), args.images or preset.seed_images)
    _refuse(faults, f"cannot pack {args.experiment}")
    write_zip(members, args.out)
    print(tree({name: path.stat().st_size for name, path in members.items()}))
    print(f"{args.out}: {args.kind} submission of {args.experiment}, {_size(args.out.stat().st_size)}")


def verify_command(args: argparse.Namespace) -> None:
    """Hold a zip against the rules for the kind it is, and read every byte of it once."""
    if not zipfile.is_zipfile(args.zip):
        raise UserError(f"{args.zip}: not a zip file" if args.zip.is_file() else f"{args.zip}: no such file")
    with zipfile.ZipFile(args.zip) as archive:
        _refuse(_member_faults(archive.infolist()), str(args.zip))
        infos = [info for info in archive.infolist() if not info.is_dir()]
        names = [info.filename for info in infos]
        kind = "offline" if any(name.startswith("output/processed_data/") for name in names) else "online"
        faults = layout_faults(names, kind)
        faults += _log_faults({name: archive.read(name) for name in names if name.endswith(".log")})
        if ROWS in names:
            with archive.open(ROWS) as lines:
                faults += image_faults(lines, set(names), None)
        _refuse(faults, f"{args.zip} ({kind})", "; `python -m toolkit pack` makes a zip of what belongs")
        try:
            broken = archive.testzip()
        except (zipfile.BadZipFile, OSError, EOFError) as error:
            raise UserError(f"{args.zip}: damaged ({error}); pack it again") from None
        if broken:
            raise UserError(f"{args.zip}: {broken} is damaged; pack it again")
        print(tree({info.filename: info.file_size for info in infos}))
    print(f"{args.zip}: a whole {kind} submission")


def layout_faults(names: Iterable[str], kind: str) -> list[str]:
    """What is wrong with the names in a submission zip.

    Args:
        names: members, files only.
        kind: online or offline.

    Returns:
        one short text a fault, each naming the file.
    """
    names = set(names)
    tops = {name.split("/", 1)[0] for name in names}
    faults = [f"{top} is beside solution/ and output/" for top in sorted(tops - {"solution", "output"})]
    solution = {name for name in names if name.startswith("solution/")}
    readmes = {f"solution/{name}" for name in READMES}
    if not readmes & names:
        faults.append(f"solution/ has no readme ({', '.join(READMES)})")
    if "solution/requirements.txt" not in names:
        faults.append("solution/requirements.txt is missing")
    if not solution - readmes - {"solution/requirements.txt"}:
        faults.append("solution/ holds no code")
    if kind == "online":
        weights = {name for name in names if name.endswith(WEIGHT_SUFFIXES)}
        faults += [f"{name} holds weights, which an online zip must not" for name in sorted(weights)]
        names -= weights
    return faults + _output_faults({name for name in names if name.startswith("output/")}, kind)


def _output_faults(names: set[str], kind: str) -> list[str]:
    faults = [] if "output/train.sh" in names else ["output/train.sh is missing"]
    runs, evaluated, known = defaultdict(set), set(), {"output/train.sh"}
    for name in names:
        if (match := TRAINING.fullmatch(name)) and _is_of_training(match[2], match[4], kind):
            runs[f"{match[1]} {match[3]}"].add((match[2], match[4]))
            known.add(name)
        elif match := RESULTS.fullmatch(name):
            runs[f"{match[1]} {match[2]}"].add(("", match[3]))
            evaluated.add(match[3])
            known.add(name)
        elif RESULTS_EXTRA.fullmatch(name) or (kind == "offline" and name.startswith("output/processed_data/")):
            known.add(name)
    faults += [f"{what} not belong in a submission" for what in _by_folder(names - known)]
    if len(runs) > 1:
        faults.append(f"several experiments at once: {', '.join(sorted(runs))}")
    files = {entry for run in runs.values() for entry in run}
    wanted = [("Pretrain", "pretrain.log"), ("Finetune", "finetune.log")]
    if kind == "offline":
        wanted += [("Pretrain", "mm_projector.bin"), ("Finetune", "config.json")]
        if not any(stage == "Finetune" and re.fullmatch(r"model-.+\.safetensors", file) for stage, file in files):
            faults.append("output/training_dirs/*-Finetune-*/model-*.safetensors is missing")
        if ROWS not in names:
            faults.append(f"{ROWS} is missing")
    faults += [f"output/training_dirs/*-{s}-*/{file} is missing" for s, file in wanted if (s, file) not in files]
    faults += [f"output/eval_results/*/{name}/ is missing" for name in ("textvqa", "mmbench") if name not in evaluated]
    return faults


def _by_folder(names: set[str]) -> Iterator[str]:
    """`NAME does` for a file alone in its folder, `FOLDER/ (7 files) do` for more; folders at most four deep."""
    folders = defaultdict(list)
    for name in sorted(names):
        folders["/".join(PurePosixPath(name).parent.parts[:4])].append(name)
    for folder, files in folders.items():
        yield f"{files[0]} does" if len(files) == 1 else f"{folder}/ ({len(files)} files) do"


def _is_of_training(stage: str, file: str, kind: str) -> bool:
    if file == f"{stage.lower()}.log":
        return True
    patterns = MODEL_FILES if stage == "Finetune" else ("mm_projector.bin",)
    return kind == "offline" and any(fnmatch.fnmatchcase(file, pattern) for pattern in patterns)


def _log_faults(logs: dict[str, bytes]) -> list[str]:
    """The first line of every log names the fixed part that ran, and so does every resumed run after it."""
    expected, faults = fixed_part_sha256(), []
    for name, content in sorted(logs.items()):
        lines = content.decode("utf-8", errors="replace").splitlines()
        if not lines or not lines[0].startswith(LOG_LINE):
            faults.append(f"{name} does not begin with {LOG_LINE!r}")
        elif any(line.removeprefix(LOG_LINE) != expected for line in lines if line.startswith(LOG_LINE)):
            faults.append(f"{name} was written by another fixed part than this toolkit ({LOG_LINE}{expected})")
    return faults


def image_faults(lines: Iterable[bytes], members: Iterable[str], seed_images: Path | None) -> list[str]:
    """What is wrong with the image paths of `processed_data.jsonl`.

    Args:
        lines: of the file.
        members: names in the zip, among them the synthetic images.
        seed_images: folder of all other images; None leaves those unchecked but for their path.
    """
    members = set(members)
    folder = PurePosixPath(ROWS).parent
    found: dict[str, list[str]] = defaultdict(list)
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            for image in parse_object(line).get("images", []):
                path = ImageRoots(seed=seed_images or Path(), processed=Path()).resolve(image)
                if is_synthetic(image):
                    if str(folder / image) not in members:
                        found["is not in synthetic_images/"].append(f"line {number}: {image}")
                elif seed_images and not path.is_file():
                    found[f"is not under {seed_images}"].append(f"line {number}: {image}")
        except (RowFault, ValueError, TypeError) as fault:
            found["cannot be read"].append(f"line {number} ({fault})")
    return [f"{ROWS} {cases[0]} {what} ({len(cases)} such rows)" for what, cases in found.items()]


def write_zip(members: dict[str, Path], path: Path) -> None:
    """Write files under their names, sorted and with a fixed date: equal files give an equal zip.

    Files are streamed, so a 10 GB zip needs no more memory than a small one; it appears under `path` when it is whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with zipfile.ZipFile(os.fdopen(handle, "wb"), "w") as archive:
            for name in sorted(members):
                info = zipfile.ZipInfo(name, ZIP_DATE)
                info.create_system = 3  # Unix, whose permissions follow
                info.external_attr = (stat.S_IFREG | (0o755 if name.endswith(".sh") else 0o644)) << 16
                stored = name.lower().endswith(COMPRESSED_SUFFIXES)
                info.compress_type = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
                info.file_size = members[name].stat().st_size  # lets zipfile choose zip64 where it must
                with members[name].open("rb") as source, archive.open(info, "w") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def tree(sizes: dict[str, int]) -> str:
    """The folders of a submission with their files and sizes; long folders are summed up."""
    folders = defaultdict(list)
    for name in sorted(sizes):
        folders[str(PurePosixPath(name).parent)].append(name)
    lines = []
    for folder in sorted(folders):
        names = folders[folder]
        lines.append(f"{folder}/  {_size(sum(sizes[name] for name in names))}")
        shown = names if len(names) <= FILES_SHOWN + 1 else names[:FILES_SHOWN]
        lines += [f"    {PurePosixPath(name).name}  {_size(sizes[name])}" for name in shown]
        if len(shown) < len(names):
            lines.append(f"    and {len(names) - len(shown):,} more files")
    return "\n".join(lines)


def _size(count: int) -> str:
    """Bytes for people."""
    for unit, amount in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= amount:
            return f"{count / amount:.1f} {unit}"
    return f"{count} B"


def _refuse(faults: list[str], what: str, advice: str = "") -> None:
    if faults:
        more = f"; and {len(faults) - 5} more faults" if len(faults) > 5 else ""
        raise UserError(f"{what}: {'; '.join(faults[:5])}{more}{advice}")


def _member_faults(infos: list[zipfile.ZipInfo]) -> list[str]:
    """Members that no submission may hold, whatever its layout: the server could not unpack them as they are meant."""
    parts = [PurePosixPath(info.filename).parts for info in infos]
    inside = {names[0] for names in parts if names[1:2] in (("solution",), ("output",))}
    if len(inside) == 1 and not {"solution", "output"} & {names[0] for names in parts}:
        folder = inside.pop()
        return [f"everything lies inside {folder}/; zip in there: cd {folder} && zip -r submit.zip solution/ output/"]
    faults, seen = [], set()
    for info in infos:
        name = info.filename
        if name.startswith("/") or "\\" in name or ":" in name.split("/")[0] or ".." in name.split("/"):
            faults.append(f"{name} is an absolute path or leaves the zip")
        if stat.S_ISLNK(info.external_attr >> 16):
            faults.append(f"{name} is a symbolic link")
        if info.flag_bits & ENCRYPTED:
            faults.append(f"{name} is encrypted")
        elif info.compress_type not in COMPRESSIONS:
            faults.append(f"{name} is compressed in a way that not every program can read; use stored or deflated")
        if info.is_dir() and "/" not in name.rstrip("/") and name.rstrip("/") not in ("solution", "output"):
            faults.append(f"{name} is beside solution/ and output/")
        if name in seen:
            faults.append(f"{name} is there twice")
        seen.add(name)
    return faults


def _preset_of(experiment: str, name: str | None) -> Preset:
    presets = [load_preset(name)] if name else [load_preset(preset) for preset in PRESETS]
    # full and 10k share their runs' name; what `pack` needs of them is the same but for the seed's folder.
    runs = {preset.run_folder("finetune", experiment): preset for preset in reversed(presets)}
    found = [run for run in runs if (REPOSITORY / "output" / "training_dirs" / run).is_dir()]
    if not found:
        raise UserError(f"{experiment}: no run of that name in output/training_dirs ({' or '.join(sorted(runs))})")
    if len(found) > 1:
        raise UserError(f"{experiment}: {' and '.join(sorted(found))} exist; say which with --preset")
    return runs[found[0]]


def _refuse_experiments(runs: dict[str, str]) -> None:
    """Refuse runs that are not the fixed training (TRAIN_SEED, PRETRAIN=none, switches), or not finished."""
    for run in (runs["finetune"], runs["pretrain"]):
        folder = REPOSITORY / "output" / "training_dirs" / run
        if not (folder / "run.json").is_file():
            raise UserError(f"{folder}: no run.json there: this stage has not finished; run the training script again")
        if used := read_json(folder / "run.json").get("experiment_only"):
            raise UserError(f"{run} is no submission: it was run with {', '.join(used)}, which is for experiments only")


def _data_faults(pretrain_run: str, rows: Path) -> list[str]:
    """Whether `processed_data.jsonl` is what the run was trained on: another recipe may have replaced it."""
    record = REPOSITORY / "output" / "training_dirs" / pretrain_run / "pretrain_data.run.json"
    if sha256_of(rows) in read_json(record)["inputs"].values():
        return []
    return [f"{ROWS} is not the file {pretrain_run} was trained on; run the recipe of that experiment again"]


def _members(kind: str, runs: dict[str, str]) -> Iterator[tuple[str, Path]]:
    """(name in the zip, file) of everything that a submission of this kind takes along."""
    output = REPOSITORY / "output"
    training = output / "training_dirs"
    finetune = f"output/training_dirs/{runs['finetune']}"
    folders = [REPOSITORY / "solution", output / "eval_results" / runs["finetune"]]
    files = [training / runs["pretrain"] / "pretrain.log", training / runs["finetune"] / "finetune.log"]
    if kind == "offline":
        folders.append(output / "processed_data" / "synthetic_images")
        files += [REPOSITORY / ROWS, training / runs["pretrain"] / "mm_projector.bin"]
        files += {path for pattern in MODEL_FILES for path in (REPOSITORY / finetune).glob(pattern)}
    for path in [*files, *(path for folder in folders for path in _files_of(folder))]:
        if path.is_file():
            yield path.relative_to(REPOSITORY).as_posix(), path
    if (REPOSITORY / finetune / "train.sh").is_file():
        yield "output/train.sh", REPOSITORY / finetune / "train.sh"


def _files_of(folder: Path) -> Iterator[Path]:
    """Files below a folder, but for hidden ones and what Python and notebooks leave behind.

    Raises:
        UserError: a symbolic link: its target would be missing in the zip.
    """
    for path in folder.rglob("*"):
        parts = path.relative_to(folder).parts
        if any(part.startswith(".") or part == "__pycache__" for part in parts):
            continue
        if path.is_symlink():
            raise UserError(f"{path} is a symbolic link; put the file itself there")
        yield path
