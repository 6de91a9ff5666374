"""`python -m toolkit download`, as a user runs it, against a server that misbehaves."""

from __future__ import annotations

import json
import subprocess
import tarfile
import time

import pytest

from tests.toolkit.download.conftest import IMAGES, environment_of
from tests.toolkit.download.server import tar_gz
from toolkit.download.manifest import load_manifest
from toolkit.errors import UserError
from toolkit.files import REPOSITORY

SEED = ["seed.jsonl", "questions.json"]


def test_everything_arrives_and_a_second_run_says_so_at_once(world):
    done = world.run()
    assert done.returncode == 0, done.stderr
    assert "Complete: 4 resources" in done.stdout
    files = world.files()
    assert {name.removeprefix("input/seed/") for name in files if name.startswith("input/seed/")} == {*IMAGES, *SEED}
    assert all(files[f"input/seed/{name}"] == content for name, content in IMAGES.items())
    assert set(files) >= {"eval/textvqa/q.jsonl", "eval/mmbench/m.tsv", "models/tower/config.json"}
    assert not [name for name in files if "incoming" in name or name.endswith((".part", ".gz", ".part.json"))]

    world.server.requests.clear()
    again = world.run()
    assert (again.returncode, world.server.requests) == (0, [])
    assert "Complete: 4 resources" in again.stdout
    assert world.files() == files


def test_an_archive_for_two_is_fetched_once(world):
    assert world.run("--only", "textvqa,mmbench").returncode == 0
    assert world.server.ranges("/eval.tar.gz") == [""]


@pytest.mark.slow
def test_faults_on_the_way_change_nothing(world):
    world.server.faults["/seed.tar.gz"] = ["drop", "ignore-range", "busy", "wrong"]
    world.server.faults["/seed.jsonl"] = ["busy", "drop"]
    world.server.faults["/eval.tar.gz"] = ["drop no-length"]
    done = world.run()
    assert done.returncode == 0, done.stderr
    assert all((world.root / "input/seed" / name).read_bytes() == content for name, content in IMAGES.items())


@pytest.mark.parametrize("spoil", ["wrong", "cut", "page"])
def test_an_archive_that_stays_damaged_is_refused_and_not_kept(world, spoil):
    if spoil == "wrong":
        world.server.always["/tower.tar.gz"] = "wrong"
    elif spoil == "cut":
        world.server.files["/tower.tar.gz"] = world.server.files["/tower.tar.gz"][:-200]
    else:
        world.server.files["/tower.tar.gz"] = b"<html>"
    done = world.run("--only", "tower")
    assert done.returncode == 1
    assert "tower.tar.gz is damaged" in done.stderr
    assert done.stderr.count("error:") == 1
    assert "Traceback" not in done.stderr
    assert len(world.server.requests) == 2  # fetched once more
    assert [name for name in world.files() if "tower" in name] == []


@pytest.mark.parametrize("name", ["../stray", "/tmp/stray_of_a_test"])
def test_a_hostile_archive_is_refused_and_named(world, name):
    header = tarfile.TarInfo(name)
    world.server.files["/tower.tar.gz"] = tar_gz({"tower/config.json": b"{}"}, (header, b"x"))
    done = world.run("--only", "tower")
    assert done.returncode == 1
    assert "tower.tar.gz refused: unsafe name" in done.stderr
    assert [name for name in world.files() if "tower.tar.gz" not in name] == []


def test_wrong_content_is_fetched_once_more_then_refused_by_name(world):
    world.entries["seed"]["expect"][1] |= {"sha256": "0" * 64}
    done = world.run("--only", "seed")
    assert done.returncode == 1
    assert "seed.jsonl: sha256" in done.stderr
    assert len(world.server.ranges("/seed.jsonl")) == 2
    assert len(world.server.ranges("/seed.tar.gz")) == 1
    assert not (world.root / "input/seed").exists()


def test_weights_that_were_cut_before_they_were_packed_are_refused(world):
    with_cut = {"tower/config.json": b"{}", "tower/model.safetensors": bytes([2, 0, 0, 0, 0, 0, 0, 0]) + b"{}x"}
    world.server.files["/tower.tar.gz"] = tar_gz(with_cut)
    done = world.run("--only", "tower")
    assert done.returncode == 1
    assert "model.safetensors: truncated or damaged" in done.stderr


