"""A recipe's record: every try with how it ended, also of a run that was refused midway."""

import json

CAPTIONS = ["a red dog", "a cat", "two of them"]


def test_a_recipe_that_stops_midway_leaves_a_record(make_seed, make_recipe, run_process):
    seed = make_seed(CAPTIONS)
    recipe = make_recipe([{"caption_words_filter": {"min_num": 30}}])
    stopped = [run_process(recipe, seed) for _ in range(2)][-1]
    left = stopped.audit.parent / "trial.unfinished" / "attempts.json"
    tries = json.loads(left.read_text())
    assert f"error: {tries['error']}" == stopped.err.splitlines()[-1]
    assert [past["exit"] for past in tries["attempts"]] == [1, 1]
    done = run_process(make_recipe([{"caption_words_filter": {"min_num": 2}}]), seed)
    assert [past["exit"] for past in done.record["attempts"]] == [0]  # those before were of another recipe
    assert tries["inputs"]["dataset"] == done.record["inputs"]["dataset"]
    assert tries["versions"] == done.record["versions"]
    assert not left.parent.exists()


def test_a_recipe_that_is_refused_leaves_none(make_seed, make_recipe, run_process):
    refused = run_process(make_recipe([{"caption_words_filter": {"min_nm": 3}}]), make_seed(CAPTIONS))
    assert refused.code == 1
    assert not (refused.audit.parent / "trial.unfinished").exists()


def test_what_a_kill_after_the_record_left_goes(make_seed, make_recipe, run_process):
    recipe, seed = make_recipe([{"caption_cleanup_mapper": None}]), make_seed(CAPTIONS)
    done = run_process(recipe, seed)
    left = done.audit.parent / "trial.unfinished"
    for inputs, goes in ((done.record["inputs"], True), ({}, False)):  # the other one is of a changed recipe
        left.mkdir()
        (left / "attempts.json").write_text(json.dumps(done.record | {"inputs": inputs}))
        assert "already done" in run_process(recipe, seed).out
        assert left.exists() != goes
