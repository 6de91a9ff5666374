"""The recipe's text comes back with other thresholds and is otherwise what it was."""

import pytest
import yaml

from solution.analysis.template import filled, template_of
from solution.runner.recipe import load_recipe

SLOTS = [(1, "min_num"), (1, "max_num"), (2, "min_score"), (2, "max_score")]
TEXTS = {
    "blocks, with comments": (
        "# head\nprocess:\n  # why\n  - caption_words_filter:\n      # few\n      min_num: 3  # or 4\n"
        "      max_num: 24\n"
        "  - clip_similarity_filter:\n      hf_clip: openai/clip\n      min_score: 0.2\n"
    ),
    "flow": "process: [{caption_words_filter: {min_num: 3}}, {clip_similarity_filter: {}}]\n",
    "nothing given": "process:\n  - caption_words_filter\n  - clip_similarity_filter:\n",
    "null": "process:\n- caption_words_filter: null\n- clip_similarity_filter: ~ # none\n",
    "quotes": "process:\n  - \"caption_words_filter\": {\"min_num\": 3, 'max_num': 4}\n  - 'clip_similarity_filter'\n",
    "a plain list in flow": "process: [caption_words_filter, clip_similarity_filter]",
    "Windows": "process:\r\n  - caption_words_filter:\r\n      min_num: 3\r\n  - clip_similarity_filter:\r\n",
}
SHARED = {
    "anchors": (
        "base: &numbers {min_num: 3}\nprocess:\n  - caption_words_filter: *numbers\n  - clip_similarity_filter:\n"
        "      min_score: 0.1\n"
    ),
    "merge keys": "base: &b {min_num: 3}\nprocess:\n  - caption_words_filter: {<<: *b}\n  - clip_similarity_filter:\n",
}


def process_of(text: str) -> list[dict]:
    entries = [{entry: None} if isinstance(entry, str) else entry for entry in yaml.safe_load(text)["process"]]
    return [dict(params or {}) for entry in entries for params in entry.values()]


@pytest.mark.parametrize("name", [*TEXTS, *SHARED])
def test_only_the_chosen_thresholds_change(name, tmp_path):
    text = (TEXTS | SHARED)[name]
    file = tmp_path / "trial.yaml"
    file.write_bytes(text.encode())
    segments = template_of(load_recipe(file, None), SLOTS)
    before = process_of(filled(segments, {}))
    assert before == process_of(text)
    if name in TEXTS:
        assert filled(segments, {}) == file.read_text()
    for chosen in ({0: "5"}, {3: "0.75"}, {1: "9", 2: "0.5"}, {0: "1", 1: "2", 2: "0.3", 3: "0.4"}):
        wanted = [dict(params) for params in before]
        for slot, value in chosen.items():
            number, key = SLOTS[slot]
            wanted[number - 1][key] = yaml.safe_load(value)
        found = filled(segments, chosen)
        assert process_of(found) == wanted
        if name in TEXTS:
            assert found.count("#") == text.count("#")


def test_a_parameter_under_its_old_name_does_not_come_twice(tmp_path):
    file = tmp_path / "trial.yaml"
    file.write_text("process:\n  - image_nsfw_filter: {score_threshold: 0.3}\n")
    segments = template_of(load_recipe(file, None), [(1, "max_score")])
    assert process_of(filled(segments, {0: "0.6"})) == [{"max_score": 0.6}]
