"""Synthetic images from a tiny Stable Diffusion: generated, named, ranked, resumed."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import solution.operators  # noqa: F401  registers ours
from solution.operators.common.images import open_image
from solution.operators.common.rows import row_seed
from solution.operators.common.ssim import structural_similarity
from solution.runner.data_juicer import OPERATORS, STATS, NestedDataset
from tests.solution import model_folders
from tests.solution.conftest import sample_image


@pytest.fixture(autouse=True)
def own_store(tmp_path, monkeypatch):
    """No test reads another one's scores."""
    monkeypatch.setenv("SCORE_STORE", str(tmp_path / "scores"))


@pytest.fixture(scope="module")
def pipeline_folder(tmp_path_factory) -> str:
    pytest.importorskip("diffusers", reason="pip install -r solution/requirements-synthesis.txt -c constraints.txt")
    return str(model_folders.save_pipeline(tmp_path_factory.mktemp("pipeline")))


@pytest.fixture
def data(make_seed):
    """Five rows with absolute image paths, as operators see them."""
    seed = make_seed(["a red dog", "two blue cars", "the cat", "", "a ball"])
    lines = [json.loads(line) for line in seed.read_text().splitlines()]
    for number, line in enumerate(lines, start=1):
        line["__row__"] = number
        line["images"] = [str(seed.parent / image) for image in line["images"]]
    return NestedDataset.from_list(lines)


def build(name: str, **parameters):
    """An operator that works in this process."""
    return OPERATORS.modules[name](auto_op_parallelism=False, num_proc=None, **parameters)


def generate(data, folder: str, work_dir, **parameters):
    """The data set after the operator."""
    parameters = {"steps": 2, "size": 32, "model_batch": 3} | parameters
    return build("picture_painter_mapper", hf_painter=folder, work_dir=str(work_dir), **parameters).run(data)


def pixels(path: str) -> np.ndarray:
    return np.asarray(Image.open(path), dtype=int)


def test_images_equal_the_bare_pipelines(data, pipeline_folder, tmp_path):
    from diffusers import StableDiffusionPipeline

    found = generate(data, pipeline_folder, tmp_path)
    pipeline = StableDiffusionPipeline.from_pretrained(pipeline_folder)
    for row, caption in ((0, "a red dog"), (4, "a ball")):
        generator = torch.Generator().manual_seed(row_seed(0, f"{row:03d}/{caption}"))
        expected = pipeline(caption, height=32, width=32, num_inference_steps=2, generator=generator).images[0]
        expected.save(tmp_path / "expected.jpg", quality=95)
        assert np.abs(pixels(found["images"][row][0]) - pixels(tmp_path / "expected.jpg")).max() <= 2
    contents = {open_image(images[0]).tobytes() for images in found["images"]}
    assert len(contents) == 5


def test_rows_keep_their_id_and_know_the_original(data, pipeline_folder, tmp_path):
    found = generate(data, pipeline_folder, tmp_path, keep_original=True)
    assert found["id"] == ["000", "000", "001", "001", "002", "002", "003", "004", "004"]
    for row in found:
        generated = "synthetic_images" in row["images"][0]
        assert bool(row["__note__"]) == generated
        assert row["original_images"] == ([f"{data[int(row['id'])]['images'][0]}"] if generated else None)
        if generated:
            assert row["images"][0].startswith(str(tmp_path / "synthetic_images" / row["id"]))


def test_without_the_original_an_empty_caption_keeps_its_image(data, pipeline_folder, tmp_path):
    found = generate(data, pipeline_folder, tmp_path)
    assert found["id"] == data["id"]
    assert [found["images"][row] == data["images"][row] for row in range(5)] == [False, False, False, True, False]


def test_names_and_images_depend_on_row_and_settings_alone(data, pipeline_folder, tmp_path):
    whole = generate(data, pipeline_folder, tmp_path / "one")
    again = generate(data.select([4, 1]), pipeline_folder, tmp_path / "two", model_batch=2)
    for row, images in zip((4, 1), again["images"], strict=True):
        ours, theirs = whole["images"][row][0], images[0]
        assert ours.rpartition("/")[2] == theirs.rpartition("/")[2]
        assert np.abs(pixels(ours) - pixels(theirs)).max() <= 2
    for other in ({"seed": 1}, {"steps": 3}, {"prompt_suffix": ", photo"}):
        changed = generate(data.select([4]), pipeline_folder, tmp_path / "one", **other)
        assert changed["images"][0] != whole["images"][4]
        assert np.abs(pixels(changed["images"][0][0]) - pixels(whole["images"][4][0])).max() > 2


