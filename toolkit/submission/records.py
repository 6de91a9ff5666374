"""Whether the files of a submission are those that its experiment's own records list, by hash.

| record | lists |
|---|---|
| `<pretrain>/pretrain_data.run.json` | the rows and synthetic images that were trained on |
| `<pretrain>/run.json`, `<finetune>/run.json` | what a stage was given and wrote; finetuning also `train.sh` |
| `<results>/textvqa/run.json`, `<results>/mmbench/run.json` | the weights that answered, and the answers |
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from toolkit.dataset.kept_rows import IMAGES_SUFFIX, RECORD_SUFFIX, ROWS_SUFFIX
from toolkit.submission.layout import ROWS, TRAIN_SCRIPT, Experiment, is_stage_output

DATA = "pretrain_data.json"
NAMED = 3  # files named in a message


def record_names(experiment: Experiment) -> list[str]:
    """Names of an experiment's records."""
    prepared = PurePosixPath(experiment.pretrain, DATA).with_suffix(RECORD_SUFFIX)
    return [str(prepared), *(f"{folder}/run.json" for folder in _folders(experiment))]


def image_list(experiment: Experiment) -> str:
    """Name of the list of synthetic images, with their hashes."""
    return str(PurePosixPath(experiment.pretrain, DATA).with_suffix(IMAGES_SUFFIX))


def record_faults(
    experiment: Experiment,
    names: Collection[str],
    records: Mapping[str, Mapping[str, Any]],
    images: Mapping[str, str],
    sha256: Callable[[str], str],
    label: Callable[[str], str] = str,
) -> list[str]:
    """What in a submission is not as a record lists it.

    Args:
        experiment: whose records they are.
        names: members of the submission.
        records: those that are there, by name.
        images: SHA-256 of each synthetic image by its path in the rows, as `image_list` holds it.
        sha256: of a member.
        label: how messages call a member.

    Returns:
        one short text for each record that does not fit.
    """
    listed = dict(_listed(experiment, records, images))
    changed: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        if name in listed and sha256(name) != listed[name][0]:
            changed[listed[name][1]].append(name)
    faults = [f"{_some(map(label, files))} changed after {record} was written" for record, files in changed.items()]
    for record in sorted(records):
        own = {name for name in names if is_stage_output(name, str(PurePosixPath(record).parent))}
        if not _hashes(records[record], "outputs"):
            faults.append(f"{record} is damaged or of an older kit: it lists no hashes of files; run the script again")
        elif unknown := sorted(own - listed.keys()):
            faults.append(f"{_some(map(label, unknown))} is not among the files that {record} lists")
    return faults + list(_blind(experiment, records)) + list(_broken_links(experiment, records))


def _folders(experiment: Experiment) -> list[str]:
    results = [f"{experiment.results}/{benchmark}" for benchmark in ("textvqa", "mmbench")]
    return [experiment.pretrain, experiment.finetune, *results]


def _listed(
    experiment: Experiment, records: Mapping[str, Mapping[str, Any]], images: Mapping[str, str]
) -> Iterator[tuple[str, tuple[str, str]]]:
    """(member, (SHA-256, record)) for everything that records list."""
    for folder in _folders(experiment):
        record = f"{folder}/run.json"
        for path, sha256 in _hashes(records.get(record, {}), "outputs").items():
            name = PurePosixPath(path).name
            yield TRAIN_SCRIPT if name == "train.sh" else f"{folder}/{name}", (sha256, record)
    prepared = record_names(experiment)[0]
    for path, sha256 in _hashes(records.get(prepared, {}), "outputs").items():
        if path.endswith(ROWS_SUFFIX):
            yield ROWS, (sha256, prepared)
        elif path.endswith(IMAGES_SUFFIX):
            yield image_list(experiment), (sha256, prepared)
    for path, sha256 in images.items():
        yield str(PurePosixPath(ROWS).parent / path), (sha256, image_list(experiment))


def _blind(experiment: Experiment, records: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Evaluations that answered without images, which are a control and no submission."""
    for folder in _folders(experiment)[2:]:
        configuration = records.get(f"{folder}/run.json", {}).get("configuration")
        if isinstance(configuration, dict) and configuration.get("no_image"):
            yield f"{folder} was answered without images (eval --no-image); remove it and run the training script again"


def _broken_links(experiment: Experiment, records: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Stages that were given something else than the stage before wrote."""
    pretrain, finetune, *answers = (f"{folder}/run.json" for folder in _folders(experiment))
    before = [(record_names(experiment)[0], pretrain, "pre-training data"), (pretrain, finetune, "adapter")]
    before += [(finetune, record, "weights") for record in answers]
    for earlier, later, what in before:
        if earlier not in records or later not in records:
            continue
        written = {PurePosixPath(path).name: sha256 for path, sha256 in _hashes(records[earlier], "outputs").items()}
        taken = {PurePosixPath(path).name: sha256 for path, sha256 in _hashes(records[later], "inputs").items()}
        shared = {DATA, "mm_projector.bin"} if what != "weights" else {n for n in written if n.endswith(".safetensors")}
        if any(taken.get(name) != written[name] for name in shared & written.keys()):
            yield f"{later} is of other {what} than {earlier} lists; run the training script again under a new EXP_NAME"


def _hashes(record: Mapping[str, Any], key: str) -> dict[str, str]:
    """Hashes by path under a record's key; a damaged record lists none."""
    part = record.get(key)
    return {path: sha256 for path, sha256 in part.items() if isinstance(sha256, str)} if isinstance(part, dict) else {}


def _some(names: Collection[str] | Iterator[str]) -> str:
    names = list(names)
    return ", ".join(names[:NAMED]) + f" and {len(names) - NAMED} more" * (len(names) > NAMED)