def test_the_next_source_is_used_when_one_fails(world):
    world.entries["tower"]["sources"].insert(
        0, {"home": "authors", "files": [{"url": f"{world.server.url}/gone.tar.gz", "unpack": "tower"}]}
    )
    assert world.run("--only", "tower").returncode == 0
    assert world.run("--only", "tower", "--source", "authors").returncode == 0  # complete
    record = json.loads((world.root / "input/.downloads/records/tower.json").read_text())
    assert record["source"] == "organisers"


def test_refused_means_one_line_that_says_what_to_do(world):
    del world.server.files["/tower.tar.gz"]
    done = world.run("--only", "tower")
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if "error" in line]
    assert "HTTP 404" in line
    assert f"get {world.server.url}/tower.tar.gz into input/.downloads/" in line
    assert "put its files into models/tower/" in line


def test_files_put_there_by_hand_are_used(world):
    downloads = world.root / "input/.downloads"
    downloads.mkdir(parents=True)
    (downloads / "tower.tar.gz").write_bytes(world.server.files.pop("/tower.tar.gz"))
    (world.root / "eval/mmbench").mkdir(parents=True)
    (world.root / "eval/mmbench/m.tsv").write_text("a\tb\n")
    done = world.run("--only", "tower,mmbench")
    assert done.returncode == 0, done.stderr
    assert "mmbench: found in eval/mmbench" in done.stdout
    assert world.server.requests == []
    assert (world.root / "models/tower/config.json").exists()


def test_the_original_kits_folder_is_found(world):
    old = world.root / "old/textvqa"
    (old / "images").mkdir(parents=True)
    (old / "q.jsonl").write_text('{"image": "1.jpg"}\n')
    (old / "images/1.jpg").write_text("1")
    done = world.run("--only", "textvqa")
    assert done.returncode == 0, done.stderr
    assert world.server.requests == []
    assert (world.root / "eval/textvqa/q.jsonl").resolve() == old / "q.jsonl"


def test_a_folder_that_is_there_keeps_what_else_lies_in_it(world):
    folder = world.root / "input/seed"
    (folder / "images").mkdir(parents=True)
    (folder / "images/half.jpg").write_text("of a broken download")
    (folder / "mine.txt").write_text("mine")
    assert world.run("--only", "seed").returncode == 0
    assert (folder / "mine.txt").read_text() == "mine"
    assert not (folder / "images/half.jpg").exists()
    assert sorted(path.name for path in folder.iterdir()) == ["images", "mine.txt", "questions.json", "seed.jsonl"]


def test_missing_images_are_a_warning(world):
    files = {f"seed/{name}": content for name, content in list(IMAGES.items())[1:]}
    world.server.files["/seed.tar.gz"] = tar_gz({**files, "seed/images/other.jpg": b"x"})
    done = world.run("--only", "seed")
    assert done.returncode == 0
    assert "warning: seed: 1 of the 600 images that seed.jsonl names are missing" in done.stderr


def test_verify_sees_what_changed_since(world):
    assert world.run().returncode == 0
    assert world.run("--verify").returncode == 0
    weights = world.root / "models/tower/model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(data)
    next((world.root / "input/seed/images").rglob("*.jpg")).write_bytes(b"other")
    (world.root / "eval/mmbench/m.tsv").unlink()
    done = world.run("--verify")
    assert done.returncode == 1
    states = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert "differ from those verified" in states["tower"]
    assert "there are 602 files" in states["seed"]
    assert "m.tsv: 0 files" in states["mmbench"]
    assert states["textvqa"] == "complete"
    assert world.run().returncode == 0  # a lost file comes back
    assert (world.root / "eval/mmbench/m.tsv").exists()


def test_a_dry_run_fetches_nothing(world):
    assert world.run("--only", "tower").returncode == 0
    world.server.requests.clear()
    done = world.run("--dry-run")
    assert done.returncode == 0
    assert "complete  tower" in done.stdout
    assert f"organisers: {world.server.url}/eval.tar.gz" in done.stdout
    assert "1 of 4 complete" in done.stdout
    assert world.server.requests == []


def test_too_small_a_disk_is_noticed_before_anything_is_fetched(world):
    world.entries["tower"]["unpacked_gb"] = 1e9
    done = world.run("--only", "tower")
    assert done.returncode == 1
    assert "make room" in done.stderr
    assert world.server.requests == []


