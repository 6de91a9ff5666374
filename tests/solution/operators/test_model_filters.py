"""Filters that ask a model, against Data-Juicer's own and plain loops, and alone among bad images."""

import json

import numpy as np
import pytest
import torch

import solution.operators  # noqa: F401  registers ours
from solution.operators.common.faults import SetupFault
from solution.operators.common.images import open_image
from solution.runner.data_juicer import OPERATORS, STATS, NestedDataset
from tests.solution import model_folders

nltk = pytest.importorskip("nltk", reason="pip install -r solution/requirements-grounding.txt -c constraints.txt")

CAPTIONS = ["a red dog on the grass", "two blue cars", "the cat", "a ball and a book next to a tree", "runs", "a cat"]
NAMES = ["blip_matching_filter", "phrase_grounding_filter", "picture_nsfw_filter", "picture_aesthetics_filter"]


@pytest.fixture(autouse=True)
def own_store(tmp_path, monkeypatch):
    """No test reads another one's scores."""
    monkeypatch.setenv("SCORE_STORE", str(tmp_path / "scores"))


@pytest.fixture
def rows(make_seed):
    """make(captions) -> a data set with absolute image paths, as operators see it."""

    def make(captions: list[str], folder: str = "rows") -> NestedDataset:
        seed = make_seed(captions, folder=folder)
        lines = [json.loads(line) for line in seed.read_text().splitlines()]
        for number, line in enumerate(lines, start=1):
            line["__row__"] = number
            line["images"] = [str(seed.parent / image) for image in line["images"]]
        return NestedDataset.from_list(lines)

    return make


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Model parameter -> folder of a tiny model; NLTK finds a tiny tagger."""
    linear = torch.nn.Sequential(
        torch.nn.Linear(16, 1024), torch.nn.Dropout(), torch.nn.Linear(1024, 128), torch.nn.Dropout(),
        torch.nn.Linear(128, 64), torch.nn.Dropout(), torch.nn.Linear(64, 16), torch.nn.Linear(16, 1),
    )  # fmt: skip
    nltk.data.path.insert(0, str(model_folders.save_tagger(tmp_path_factory.mktemp("nltk_data"))))
    make = tmp_path_factory.mktemp
    return {
        "hf_blip": str(model_folders.save_blip_matcher(make("blip"))),
        "hf_owlvit": str(model_folders.save_owlvit(make("owlvit"))),
        "hf_nsfw_model": str(model_folders.save_classifier(make("classifier"))),
        "hf_watermark_model": str(model_folders.save_classifier(make("watermarks"))),
        "hf_scorer_model": str(model_folders.save_aesthetics_predictor(make("beauty"), linear)),
    }


def build(name: str, **parameters):
    """An operator that works in this process and raises on errors."""
    return OPERATORS.modules[name](auto_op_parallelism=False, num_proc=None, **parameters)


def model_of(name: str, folders: dict[str, str]) -> dict[str, str]:
    """The model parameter of one of our filters or of a stock one."""
    key = {
        "blip_matching_filter": "hf_blip",
        "phrase_grounding_filter": "hf_owlvit",
        "picture_nsfw_filter": "hf_nsfw_model",
        "picture_watermark_filter": "hf_watermark_model",
        "picture_aesthetics_filter": "hf_scorer_model",
    }[name]
    return {key: folders[key]}


@pytest.mark.parametrize(
    ("ours", "stock", "stat"),
    [
        ("blip_matching_filter", "image_text_matching_filter", "image_text_matching_score"),
        ("phrase_grounding_filter", "phrase_grounding_recall_filter", "phrase_grounding_recall"),
        ("picture_nsfw_filter", "image_nsfw_filter", "image_nsfw_score"),
        ("picture_watermark_filter", "image_watermark_filter", "image_watermark_prob"),
    ],
)
def test_scores_equal_the_stock_filters(rows, folders, ours, stock, stat):
    data = rows(CAPTIONS * 3)
    parameters = model_of(ours, folders)
    expected = [stats[stat][0] for stats in build(stock, **parameters).run(data, reduce=False)[STATS]]
    own = build(ours, **parameters, model_batch=4)
    found = [stats[own.stat] for stats in own.run(data, reduce=False)[STATS]]
    assert np.std(expected) > 1e-3  # the tiny model tells pairs apart
    np.testing.assert_allclose(found, expected, atol=1e-5)


def head_of(kind: str) -> torch.nn.Module:
    """The head of one of LAION's predictors, with weights that tell images apart."""
    torch.manual_seed(6)
    if kind == "v1":
        return torch.nn.Linear(16, 1)
    layers = []
    for width_in, width_out in ((16, 1024), (1024, 128), (128, 64)):
        layers += [torch.nn.Linear(width_in, width_out), torch.nn.ReLU(), torch.nn.Dropout(0.2)]
    layers += [torch.nn.Linear(64, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1)]
    return torch.nn.Sequential(*[layer for layer in layers if kind == "relu" or not isinstance(layer, torch.nn.ReLU)])


