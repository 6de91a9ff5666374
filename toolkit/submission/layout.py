"""What a submission zip must hold, online and offline, and what it must not.

    solution/                                    readme, requirements.txt, code
    output/train.sh                              the script as this experiment ran it
    output/training_dirs/<run>-Pretrain-<exp>/   pretrain.log                     offline also mm_projector.bin
    output/training_dirs/<run>-Finetune-<exp>/   finetune.log                     offline also model-*.safetensors,
                                                                                  its index, config and tokenizer
    output/eval_results/<run>-Finetune-<exp>/    textvqa/ and mmbench/
    output/processed_data/                       offline only: processed_data.jsonl, synthetic_images/

Beside them lie the stages' records (run.json), which list the hashes of all others. An online zip holds no weights and
no data. `pack` takes nothing else; in a zip made by hand, further files of output/ are no fault.
"""

from __future__ import annotations

import fnmatch
import itertools
import re
import stat
import zipfile
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from toolkit.dataset.rows import SYNTHETIC_FOLDER, ImageRoots, is_synthetic, normal_image_path
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
# Logs and rows shrink to a tenth; what shrinks to less than a hundredth and is large was made to fill a disk.
LARGE = 100_000_000  # bytes
MAX_RATIO = 100
LOCAL_HEADER = 30  # bytes of a member's header in front of its name
FAULTS_SHOWN = 5
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # characters that a terminal obeys

# The records beside the logs; the list of synthetic images belongs to the data.
RECORDS = {"Pretrain": ("run.json", "pretrain_data.run.json"), "Finetune": ("run.json",)}
OFFLINE_RECORDS = {"Pretrain": ("pretrain_data.images.sha256",), "Finetune": ()}

TRAINING = re.compile(r"output/training_dirs/([^/]+)-(Pretrain|Finetune)-([^/]+)/([^/]+)")
RESULTS = re.compile(r"output/eval_results/([^/]+)-Finetune-([^/]+)/(textvqa|mmbench)/.+")
RESULTS_EXTRA = re.compile(r"output/eval_results/([^/]+)-Finetune-([^/]+)/score\.json")


@dataclass(frozen=True, order=True)
class Experiment:
    """An experiment by the names of its folders.

    Args:
        run: what its preset's runs are called, such as MGM-2B.
        name: its EXP_NAME.
    """

    run: str
    name: str

    @property
    def pretrain(self) -> str:
        """Folder of its pre-training."""
        return f"output/training_dirs/{self.run}-Pretrain-{self.name}"

    @property
    def finetune(self) -> str:
        """Folder of its finetuning."""
        return f"output/training_dirs/{self.run}-Finetune-{self.name}"

    @property
    def results(self) -> str:
        """Folder of its answers."""
        return f"output/eval_results/{self.run}-Finetune-{self.name}"


def experiments_in(names: Iterable[str]) -> list[Experiment]:
    """The experiments that logs and answers in a zip are of, sorted."""
    found = set()
    for name in names:
        if (match := TRAINING.fullmatch(name)) and match[4] == f"{match[2].lower()}.log":
            found.add(Experiment(match[1], match[3]))
        elif match := RESULTS.fullmatch(name):
            found.add(Experiment(match[1], match[2]))
    return sorted(found)


def is_stage_output(name: str, folder: str) -> bool:
    """Whether a member is what the stage or evaluation of a folder wrote, and its record therefore lists."""
    path, match = PurePosixPath(name), TRAINING.fullmatch(name)
    written = is_model_file(match[2], match[4]) if match else path.name.startswith("answers")
    return str(path.parent) == folder and written