@pytest.mark.slow
def test_a_mirror_of_the_organisers(world, server):
    url, server.url = server.url, "http://127.0.0.1:9"  # nobody listens there
    assert world.run("--only", "tower").returncode == 1
    assert world.run("--only", "tower", BETTER_SYNTH_URL=url).returncode == 0


def test_a_password_in_an_address_is_never_told(world, server):
    """Nor a signature; neither in what is said nor in a file, of a transfer that was cut off either."""
    secret = server.url.replace("://", "://user:hush@")
    told = [world.run("--dry-run", BETTER_SYNTH_URL=secret)]
    server.always["/seed.tar.gz"] = "drop"
    told += [world.run("--only", "seed,textvqa", BETTER_SYNTH_URL=secret) for _ in range(2)]
    assert [done.returncode for done in told] == [0, 1, 1]
    assert not any("hush" in done.stdout + done.stderr for done in told)
    assert f"organisers: {server.url}/seed.tar.gz" in told[0].stdout
    assert f"By hand: get {server.url}/seed.tar.gz" in told[1].stderr
    assert any(path.suffix == ".json" for path in world.root.rglob("*.part.json"))
    assert not any(b"hush" in content for content in world.files().values())


@pytest.mark.parametrize("url", ["http://[x", "ftp://host/x", "host/x", ""])
def test_an_address_that_is_none_is_one_line(url, monkeypatch):
    monkeypatch.setenv("BETTER_SYNTH_URL", url)
    with pytest.raises(UserError, match=r"^BETTER_SYNTH_URL: expected an address that begins with http"):
        load_manifest()


def test_two_at_once_are_refused(world):
    world.server.pause = 1
    first = subprocess.Popen(
        world.command("--only", "seed"), cwd=REPOSITORY, env=environment_of(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while not world.server.requests:
            time.sleep(0.02)
        second = world.run("--only", "tower")
    finally:
        first.kill()
        first.wait()
    assert second.returncode == 1
    assert "is at work there" in second.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--only", "twoer"], "no resource 'twoer'; there are mmbench, seed"),
        (["--only", "tower", "--source", "modelscope"], "it has no tower"),
        (["--jobs", "0"], "at least 1"),
        (["--manifest", "/nowhere.yaml"], "no such manifest"),
    ],
)
def test_mistakes_are_named(world, words, message):
    done = world.run(*words)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [("expekt", [], "did you mean 'expect'"), ("sources", [{"home": "moon"}], "must be one of")],
)
def test_a_wrong_manifest_is_named(world, key, value, message):
    world.entries["tower"][key] = value
    done = world.run()
    assert done.returncode == 1
    assert message in done.stderr


@pytest.mark.parametrize("content", [b"[" * 100_000, b"a: [", b"\xff"], ids=["brackets", "cut off", "no UTF-8"])
def test_a_manifest_that_is_no_yaml_is_one_line(content, tmp_path):
    (tmp_path / "own.yaml").write_bytes(content)
    with pytest.raises(UserError, match=r"own\.yaml: not a YAML document \([^\n]*\)$"):
        load_manifest(tmp_path / "own.yaml")


def test_a_damaged_archive_that_two_resources_share_is_replaced_for_both(world):
    """Either may find the damage first, and must not throw away what the other is reading."""
    for number in range(8):
        other = world.at(world.root.parent / f"shared_{number}")
        world.server.faults["/eval.tar.gz"] = ["drop no-length"]
        done = other.run("--only", "textvqa,mmbench")
        assert done.returncode == 0, done.stderr
        assert {"eval/textvqa/q.jsonl", "eval/mmbench/m.tsv"} <= set(other.files())


def test_what_was_installed_but_not_recorded_is_recorded_completely(world):
    """As a run leaves it that is killed in between."""
    assert world.run().returncode == 0
    expected = world.files()
    for record in list((world.root / "input/.downloads/records").iterdir()):
        # What atomic_write leaves when it is killed before the rename.
        record.rename(record.with_name(f".{record.name}.k1ll3d.tmp"))
    (world.root / "input/.downloads/.seed.tar.gz.part.json.k1ll3d.tmp").touch()
    assert world.run().returncode == 0
    assert world.files() == expected
