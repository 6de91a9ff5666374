"""Resources on a model hub, fetched with the hub's own client."""

from __future__ import annotations

import fnmatch
import logging
import os
import shutil
from pathlib import Path

from toolkit.download.fetch import SourceError, reason_of
from toolkit.download.manifest import Source
from toolkit.download.progress import Task
from toolkit.files import sha256_of

# Files of the clients' own that they leave in a folder.
LEFTOVERS = (".cache", "._____temp", ".msc", ".mdl", ".mv", ".git", ".gitattributes")


def prepare_clients() -> None:
    """Turn off the hub clients' own progress bars and raise their time limit. Call before they are imported."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # ModelScope's ends a file's transfer after an hour at any speed: 10 GB at 2 MB/s take longer.
    os.environ.setdefault("MODELSCOPE_DOWNLOAD_TOTAL_TIMEOUT", str(7 * 24 * 3600))


def fetch_repository(source: Source, folder: Path, task: Task) -> None:
    """Fetch the wanted files of a repository into `folder`; an earlier run's files there are resumed.

    Mirrors and accounts are the clients' own: HF_ENDPOINT, HF_TOKEN, MODELSCOPE_ENDPOINT, MODELSCOPE_API_TOKEN.

    Raises:
        SourceError: no such repository, no permission, unreachable, or wrong bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    task.watch(folder)
    try:
        {"huggingface": _from_huggingface, "modelscope": _from_modelscope}[source.home](source, folder, task)
    finally:
        task.measure()
        task.watched = None
    for name in LEFTOVERS:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _from_huggingface(source: Source, folder: Path, task: Task) -> None:
    # Importing either client takes seconds.
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError

    try:
        info = HfApi().repo_info(
            source.repository, repo_type=source.kind, revision=source.revision or None, files_metadata=True
        )
        wanted = [file for file in info.siblings or [] if _is_wanted(file.rfilename, source)]
        task.total = sum(file.size or 0 for file in wanted)
        snapshot_download(
            source.repository,
            repo_type=source.kind,
            revision=info.sha,  # the listing's, should the repository change meanwhile
            local_dir=folder,
            allow_patterns=source.keep or None,
        )
    except GatedRepoError:
        raise SourceError(
            f"gated: accept the licence at https://huggingface.co/{source.repository}, then set HF_TOKEN"
        ) from None
    except Exception as error:  # the client's own, and those of whichever library its version calls: requests, httpx
        raise SourceError(reason_of(error)) from None
    # The client itself compares sizes only.
    for file in wanted:
        if file.lfs and sha256_of(folder / file.rfilename) != file.lfs.sha256:
            (folder / file.rfilename).unlink()
            raise SourceError(f"{file.rfilename}: its sha256 is not the hub's; run the same command again")


def _from_modelscope(source: Source, folder: Path, task: Task) -> None:
    from modelscope.hub.snapshot_download import snapshot_download

    # Its retries are logged as warnings; our error gives the outcome.
    logging.getLogger("modelscope_hub").setLevel(logging.CRITICAL)
    try:
        snapshot_download(
            source.repository, repo_type=source.kind, local_dir=str(folder), allow_patterns=source.keep or None
        )
    except Exception as error:  # as above
        raise SourceError(reason_of(error)) from None


def _is_wanted(name: str, source: Source) -> bool:
    return not source.keep or any(fnmatch.fnmatch(name, pattern) for pattern in source.keep)
