"""toolkit/download/hubs.py: the hubs' own clients, pointed at the local server."""

from __future__ import annotations

import hashlib
import json

import pytest

from tests.toolkit.download.conftest import safetensors

COMMIT = "c" * 40
RECORD = "input/.downloads/records/tower.json"
FILES = {
    "config.json": b"{}",
    "model.safetensors": safetensors(3_000_000),
    "unet/part.safetensors": safetensors(1000),
    "model.gguf": b"not wanted",
}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(params=["huggingface", pytest.param("modelscope", marks=pytest.mark.slow)])
def hub(request, world):
    """(World whose resource `tower` lives on that hub, address of a file on the server)."""
    server = world.server
    if request.param == "huggingface":
        siblings = [
            {"rfilename": name, "size": len(data), "blobId": "b" * 40,
             **({"lfs": {"sha256": sha256(data), "size": len(data), "pointerSize": 100}} if len(data) > 99 else {})}
            for name, data in FILES.items()
        ]  # fmt: skip
        listing = json.dumps({"id": "org/tower", "sha": COMMIT, "siblings": siblings}).encode()
        paths = ["/api/models/org/tower", f"/api/models/org/tower/revision/{COMMIT}"]
        tree = [  # asked for by clients from 1 on
            {"type": "file", "path": file["rfilename"], "size": file["size"], "oid": file["blobId"],
             **({"lfs": {"oid": file["lfs"]["sha256"]} | file["lfs"]} if "lfs" in file else {})}
            for file in siblings
        ]  # fmt: skip
        server.files[f"/api/models/org/tower/tree/{COMMIT}"] = json.dumps(tree).encode()
        prefix = f"/org/tower/resolve/{COMMIT}/"
    else:
        entries = [
            {"Path": name, "Name": name, "Size": len(data), "Sha256": sha256(data), "Type": "blob"}
            for name, data in FILES.items()
        ]
        listing = json.dumps({"Code": 200, "Success": True, "Data": {"Files": entries}}).encode()
        paths, prefix = ["/api/v1/models/org/tower/repo/files"], "/api/v1/models/org/tower/repo/"
    server.files |= dict.fromkeys(paths, listing)
    for name, data in FILES.items():
        server.files[prefix + name] = data
        server.headers[prefix + name]["X-Repo-Commit"] = COMMIT
    world.entries["tower"]["sources"] = [
        {"home": request.param, "repository": "org/tower", "keep": ["*.json", "*.safetensors"]}
    ]
    return world, prefix


def fetch(world, *words, **account):
    """Download the tower with no account unless one is given, and no caches but the test's own."""
    home = str(world.root.parent / "home")
    url = world.server.url
    clients = {
        "HF_ENDPOINT": url,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "MODELSCOPE_ENDPOINT": url,
        "MODELSCOPE_DOWNLOAD_MAX_RETRIES": "1",
        "MODELSCOPE_DOWNLOAD_RETRY_MAX_DELAY_SECONDS": "1",
        "MODELSCOPE_REPO_TREE_PAGE_MAX_ATTEMPTS": "1",
        "MODELSCOPE_API_MAX_RETRIES": "1",
    }
    own = {"HOME": home, "HF_HOME": home, "MODELSCOPE_CACHE": home, "HF_TOKEN": "", "MODELSCOPE_API_TOKEN": ""}
    return world.run("--only", "tower", *words, **(clients | own | account))


def installed(world):
    return {name.removeprefix("models/tower/"): data for name, data in world.files().items() if "tower" in name}


def test_the_wanted_files_arrive_and_nothing_else(hub):
    world, _ = hub
    done = fetch(world)
    assert done.returncode == 0, done.stderr
    found = installed(world)
    record = json.loads((world.root / RECORD).read_text())
    del found[RECORD]
    assert found == {name: data for name, data in FILES.items() if name != "model.gguf"}
    assert record["source"] == world.entries["tower"]["sources"][0]["home"]
    assert [line for line in done.stderr.splitlines() if not line.startswith("tower: 3 files")] == []
    world.server.requests.clear()
    assert fetch(world).returncode == 0
    assert world.server.requests == []


@pytest.mark.parametrize("hub", ["huggingface"], indirect=True)
def test_a_named_revision_is_fetched_whatever_is_the_newest(hub):
    world, _ = hub
    del world.server.files["/api/models/org/tower"]
    assert fetch(world).returncode == 1
    world.entries["tower"]["sources"][0]["revision"] = COMMIT
    done = fetch(world)
    assert done.returncode == 0, done.stderr
    assert installed(world).keys() - {RECORD} == FILES.keys() - {"model.gguf"}


def test_a_dropped_connection_is_gone_over(hub):
    world, prefix = hub
    world.server.faults[prefix + "model.safetensors"] = ["", "drop"] if "resolve" in prefix else ["drop"]
    done = fetch(world)
    if done.returncode:  # a client that gives up at once resumes in the next run
        done = fetch(world)
    assert done.returncode == 0, done.stderr
    assert installed(world)["model.safetensors"] == FILES["model.safetensors"]


def test_wrong_bytes_are_refused(hub):
    world, prefix = hub
    world.server.always[prefix + "model.safetensors"] = "wrong"
    done = fetch(world)
    assert done.returncode == 1
    assert "model.safetensors" in done.stderr or "failed to download" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (world.root / "models/tower").exists()
    del world.server.always[prefix + "model.safetensors"]
    assert fetch(world).returncode == 0
    assert installed(world)["model.safetensors"] == FILES["model.safetensors"]


def test_no_such_repository(hub):
    world, _ = hub
    world.server.files.clear()
    done = fetch(world)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if "error" in line.lower()]
    assert "By hand: put org/tower of" in line
    assert "into models/tower/" in line


@pytest.mark.parametrize("hub", ["huggingface"], indirect=True)
def test_an_accounts_token_is_never_told(hub):
    world, prefix = hub
    world.server.always[prefix + "model.safetensors"] = "wrong"
    told = [fetch(world, HF_TOKEN="hf_hushhushhush")]
    del world.server.always[prefix + "model.safetensors"]
    told.append(fetch(world, HF_TOKEN="hf_hushhushhush"))
    assert [done.returncode for done in told] == [1, 0]
    assert not any("hush" in done.stdout + done.stderr for done in told)
    assert not any(b"hush" in content for content in world.files().values())


@pytest.mark.parametrize("hub", ["huggingface"], indirect=True)
def test_a_gated_model_says_what_to_do(hub):
    world, _ = hub
    world.server.files.clear()
    world.server.headers["/api/models/org/tower"]["X-Error-Code"] = "GatedRepo"
    done = fetch(world)
    assert "accept the licence at https://huggingface.co/org/tower, then set HF_TOKEN" in done.stderr
