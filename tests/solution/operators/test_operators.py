"""Our operators against Data-Juicer's own, against plain loops, and alone among bad rows."""

import json
import math
import textwrap
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

import solution.operators  # noqa: F401  registers ours
from solution.runner.data_juicer import OPERATORS, STATS, NestedDataset
from tests.solution.conftest import ROOT, TEXT, sample_image

CAPTIONS = ["a red dog on the grass", "two blue cars", "the cat", "a ball and a book next to a tree", "ein Hund"]


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


def build(name: str, **parameters):
    """An operator that works in this process and raises on errors."""
    return OPERATORS.modules[name](auto_op_parallelism=False, num_proc=None, **parameters)


def captions_of(dataset) -> list[str]:
    return [text.removeprefix("<__dj__image>\n").removesuffix(" <|__dj__eoc|>") for text in dataset["text"]]


def test_similarity_equals_the_stock_filter(rows, clip_folder):
    data = rows(CAPTIONS * 3)
    stock = build("image_text_similarity_filter", hf_clip=str(clip_folder), min_score=-1, max_score=1)
    ours = build("clip_similarity_filter", hf_clip=str(clip_folder), min_score=-1, model_batch=4)
    expected = [stats["image_text_similarity"][0] for stats in stock.run(data, reduce=False)[STATS]]
    found = [stats["clip_similarity"] for stats in ours.run(data, reduce=False)[STATS]]
    assert np.std(expected) > 1e-3  # the tiny model tells pairs apart
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_similarity_keeps_what_the_stock_filter_keeps(rows, clip_folder):
    data = rows(CAPTIONS * 3)
    scores = build("clip_similarity_filter", hf_clip=str(clip_folder), min_score=-1).run(data, reduce=False)[STATS]
    middle = sorted(stats["clip_similarity"] for stats in scores)[7] - 1e-5
    stock = build("image_text_similarity_filter", hf_clip=str(clip_folder), min_score=middle, max_score=1).run(data)
    ours = build("clip_similarity_filter", hf_clip=str(clip_folder), min_score=middle).run(data)
    assert ours["id"] == stock["id"]
    assert 0 < len(ours) < len(data)


def test_a_bad_image_fails_alone_in_its_batch(rows, clip_folder):
    data = rows(CAPTIONS)
    whole = build("clip_similarity_filter", hf_clip=str(clip_folder), min_score=-1).run(data, reduce=False)
    broken = data[2]["images"][0]
    with open(broken, "r+b") as file:
        file.truncate(200)
    result = build("clip_similarity_filter", hf_clip=str(clip_folder), min_score=-1).run(data, reduce=False)
    assert [bool(text) for text in result["__failure__"]] == [False, False, True, False, False]
    assert broken in result["__failure__"][2]
    kept = build("clip_similarity_filter", hf_clip=str(clip_folder), min_score=-1).run(data)
    assert kept["id"] == ["000", "001", "003", "004"]
    for row in (0, 1, 3, 4):
        assert result[STATS][row]["clip_similarity"] == pytest.approx(whole[STATS][row]["clip_similarity"], abs=1e-6)


def test_recaption_changes_poor_rows_only_and_only_for_the_better(rows, clip_folder, captioner_folder):
    data = rows(CAPTIONS * 3)
    scores = build("clip_similarity_filter", hf_clip=str(clip_folder), min_score=-1).run(data, reduce=False)[STATS]
    before = [stats["clip_similarity"] for stats in scores]
    below = sorted(before)[10]
    mapper = build(
        "conditional_recaption_mapper",
        hf_clip=str(clip_folder), hf_captioner=str(captioner_folder), below=below, min_words=1, max_new_tokens=6,
    )  # fmt: skip
    result = mapper.run(data)
    after = build("clip_similarity_filter", hf_clip=str(clip_folder), min_score=-1).run(
        result.remove_columns(["__failure__", "__note__"]), reduce=False
    )[STATS]
    changed = [old != new for old, new in zip(data["text"], result["text"], strict=True)]
    assert any(changed)
    for row, is_changed in enumerate(changed):
        assert bool(result["__note__"][row]) == is_changed
        if is_changed:
            assert before[row] < below + 1e-9  # statistics are stored with ten digits
            assert after[row]["clip_similarity"] > before[row]
            assert result["text"][row].startswith("<__dj__image>\n")
            assert result["text"][row].endswith(" <|__dj__eoc|>")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_captions_do_not_depend_on_the_batch(rows, captioner_folder, temperature, tmp_path, monkeypatch):
    from solution.operators.common.captioner import Captioner

    paths = [images[0] for images in rows([""] * 7)["images"]]
    keys = [f"row {number}" for number in range(7)]

    def captions(size: int, order: list[int], seed: int = 3) -> dict[int, str]:
        monkeypatch.setenv("SCORE_STORE", str(tmp_path / f"{size}{order}{seed}"))  # generated again each time
        captioner = Captioner(str(captioner_folder), "", 8, temperature, seed, size, on_gpu=False)
        texts, failures = captioner.caption([paths[i] for i in order], [keys[i] for i in order])
        assert not any(failures)
        return dict(zip(order, texts, strict=True))

    forwards = captions(4, [0, 1, 2, 3, 4, 5, 6])
    assert captions(4, [6, 3, 5, 0, 2, 1, 4]) == forwards
    assert captions(1, [2, 4]) == {row: forwards[row] for row in (2, 4)}
    assert (captions(4, [0, 1, 2, 3, 4, 5, 6], seed=4) == forwards) == (temperature == 0.0)