def test_a_killed_run_generates_the_rest_only(data, pipeline_folder, tmp_path, monkeypatch):
    from solution.operators.common.generator import ImageGenerator

    first = generate(data, pipeline_folder, tmp_path)
    (tmp_path / "synthetic_images" / first["images"][2][0].rpartition("/")[2]).unlink()
    asked = []
    genuine = ImageGenerator.generate
    monkeypatch.setattr(
        ImageGenerator, "generate", lambda self, texts, *more: asked.append(texts) or genuine(self, texts, *more)
    )
    assert generate(data, pipeline_folder, tmp_path)["images"] == first["images"]
    assert asked == [["the cat"]]
    assert not list((tmp_path / "synthetic_images").glob(".*"))


def test_a_refused_image_leaves_the_row_as_it_is(data, pipeline_folder, tmp_path, monkeypatch):
    from solution.operators.common.generator import ImageGenerator

    monkeypatch.setattr(ImageGenerator, "generate", lambda self, texts, *more: [None] * len(texts))
    assert generate(data, pipeline_folder, tmp_path)["images"] == data["images"]


def test_without_diffusers_the_message_says_what_to_install(pipeline_folder, monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install -r solution/requirements-synthesis\.txt"):
        build("picture_painter_mapper", hf_painter=pipeline_folder)


def test_ssim_equals_a_plain_loop():
    one, other = sample_image(1).resize((256, 256)), sample_image(2).resize((256, 256))
    offsets = np.arange(11) - 5
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None, :] ** 2) / 4.5)
    window /= window.sum()
    x, y = (np.asarray(each.convert("L"), dtype=float) for each in (one, other))
    values = []
    for top in range(0, 246):
        for left in range(0, 246, 15):
            a, b = x[top : top + 11, left : left + 11], y[top : top + 11, left : left + 11]
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            var_a, var_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
            both = (window * (a - mean_a) * (b - mean_b)).sum()
            values.append(
                (2 * mean_a * mean_b + 6.5025) * (2 * both + 58.5225)
                / ((mean_a**2 + mean_b**2 + 6.5025) * (var_a + var_b + 58.5225))
            )  # fmt: skip
    assert structural_similarity(one, one) == pytest.approx(1.0)
    assert structural_similarity(one, other) == pytest.approx(np.mean(values), abs=0.02)  # every 15th column only


def test_ssim_falls_with_the_difference():
    rough = sample_image(1).resize((12, 10)).resize((48, 40))
    assert 1 > structural_similarity(sample_image(1), rough) > structural_similarity(sample_image(1), sample_image(2))


def test_scores_weigh_clip_and_ssim(data, pipeline_folder, clip_folder, tmp_path):
    generated = generate(data, pipeline_folder, tmp_path, keep_original=True).remove_columns(["__note__"])
    clip = build("clip_similarity_filter", hf_clip=str(clip_folder), min_score=-1).run(generated, reduce=False)[STATS]
    found = build("synthetic_score_filter", hf_clip=str(clip_folder), ssim_share=0.25).run(generated, reduce=False)
    for row, stats, expected in zip(found, found[STATS], clip, strict=True):
        original = row["original_images"]
        ssim = 1.0
        if original:
            ssim = structural_similarity(open_image(row["images"][0]), open_image(original[0]))
            assert ssim < 0.9
        assert stats["synthetic_score"] == pytest.approx(0.75 * expected["clip_similarity"] + 0.25 * ssim, abs=1e-5)


def test_a_bad_original_fails_alone(data, pipeline_folder, clip_folder, tmp_path):
    generated = generate(data, pipeline_folder, tmp_path).remove_columns(["__note__"])
    with open(data[1]["images"][0], "r+b") as file:
        file.truncate(300)
    found = build("synthetic_score_filter", hf_clip=str(clip_folder)).run(generated, reduce=False)
    assert [bool(text) for text in found["__failure__"]] == [False, True, False, False, False]


@pytest.mark.slow
def test_a_recipe_that_generates_images(make_seed, make_recipe, run_process, pipeline_folder, clip_folder):
    seed = make_seed(["a red dog", "two blue cars", "the cat"])
    steps = [
        {"picture_painter_mapper": {"hf_painter": pipeline_folder, "steps": 2, "size": 32, "keep_original": True}},
        {"synthetic_score_filter": {"hf_clip": str(clip_folder), "min_score": -1}},
        {"fill_to_cap_selector": {"score_key": "synthetic_score", "cap": 7}},
    ]
    done = run_process(make_recipe(steps), seed)
    assert done.code == 0, done.err
    assert done.record["counts"]["created"] == 3 + 1
    synthetic = [row for row in done.rows if row["images"][0].startswith("synthetic_images/")]
    assert len(synthetic) >= 3
    assert all((done.output / row["images"][0]).is_file() for row in done.rows if row in synthetic)
    assert all(set(row) <= {"id", "text", "images", "copy_index"} for row in done.rows)
