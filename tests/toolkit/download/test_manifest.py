"""toolkit/download/resources.yaml: every resource of the challenge, where the presets look for it."""

from __future__ import annotations

import pytest
import yaml

from toolkit.download.manifest import HUBS, MANIFEST, Expectation, NamedImages, Resource, load_manifest
from toolkit.files import REPOSITORY
from toolkit.presets import load_preset

BASE = "https://dail-wlcb.oss-cn-wulanchabu.aliyuncs.com/dj-competition/better_synth/"
RESOURCES = {resource.name: resource for resource in load_manifest()}


@pytest.mark.parametrize("kit", ["full", "10k"])
def test_a_kit_brings_every_file_its_preset_names(kit):
    preset = load_preset(kit)
    folders = [REPOSITORY / resource.destination for resource in RESOURCES.values() if kit in resource.kits]
    needed = [
        preset.llm, preset.vision_tower, preset.vision_tower_aux, preset.seed_images, preset.questions,
        preset.finetune_data, preset.finetune_images, preset.textvqa.questions, preset.textvqa.images,
        preset.textvqa.annotations, preset.mmbench.questions,
    ]  # fmt: skip
    assert [path for path in needed if not any(path.is_relative_to(folder) for folder in folders)] == []
    expected = {
        REPOSITORY / resource.destination / pattern
        for resource in RESOURCES.values() if kit in resource.kits
        for expectation in resource.expect for pattern in expectation.path
    }  # fmt: skip
    files = [preset.questions, preset.finetune_data, preset.textvqa.questions, preset.textvqa.images,
             preset.textvqa.annotations, preset.mmbench.questions]  # fmt: skip
    assert [path for path in files if path not in expected] == []


def test_the_organisers_files_are_all_there():
    urls = {file.url for resource in RESOURCES.values() for source in resource.sources for file in source.files}
    names = """data/stage_1/finetuning_stage_1.tar.gz data/stage_1/finetuning_stage_1_12k.tar.gz
        data/stage_1/mgm_instruction_stage_1.json data/stage_1/mgm_instruction_stage_1_12k.json
        data/stage_1/pretrain_stage_1.tar.gz data/stage_1/pretrain_stage_1_10k.tar.gz
        data/stage_1/mgm_pretrain_stage_1.jsonl data/stage_1/mgm_pretrain_stage_1_10k.jsonl data/stage_1/stage_1.json
        models/gemma-2b-it.tar.gz models/clip-vit-large-patch14-336.tar.gz
        models/openclip-convnext-large-d-320-laion2B-s29B-b131K-ft-soup.tar.gz data/stage_1/eval_stage_1.tar.gz"""
    assert {BASE + name for name in names.split()} == {url for url in urls if url.startswith(BASE)}


def test_nothing_comes_over_an_open_line():
    urls = {file.url for resource in RESOURCES.values() for source in resource.sources for file in source.files}
    assert {url for url in urls if not url.startswith("https://")} == set()


def test_sources_stand_in_their_order():
    order = ["modelscope", "huggingface", "organisers", "authors"]
    for resource in RESOURCES.values():
        positions = [order.index(source.home) for source in resource.sources]
        assert positions == sorted(positions), resource.name


def test_one_name_is_one_file():
    urls = {(file.name, file.url) for resource in RESOURCES.values() for s in resource.sources for file in s.files}
    assert len({name for name, _ in urls}) == len(urls)


def test_what_is_downloaded_is_not_tracked_by_git():
    folders = (
        "input/",
        "toolkit/training/model_zoo/",
        "toolkit/training/data/",
        "toolkit/eval/textvqa",
        "toolkit/eval/mmbench",
    )
    assert [r.name for r in RESOURCES.values() if not r.destination.startswith(folders)] == []


def test_every_resource_says_what_must_be_there():
    assert [resource.name for resource in RESOURCES.values() if not resource.expect] == []
    assert [r.name for r in RESOURCES.values() if not all(s.keep for s in r.sources if s.home in HUBS)] == []


def test_every_key_is_explained():
    explained = {
        words[1]
        for line in MANIFEST.read_text().splitlines()
        if line.startswith("#") and len(words := line.replace(",", "").split()) > 2
    } | {"repository", "kind", "keep", "lines", "sha256"}
    entries = yaml.safe_load(MANIFEST.read_text())["resources"].values()
    used = {key for entry in entries for key in entry}
    used |= {key for entry in entries for part in (*entry["sources"], *entry["expect"]) for key in part}
    assert used - explained - {"files", "path"} == set()


def test_a_resource_has_the_fingerprint_of_existing_records():
    """Another one would make every user's installed resources unverified."""
    images = [NamedImages("seed.jsonl")]
    resource = Resource("seed", "a test", ["full"], "input/seed", 1, 0, [], [Expectation(["seed.jsonl"])], images)
    assert resource.fingerprint == "fdab866533a2f86441a17446b5bf327c89f1d589320d829cfbf33249cae6cc4c"