@pytest.mark.parametrize("kind", ["v1", "linear", "relu"])
def test_aesthetics_equal_a_plain_loop(rows, tmp_path, kind):
    from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

    head = head_of(kind)
    model_folders.widen(head, 0.5)
    folder = str(model_folders.save_aesthetics_predictor(tmp_path, head))
    data = rows(CAPTIONS)
    tower = CLIPVisionModelWithProjection.from_pretrained(folder).eval()
    processor = CLIPImageProcessor.from_pretrained(folder)
    expected = []
    for images in data["images"]:
        with torch.no_grad():
            features = tower(**processor(open_image(images[0]), return_tensors="pt")).image_embeds
            expected.append(head.eval()(features / features.norm()).item() / 10)
    found = build("picture_aesthetics_filter", hf_scorer_model=folder, model_batch=4).run(data, reduce=False)[STATS]
    assert np.std(expected) > 1e-4
    np.testing.assert_allclose([stats["picture_aesthetics"] for stats in found], expected, rtol=1e-4, atol=1e-6)


def test_a_classifier_is_no_aesthetics_predictor(rows, folders, clip_folder):
    with pytest.raises(SetupFault, match="no aesthetics predictor"):
        build("picture_aesthetics_filter", hf_scorer_model=str(clip_folder)).run(rows(["a dog"]), reduce=False)


@pytest.mark.parametrize("name", NAMES)
def test_a_bad_image_fails_alone(rows, folders, name):
    data = rows(CAPTIONS)
    whole = build(name, **model_of(name, folders), min_score=0.0).run(data, reduce=False)
    broken = data[2]["images"][0]
    with open(broken, "r+b") as file:
        file.truncate(300)
    operator = build(name, **model_of(name, folders), min_score=0.0)
    result = operator.run(data, reduce=False)
    assert [bool(text) for text in result["__failure__"]] == [row == 2 for row in range(len(CAPTIONS))]
    assert broken in result["__failure__"][2]
    for row in set(range(len(CAPTIONS))) - {2}:
        assert result[STATS][row][operator.stat] == whole[STATS][row][operator.stat]
    assert "002" not in operator.run(data)["id"]


@pytest.mark.parametrize("name", NAMES)
def test_known_pairs_are_not_scored_again(rows, folders, name, monkeypatch):
    data = rows(CAPTIONS)
    first = build(name, **model_of(name, folders)).run(data, reduce=False)[STATS]
    again = build(name, **model_of(name, folders), max_score=0.9)
    monkeypatch.setattr(type(again), "score", lambda *_: pytest.fail("scored again"))
    assert list(again.run(data, reduce=False)[STATS]) == list(first)


def test_thresholds_on_boxes_are_part_of_what_is_stored(rows, folders):
    data = rows(CAPTIONS)
    model = model_of("phrase_grounding_filter", folders)
    first = build("phrase_grounding_filter", **model).run(data, reduce=False)[STATS]
    none = build("phrase_grounding_filter", **model, box_area=0.0).run(data, reduce=False)[STATS]
    named = [row for row, caption in enumerate(CAPTIONS) if caption != "runs"]
    assert all(none[row]["phrase_grounding_recall"] == 0 for row in named)
    assert any(first[row]["phrase_grounding_recall"] > 0 for row in named)


def test_noun_phrases_equal_the_stock_ones(folders):
    from data_juicer.ops.filter.phrase_grounding_recall_filter import run_ner

    from solution.operators.common.noun_phrases import noun_phrases

    for caption in [*CAPTIONS, "A small red car, the dog runs. Two cars!", "red", "", "the dog's red ball, a ball"]:
        assert set(noun_phrases(caption)) == set(run_ner(caption))
    assert noun_phrases("a red dog on the grass") == ("a red dog", "the grass")


def test_a_missing_tagger_says_how_to_get_it(folders, monkeypatch):
    monkeypatch.setattr(nltk.data, "path", [])
    with pytest.raises(ValueError, match=r"nltk.downloader averaged_perceptron_tagger_eng"):
        build("phrase_grounding_filter", hf_owlvit=folders["hf_owlvit"])