def layout_faults(names: Iterable[str], kind: str, experiment: Experiment) -> list[str]:
    """What is wrong with the names in a submission zip.

    Args:
        names: members, files only.
        kind: online or offline.
        experiment: whose submission it is.

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
    return faults + _missing(names, kind, experiment)


def not_needed(names: Iterable[str], kind: str, experiment: Experiment) -> list[str]:
    """Members that the referee does not look at, such as an audit or another experiment, sorted."""
    return sorted(name for name in names if name.startswith("output/") and not _is_needed(name, kind, experiment))


def _is_needed(name: str, kind: str, experiment: Experiment) -> bool:
    if match := TRAINING.fullmatch(name):
        return Experiment(match[1], match[3]) == experiment and _is_training_file(match[2], match[4], kind)
    if match := RESULTS.fullmatch(name) or RESULTS_EXTRA.fullmatch(name):
        return Experiment(match[1], match[2]) == experiment
    data = name == ROWS or name.startswith(f"{PurePosixPath(ROWS).parent}/{SYNTHETIC_FOLDER}/")
    return name == TRAIN_SCRIPT or (kind == "offline" and data)


def _missing(names: set[str], kind: str, experiment: Experiment) -> list[str]:
    wanted = [TRAIN_SCRIPT, f"{experiment.pretrain}/pretrain.log", f"{experiment.finetune}/finetune.log"]
    if kind == "offline":
        wanted += [f"{experiment.pretrain}/mm_projector.bin", f"{experiment.finetune}/config.json", ROWS]
        if not any(fnmatch.fnmatchcase(name, f"{experiment.finetune}/model-*.safetensors") for name in names):
            wanted.append(f"{experiment.finetune}/model-*.safetensors")
    faults = [f"{name} is missing" for name in wanted if name not in names]
    for benchmark in ("textvqa", "mmbench"):
        if not any(name.startswith(f"{experiment.results}/{benchmark}/") for name in names):
            faults.append(f"{experiment.results}/{benchmark}/ is missing")
    return faults


def _is_training_file(stage: str, file: str, kind: str) -> bool:
    if file == f"{stage.lower()}.log" or file in RECORDS[stage]:
        return True
    return kind == "offline" and (file in OFFLINE_RECORDS[stage] or is_model_file(stage, file))


def is_model_file(stage: str, file: str) -> bool:
    """Whether an offline zip holds a file of a stage's folder as the model."""
    patterns = MODEL_FILES if stage == "Finetune" else ("mm_projector.bin",)
    return any(fnmatch.fnmatchcase(file, pattern) for pattern in patterns)


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
        if "\\" in name:
            faults.append(
                f"{name} has backslashes for slashes, as some Windows programs write them; zip it another way"
            )
        elif name.startswith("/") or ":" in name.split("/")[0] or ".." in name.split("/"):
            faults.append(f"{name} is an absolute path or leaves the zip")
        kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where the zip was not made on Unix
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            faults.append(f"{name} is a {'symbolic link' if stat.S_ISLNK(kind) else 'device or another special file'}")
        if CONTROL.search(name):
            faults.append(f"{name!r} holds control characters")
        if info.file_size > max(LARGE, MAX_RATIO * info.compress_size):
            faults.append(f"{name} unpacks to {info.file_size:,} bytes, {MAX_RATIO} times its size or more")
        if info.flag_bits & ENCRYPTED:
            faults.append(f"{name} is encrypted")
        elif info.compress_type not in COMPRESSIONS:
            faults.append(f"{name} is compressed in a way that not every program can read; use stored or deflated")
        if info.is_dir() and "/" not in name.rstrip("/") and name.rstrip("/") not in ("solution", "output"):
            faults.append(f"{name} is beside solution/ and output/")
        path = str(PurePosixPath(name))
        if path in seen:
            faults.append(f"{name} occurs twice")
        seen.add(path)
    faults += [f"{name} is a file and a folder" for name in sorted(_files_that_are_folders(infos))]
    placed = sorted(infos, key=lambda info: info.header_offset)
    for info, following in itertools.pairwise(placed):
        if following.header_offset < info.header_offset + LOCAL_HEADER + info.compress_size:
            faults.append(f"{following.filename} lies within {info.filename}, as in a zip that was made to fill a disk")
    return faults


def _files_that_are_folders(infos: list[zipfile.ZipInfo]) -> set[str]:
    folders = {str(parent) for info in infos for parent in PurePosixPath(info.filename).parents}
    return folders & {str(PurePosixPath(info.filename)) for info in infos if not info.is_dir()}


def refuse(faults: list[str], what: str, advice: str = "") -> None:
    """Raise UserError with the first faults of `what`, where there are any."""
    if faults:
        faults = [CONTROL.sub(lambda found: ascii(found[0])[1:-1], fault) for fault in faults]
        left = len(faults) - FAULTS_SHOWN
        more = f"; and {left} more fault{'s' * (left > 1)}" if left > 0 else ""
        raise UserError(f"{what}: {'; '.join(faults[:FAULTS_SHOWN])}{more}{advice}")
