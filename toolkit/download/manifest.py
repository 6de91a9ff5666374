"""The list of everything the kit downloads: `resources.yaml`, whose comments explain each key."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import unquote, urlsplit

import yaml

from toolkit.errors import UserError, nearest
from toolkit.presets import build

MANIFEST = Path(__file__).resolve().parent / "resources.yaml"
# Another base URL of the organisers' files, such as a mirror.
BASE_URL_VARIABLE = "BETTER_SYNTH_URL"

Home = Literal["modelscope", "huggingface", "organisers", "authors"]
HOMES = ("modelscope", "huggingface", "organisers", "authors")
HUBS = ("modelscope", "huggingface")


@dataclass(frozen=True)
class RemoteFile:
    """A file fetched over HTTP.

    Args:
        url: absolute, or relative to the organisers' base URL.
        unpack: for an archive, the folder inside it whose content goes to the destination; empty for a plain file.
        inside: folder of the destination that the file or content goes to.
    """

    url: str
    unpack: str = ""
    inside: str = ""

    @property
    def name(self) -> str:
        """The file's own name."""
        return unquote(PurePosixPath(urlsplit(self.url).path).name)


@dataclass(frozen=True)
class Source:
    """One home of a resource: a repository of a hub, or files over HTTP."""

    home: Home
    repository: str = ""
    revision: str = ""
    kind: Literal["model", "dataset"] = "model"
    keep: list[str] = field(default_factory=list)
    files: list[RemoteFile] = field(default_factory=list)


@dataclass(frozen=True)
class Expectation:
    """What must be at the destination; `resources.yaml` explains the keys."""

    path: list[str]
    files: int = 1
    size: int = 0
    lines: int = 0
    sha256: str = ""


@dataclass(frozen=True)
class NamedImages:
    """A file of rows and the folder of the images that it names, both inside the destination."""

    rows: str
    folder: str = "."


@dataclass(frozen=True)
class Resource:
    """One thing to download, installed completely or not at all."""

    name: str
    about: str
    kits: list[str]
    destination: str
    fetch_gb: float
    unpacked_gb: float
    sources: list[Source]
    expect: list[Expectation]
    images: list[NamedImages] = field(default_factory=list)
    old_destination: str = ""

    @property
    def fingerprint(self) -> str:
        """Hash of destination and expectations: a resource verified under other rules has to be verified again."""
        entry = dataclasses.asdict(self)
        rules = {key: entry[key] for key in ("name", "destination", "expect")}
        rules["pictures"] = entry["images"]  # the key's name in the hashes of existing records
        return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()

    @property
    def disk_bytes(self) -> int:
        """Bytes on disk during installation: fetched files and unpacked ones."""
        return int((self.fetch_gb + self.unpacked_gb) * 1e9)


def load_manifest(path: Path = MANIFEST) -> list[Resource]:
    """Read a manifest and make its URLs absolute.

    Raises:
        UserError: the file is missing or no YAML; the organisers' address is none; a key is unknown, missing or
            mistyped; a source lacks its repository or files.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such manifest")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path}: not a YAML document ({' '.join(str(error).split())})") from None
    base = os.environ.get(BASE_URL_VARIABLE, values["organisers"]).rstrip("/") + "/"
    if not _is_address(base):
        where = BASE_URL_VARIABLE if BASE_URL_VARIABLE in os.environ else f"{path}: organisers"
        raise UserError(f"{where}: expected an address that begins with http:// or https://")
    resources = []
    for name, entry in values["resources"].items():
        resource = build(Resource, {"name": name, **entry}, f"{path}: {name}")
        for source in resource.sources:
            if not (source.repository if source.home in HUBS else source.files):
                raise UserError(f"{path}: {name}: source {source.home} needs {_needs(source.home)}")
        resources.append(
            dataclasses.replace(resource, sources=[_absolute(source, base) for source in resource.sources])
        )
    return resources


def choose(resources: list[Resource], kit: str, only: list[str], home: str) -> list[Resource]:
    """The resources of a kit, or the named ones of any kit, from one home if one is named.

    Raises:
        UserError: no such resource; no chosen resource has that home.
    """
    known = {resource.name: resource for resource in resources}
    if unknown := [name for name in only if name not in known]:
        raise UserError(f"no resource {unknown[0]!r}; there are {', '.join(known)}{nearest(unknown[0], known)}")
    chosen = [known[name] for name in only] or [resource for resource in resources if kit in resource.kits]
    if not home:
        return chosen
    with_home = [
        dataclasses.replace(resource, sources=[source for source in resource.sources if source.home == home])
        for resource in chosen
    ]
    if not any(resource.sources for resource in with_home):
        raise UserError(f"--source {home}: it has no {' or '.join(resource.name for resource in chosen)}")
    return with_home


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:  # brackets that do not close, say
        return False


def _needs(home: str) -> str:
    return "a repository" if home in HUBS else "files"


def _absolute(source: Source, base: str) -> Source:
    files = [dataclasses.replace(file, url=file.url if "://" in file.url else base + file.url) for file in source.files]
    return dataclasses.replace(source, files=files)