def test_overlap_equals_counted_pixels():
    from solution.operators.phrase_grounding_filter import overlap

    random = np.random.default_rng(0)
    for _ in range(50):
        boxes = [sorted(random.integers(0, 20, 2)) + sorted(random.integers(0, 20, 2)) for _ in range(2)]
        boxes = [[x0, y0, x1, y1] for x0, x1, y0, y1 in boxes]
        fields = np.zeros((2, 20, 20), bool)
        for field, (x0, y0, x1, y1) in zip(fields, boxes, strict=True):
            field[y0:y1, x0:x1] = True
        either = (fields[0] | fields[1]).sum()
        assert overlap(*boxes) == pytest.approx((fields[0] & fields[1]).sum() / either if either else 0)


def test_several_images_count_by_their_mean(rows, folders):
    data = rows(["a dog", "a cat"])
    alone = build("picture_nsfw_filter", hf_nsfw_model=folders["hf_nsfw_model"], max_score=1.0)
    scores = [stats["picture_nsfw"] for stats in alone.run(data, reduce=False)[STATS]]
    both = NestedDataset.from_list(
        [{"id": "0", "text": "a dog", "images": [data[0]["images"][0], data[1]["images"][0]]}]
    )
    assert alone.run(both, reduce=False)[STATS][0]["picture_nsfw"] == pytest.approx(np.mean(scores), abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_scores_do_not_depend_on_the_batch(rows, folders, name, tmp_path, monkeypatch):
    captions = [*CAPTIONS, "a very long caption about " + "a red dog and a blue car " * 4]
    data = rows(captions)
    first = build(name, **model_of(name, folders), model_batch=4)
    expected = dict(zip(data["id"], (stats[first.stat] for stats in first.run(data, reduce=False)[STATS]), strict=True))
    monkeypatch.setenv("SCORE_STORE", str(tmp_path / "other"))
    for part in (data.select([6, 3, 0]), data.select([5, 4, 2, 1])):
        again = build(name, **model_of(name, folders), model_batch=4).run(part, reduce=False)
        for row, stats in zip(again["id"], again[STATS], strict=True):
            assert stats[first.stat] == pytest.approx(expected[row], rel=1e-5)


def test_a_killed_run_resumes_with_the_same_bits(rows, folders, tmp_path, monkeypatch):
    from solution.operators.common import score_store

    monkeypatch.setattr(score_store, "_BLOCK", 4)
    data = rows(CAPTIONS * 3)
    name, model = "picture_nsfw_filter", model_of("picture_nsfw_filter", folders)
    whole = build(name, **model, model_batch=3).run(data, reduce=False)[STATS]
    monkeypatch.setenv("SCORE_STORE", str(tmp_path / "other"))
    operator = build(name, **model, model_batch=3)
    score, calls = type(operator).score, []

    def killed(self, *arguments):
        calls.append(1)
        if len(calls) == 6:  # in the third block
            raise KeyboardInterrupt
        return score(self, *arguments)

    monkeypatch.setattr(type(operator), "score", killed)
    with pytest.raises(KeyboardInterrupt):
        operator.run(data, reduce=False)
    resumed = build(name, **model, model_batch=3).run(data, reduce=False)[STATS]
    assert list(resumed) == list(whole)
    assert len(calls) == 6 + 5  # of 2 + 2 + 2 + 2 + 1 passes the first four were kept


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", NAMES)
def test_gpu_scores_equal_cpu_scores(rows, folders, name, tmp_path, monkeypatch):
    data = rows(CAPTIONS)
    operator = build(name, **model_of(name, folders))
    on_gpu = [stats[operator.stat] for stats in operator.run(data, reduce=False)[STATS]]
    monkeypatch.setenv("SCORE_STORE", str(tmp_path / "other"))
    on_cpu = build(name, **model_of(name, folders), accelerator="cpu").run(data, reduce=False)[STATS]
    np.testing.assert_allclose(on_gpu, [stats[operator.stat] for stats in on_cpu], atol=0.02)


@pytest.mark.slow
def test_two_processes_give_the_same_rows(rows, folders, tmp_path, monkeypatch):
    data = rows(CAPTIONS * 4)
    for name in NAMES:
        alone = build(name, **model_of(name, folders)).run(data, reduce=False)
        monkeypatch.setenv("SCORE_STORE", str(tmp_path / f"both {name}"))
        operator = OPERATORS.modules[name](auto_op_parallelism=False, num_proc=2, **model_of(name, folders))
        both = operator.run(data, reduce=False)
        assert both["id"] == alone["id"]
        np.testing.assert_allclose(
            [stats[operator.stat] for stats in both[STATS]], [stats[operator.stat] for stats in alone[STATS]], rtol=1e-5
        )
