"""What a submission zip must hold, online and offline, and what it must not.

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

import fnmatch
import re
import stat
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from toolkit.dataset.rows import ImageRoots, is_synthetic, normal_image_path
from toolkit.errors import RowFault, UserError
from toolkit.files import parse_object

READMES = ("readme", "readme.md", "README.md")
TRAIN_SCRIPT = "output/train.sh"
ROWS = "output/processed_data/processed_data.jsonl"
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".onnx", ".h5", ".msgpack")
# What an offline zip holds of the finetuning folder.
MODEL_FILES = (
    "model-*.safetensors",
    "model.safetensors.index.json",
    "*config.json",
    "tokenizer*",
    "special_tokens_map.json",
)
COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
ENCRYPTED = 1  # bit of a member's flags

TRAINING = re.compile(r"output/training_dirs/([^/]+)-(Pretrain|Finetune)-([^/]+)/([^/]+)")
RESULTS = re.compile(r"output/eval_results/([^/]+)-Finetune-([^/]+)/(textvqa|mmbench)/.+")
RESULTS_EXTRA = re.compile(r"output/eval_results/[^/]+-Finetune-[^/]+/score\.json")


def layout_faults(names: Iterable[str], kind: str) -> list[str]:
    """What is wrong with the names in a submission zip.

    Args:
        names: members, files only.
        kind: online or offline.

    Returns:
        one short text per fault, each naming the file.
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
    if all(name in readmes or name.endswith((".md", ".txt")) for name in solution):
        faults.append("solution/ holds no code")
    if kind == "online":
        weights = {name for name in names if name.endswith(WEIGHT_SUFFIXES)}
        faults += [f"{name} holds weights, which an online zip must not" for name in sorted(weights)]
        names -= weights
    return faults + _output_faults({name for name in names if name.startswith("output/")}, kind)


def _output_faults(names: set[str], kind: str) -> list[str]:
    faults = [] if TRAIN_SCRIPT in names else [f"{TRAIN_SCRIPT} is missing"]
    runs, evaluated, known = defaultdict(set), set(), {TRAIN_SCRIPT}
    for name in names:
        if (match := TRAINING.fullmatch(name)) and _is_training_file(match[2], match[4], kind):
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


def _is_training_file(stage: str, file: str, kind: str) -> bool:
    if file == f"{stage.lower()}.log":
        return True
    patterns = MODEL_FILES if stage == "Finetune" else ("mm_projector.bin",)
    return kind == "offline" and any(fnmatch.fnmatchcase(file, pattern) for pattern in patterns)


def is_record(name: str) -> bool:
    """Whether a member is the record of an evaluation."""
    return bool(RESULTS.fullmatch(name)) and PurePosixPath(name).name == "run.json"


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
            for image in map(normal_image_path, parse_object(line).get("images") or []):
                if is_synthetic(image):
                    if str(folder / image) not in members:
                        found["is not in synthetic_images/"].append(f"line {number}: {image}")
                elif seed_images and not ImageRoots(seed_images, seed_images).resolve(image).is_file():
                    found[f"is not under {seed_images}"].append(f"line {number}: {image}")
        except (RowFault, ValueError, TypeError) as fault:
            found["cannot be read"].append(f"line {number} ({fault})")
    return [f"{ROWS} {cases[0]} {what} ({len(cases)} such rows)" for what, cases in found.items()]


def member_faults(infos: list[zipfile.ZipInfo]) -> list[str]:
    """Members that no submission of any layout may hold: the server could not unpack them as intended."""
    parts = [PurePosixPath(info.filename).parts for info in infos]
    inside = {names[0] for names in parts if names[1:2] in (("solution",), ("output",))}
    if len(inside) == 1 and not {"solution", "output"} & {names[0] for names in parts}:
        folder = inside.pop()
        return [f"everything is inside {folder}/; zip in there: cd {folder} && zip -r submit.zip solution/ output/"]
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
            faults.append(f"{name} occurs twice")
        seen.add(name)
    return faults


def refuse(faults: list[str], what: str, advice: str = "") -> None:
    """Raise UserError with the first five faults of `what`, where there are any."""
    if faults:
        more = f"; and {len(faults) - 5} more faults" if len(faults) > 5 else ""
        raise UserError(f"{what}: {'; '.join(faults[:5])}{more}{advice}")