def test_gumbel_noise_samples_from_the_softmax():
    from solution.operators.common.captioner import GumbelNoise

    scores = torch.tensor([[2.0, 1.0, 0.0]]).repeat(4000, 1)
    sampled = GumbelNoise([str(row) for row in range(4000)], 0, 0.5)(torch.zeros(4000, 1), scores).argmax(dim=1)
    expected = torch.softmax(scores[0] / 0.5, dim=0)
    found = torch.bincount(sampled, minlength=3) / 4000
    torch.testing.assert_close(found, expected, atol=0.03, rtol=0)


@pytest.mark.parametrize("token", ["<__dj__image>", "<image>"])
def test_caption_statistics_ignore_the_special_tokens(rows, token):
    data = rows(["one two three", "犬 と 猫", "one"]).map(
        lambda row: {"text": [text.replace("<__dj__image>", token) for text in row["text"]]}, batched=True
    )
    words = build("caption_words_filter", min_num=2, max_num=3).run(data, reduce=False)
    assert [stats["caption_words"] for stats in words[STATS]] == [3, 3, 1]
    assert captions_of(build("caption_latin_filter", min_ratio=0.5).run(data))[-1].endswith("one")
    latin = build("caption_latin_filter").run(data, reduce=False)
    assert [stats["caption_latin_ratio"] for stats in latin[STATS]] == [1.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("dirty", "clean"),
    [
        ("a red dog", "a red dog"),
        ("  a  red\tdog ", "a red dog"),
        ("a red dog | stock photo", "a red dog"),
        ("<b>a red dog</b> www.shop.example/x?y=1", "a red dog"),
        ("a red dog &amp; a cat, royalty-free images", "a red dog & a cat"),
        ("IMG_2041.jpg", ""),
        ("a photo of the 20 dogs", "a photo of the 20 dogs"),
        ("ａ dog", "a dog"),
        ("a golf course stock photo © jane _ doe", "a golf course"),
        ("a red dog - stock photo - images", "a red dog"),
        ("four flags — stock photo 667350", "four flags"),
        ("the new boots™ on ice", "the new boots on ice"),
    ],
)
def test_cleanup(rows, dirty, clean):
    result = build("caption_cleanup_mapper").run(rows([dirty]))
    assert result["text"] == [TEXT.format(clean)]
    assert result["__failure__"] == [""]


def test_cleanup_takes_further_patterns(rows):
    assert captions_of(build("caption_cleanup_mapper", remove=[r"by \w+"]).run(rows(["a dog by Ann"]))) == ["a dog"]


def test_caption_copies(rows):
    data = rows(["A red dog.", "a cat", "a  red dog", "a red dog!", "a cat on a mat"])
    operator = build("caption_deduplicator", max_copies=2)
    assert operator.run(data)["id"] == ["000", "001", "002", "004"]
    assert operator.dropped_because == {3: "repeats a caption: a red dog"}


def test_near_captions_equal_a_plain_search(rows):
    words = ["red", "dog", "cat", "blue", "car", "tree", "house"]
    random = np.random.default_rng(0)
    captions = [" ".join(random.choice(words, size=random.integers(1, 7))) for _ in range(120)]
    data = rows(captions)
    for overlap in (0.5, 0.67, 0.8):
        kept, leaders = [], []
        for row, caption in enumerate(captions):
            own = set(caption.split())
            if not any(len(own & other) / len(own | other) >= overlap for other in leaders):
                leaders.append(own)
                kept.append(row)
        found = build("caption_deduplicator", min_overlap=overlap).run(data)
        assert [int(name) for name in found["id"]] == kept
        assert len(kept) < len(captions)


def test_image_copies_equal_a_plain_search(rows):
    from solution.operators.picture_deduplicator import perceptual_hash

    data = rows([f"image {number}" for number in range(12)])
    files = [images[0] for images in data["images"]]
    Image.open(files[0]).resize((96, 80)).save(files[5], quality=60)  # rescaled and recompressed
    Image.open(files[3]).convert("L").convert("RGB").save(files[9])  # without colour
    bits = [np.unpackbits(np.frombuffer(bytes.fromhex(perceptual_hash(Image.open(file))), np.uint8)) for file in files]
    for distance in (0, 10, 40):
        kept = []
        for row in range(12):
            if all((bits[row] != bits[other]).sum() > distance for other in kept):
                kept.append(row)
        operator = build("picture_deduplicator", max_distance=distance)
        assert [int(name) for name in operator.run(data)["id"]] == kept
    assert kept == [0, 1, 2, 3, 4, 6, 7, 8, 10, 11]
    assert operator.dropped_because == {5: "repeats an image: that of 000", 9: "repeats an image: that of 003"}


def test_unrelated_images_differ_in_about_half_of_the_bits():
    from solution.operators.picture_deduplicator import perceptual_hash

    bits = [
        np.unpackbits(np.frombuffer(bytes.fromhex(perceptual_hash(sample_image(number))), np.uint8))
        for number in range(30)
    ]
    distances = [(bits[one] != bits[other]).sum() for one in range(30) for other in range(one)]
    assert 110 < np.mean(distances) < 146
    assert min(distances) > 40


def test_sharpness_equals_a_plain_loop_and_falls_with_blur():
    from PIL import ImageFilter

    from solution.operators.picture_sharpness_filter import sharpness

    sharp = sample_image(1)
    grey = np.asarray(sharp.convert("L"), dtype=float)
    values = [
        grey[y - 1, x] + grey[y + 1, x] + grey[y, x - 1] + grey[y, x + 1] - 4 * grey[y, x]
        for y in range(1, grey.shape[0] - 1)
        for x in range(1, grey.shape[1] - 1)
    ]
    assert sharpness(sharp) == pytest.approx(np.var(values), rel=1e-4)
    assert sharpness(sharp.filter(ImageFilter.GaussianBlur(2))) < 0.2 * sharpness(sharp)


def scored(rows, scores):
    return rows([f"row {number}" for number in range(len(scores))]).add_column(
        STATS, [{"clip_similarity": s} for s in scores]
    )


def test_fill_copies_the_best_first(rows):
    result = build("fill_to_cap_selector", cap=8, max_copies=3).run(scored(rows, [0.1, 0.3, 0.2]))
    assert result["id"] == ["000", "001", "002", "001", "002", "000", "001", "002"]
    assert result["copy_index"] == [None, None, None, 1, 1, 1, 2, 2]


def test_fill_keeps_to_max_copies(rows):
    result = build("fill_to_cap_selector", cap=100, max_copies=3).run(scored(rows, [0.1, 0.3]))
    assert Counter(result["id"]) == {"000": 3, "001": 3}


def test_fill_selects_the_best(rows):
    operator = build("fill_to_cap_selector", cap=2)
    assert operator.run(scored(rows, [0.1, 0.3, 0.2]))["id"] == ["001", "002"]
    assert set(operator.dropped_because) == {0}


@pytest.mark.parametrize("scores", [[0.1, math.nan], None])
def test_fill_without_scores_says_so(rows, scores):
    with pytest.raises(ValueError, match="no score 'clip_similarity'"):
        build("fill_to_cap_selector", cap=2).run(scored(rows, scores) if scores else rows(["a", "b"]))


def test_two_processes_give_the_same_rows(rows, clip_folder):
    data = rows(CAPTIONS * 4)
    name, parameters = "clip_similarity_filter", {"hf_clip": str(clip_folder), "min_score": 0.0}
    alone = build(name, **parameters).run(data)
    both = OPERATORS.modules[name](auto_op_parallelism=False, num_proc=2, **parameters).run(data)
    assert both["id"] == alone["id"]
    np.testing.assert_allclose(
        [stats["clip_similarity"] for stats in both[STATS]],
        [stats["clip_similarity"] for stats in alone[STATS]],
        atol=1e-6,
    )


def test_the_readme_operator_works(rows):
    """The ten lines that the readme shows are a whole operator."""
    readme = (ROOT / "solution" / "readme.md").read_text()
    block = readme.split("custom_operator_paths`):\n")[1].split("Call thresholds")[0]
    example = {"__name__": "solution.operators.caption_commas_filter", "__package__": "solution.operators"}
    exec(compile(textwrap.dedent(block), "readme.md", "exec"), example)
    data = rows(["a, b", "a, b, c, d, e", "a"])
    assert build("caption_commas_filter", max_num=3).run(data)["id"] == ["000", "002"]
