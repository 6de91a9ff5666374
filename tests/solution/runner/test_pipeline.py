"""Stock operators that raise, multiply rows or damage texts: the ledger has each row."""

import pytest
from datasets import disable_caching, enable_caching

from solution.operators.common import rows
from solution.operators.common.rows import FAILURE, ROW
from solution.runner import pipeline, tables
from solution.runner.audit import Ledger, RowAudit, funnel
from solution.runner.data_juicer import OPERATORS, STATS, Filter, Mapper, NestedDataset
from solution.runner.errors import UserError
from solution.runner.pipeline import build_operators, run_operator
from solution.runner.tables import open_rows, tables_of, write_tables

TEXT = "<__dj__image>\n{} <|__dj__eoc|>"


@OPERATORS.register_module("trial_raising_mapper")
class RaisingMapper(Mapper):
    """A stock-like batched mapper: one bad row raises for its whole batch."""

    _batched_op = True

    def process_batched(self, samples):
        for text in samples["text"]:
            if "bad" in text:
                raise KeyError("cannot do this")
        samples["text"] = [text.replace("row", "line") for text in samples["text"]]
        return samples


@OPERATORS.register_module("trial_doubling_mapper")
class DoublingMapper(Mapper):
    """As Data-Juicer's captioning mapper: originals, then rows with other captions."""

    _batched_op = True

    def process_batched(self, samples):
        doubled = {key: [*values, *values] for key, values in samples.items()}
        half = len(samples["text"])
        doubled["text"] = [
            text if index < half else text.replace("row", "new") for index, text in enumerate(doubled["text"])
        ]
        return doubled


@OPERATORS.register_module("trial_token_eater_mapper")
class TokenEaterMapper(Mapper):
    """Damages one row's token."""

    def process_single(self, sample):
        sample["text"] = sample["text"].replace("<__dj__image>\nrow 1 ", "row 1 ")
        return sample


@OPERATORS.register_module("trial_hopeless_filter")
class HopelessFilter(Filter):
    """Fails for every row."""

    _batched_op = True

    def compute_stats_batched(self, samples):
        raise RuntimeError("model is broken")


@OPERATORS.register_module("trial_wordy_filter")
class WordyFilter(Filter):
    """Takes single rows, looks at more than their scores when it decides, and marks a row as failed."""

    def compute_stats_single(self, sample):
        if "worse" in sample["text"]:
            raise ValueError("cannot be read at all")
        sample[STATS]["length"] = len(sample["text"])
        return sample | {FAILURE: "cannot be read" if "bad" in sample["text"] else ""}

    def process_single(self, sample):
        return "row" in sample["text"]


@pytest.fixture(autouse=True, params=[10_000, 3], ids=["one part", "parts of three"])
def part(request, monkeypatch):
    """Every test runs with all rows in one part and with a few rows at a time: the outcome is the same."""
    for module in (pipeline, rows, tables):
        monkeypatch.setattr(module, "PART", request.param)


@pytest.fixture
def start():
    """start(captions) -> a ledger and the data set it speaks of."""

    def make(captions: list[str], on_error: str = "skip") -> tuple[Ledger, NestedDataset]:
        ledger = Ledger(on_error)
        lines = []
        for row, caption in enumerate(captions, start=1):
            text = TEXT.format(caption)
            ledger.add([RowAudit(f"id{row}", row, None, text, text, f"images/{row}.jpg")])
            lines.append({"id": f"id{row}", "text": text, "images": [f"/seed/images/{row}.jpg"], ROW: row})
        return ledger, NestedDataset.from_list(lines)

    return make


def run(name: str, dataset, ledger, **parameters):
    (operator,) = build_operators([{name: parameters}], 1, "/nowhere")
    return run_operator(operator, dataset, ledger)


def test_a_raising_operator_costs_the_bad_rows_only(start):
    ledger, data = start([f"row {n}" if n not in (3, 11) else "bad" for n in range(20)])
    result = run("trial_raising_mapper", data, ledger)
    assert result[ROW] == [row for row in range(1, 21) if row not in (4, 12)]
    assert all("line" in text for text in result["text"])
    assert [failure["row"] for failure in ledger.failures()] == [4, 12]
    assert "cannot do this" in ledger.find(4).reason
    assert ledger.totals() == {"in": 20, "created": 0, "kept": 18, "dropped": 0, "failed": 2}


def test_an_operator_that_would_skip_its_errors_fails_its_rows_all_the_same(start):
    ledger, data = start(["row", "bad", "row"])
    run("trial_raising_mapper", data, ledger, skip_op_error=True)
    assert [failure["row"] for failure in ledger.failures()] == [2]


def test_stop_names_the_row(start):
    ledger, data = start(["row", "bad", "row"], on_error="stop")
    with pytest.raises(UserError, match=r"line 2 \(id id2, images/2.jpg\)"):
        run("trial_raising_mapper", data, ledger)


def test_ctrl_c_is_no_fault_of_a_row(start):
    """Its clean-up after Ctrl-C lets `datasets` raise TimeoutError: the run ends, no row fails."""
    ledger, data = start(["row"] * 3)

    def interrupted(part, **options):
        try:
            raise KeyboardInterrupt
        finally:
            raise TimeoutError

    (operator,) = build_operators([{"trial_raising_mapper": {}}], 1, "/nowhere")
    with pytest.raises(TimeoutError):
        run_operator(operator, data, ledger, interrupted)
    assert not ledger.failures()


def test_an_operator_that_fails_for_all_rows_is_named(start):
    ledger, data = start(["row"] * 100)
    with pytest.raises(UserError, match=r"trial_hopeless_filter fails for every row: RuntimeError: model is broken"):
        run("trial_hopeless_filter", data, ledger)


def test_created_rows_name_their_parents(start):
    ledger, data = start(["row 1", "row 2"])
    result = run("trial_doubling_mapper", data, ledger)
    assert result[ROW] == [1, 2, 3, 4]
    assert [(audit.parent, audit.id) for audit in map(ledger.find, range(1, 5))] == [
        (None, "id1"),
        (None, "id2"),
        (1, "id1"),
        (2, "id2"),
    ]
    assert ledger.find(4).text_after == TEXT.format("new 2")
    assert ledger.totals() == {"in": 2, "created": 2, "kept": 4, "dropped": 0, "failed": 0}


def test_a_lost_image_token_fails_the_row(start):
    ledger, data = start(["row 1", "row 2"])
    assert run("trial_token_eater_mapper", data, ledger)[ROW] == [2]
    assert "image tokens" in ledger.find(1).reason


def test_stock_filters_say_which_threshold_dropped_a_row(start):
    ledger, data = start(["a b c", "a b c d e f", "a"])
    result = run("words_num_filter", data, ledger, min_num=4, max_num=7)
    gone = [audit for audit in map(ledger.find, (1, 2, 3)) if audit.state == "dropped"]
    assert len(result) + len(gone) == 3
    for audit in gone:
        assert audit.operator == "words_num_filter"
        assert audit.score is not None
        assert ("below min_num 4" in audit.reason) == (audit.threshold == 4.0)


def test_scores_of_old_captions_are_not_used_again(start):
    """Data-Juicer skips a statistic that is already there, even where a mapper changed the caption in between."""
    ledger, data = start(["bad words here", "row"])
    data = run("caption_words_filter", data, ledger, min_num=1)
    data = run("replace_content_mapper", data, ledger, pattern="bad words here", repl="short")
    data = run("caption_words_filter", data, ledger, min_num=1)
    assert ledger.find(1).score == 1.0
    assert [step.name for step in ledger.steps] == [
        "caption_words_filter",
        "replace_content_mapper",
        "caption_words_filter.2",
    ]


def test_scores_of_several_filters_stand_side_by_side(start):
    ledger, data = start([f"row {n}" + " and more" * (n % 3) for n in range(8)])
    data = run("caption_words_filter", data, ledger, min_num=3)
    data = run("text_length_filter", data, ledger, min_len=1)
    data = run("caption_words_filter", data, ledger, min_num=5)
    assert data[ROW] == [3, 6]
    assert data[STATS][:] == [{"caption_words": 6, "text_len": len(text)} for text in data["text"][:]]
    assert sum(ledger.steps[0].scores[0]["kept"]) == 5
    assert sum(ledger.steps[0].scores[0]["dropped"]) == 3


def test_filters_of_single_rows_are_called_with_many(start):
    ledger, data = start(["row", "bad row", "other", "row again"])
    assert run("trial_wordy_filter", data, ledger)[ROW] == [1, 4]
    assert [ledger.find(row).state for row in range(1, 5)] == ["kept", "failed", "dropped", "kept"]
    assert ledger.find(3).score == len(TEXT.format("other"))


@pytest.mark.slow
def test_bad_rows_cost_two_processes_no_more_than_one(start, tmp_path, request):
    """The halves around a bad row lie in files of their own, which the other process has to find."""
    ledger, data = start(["row", "worse row", "row 3", "bad row", "other", "worse", "row 7"])
    write_tables(tmp_path / "rows.arrow", tables_of(data))
    disable_caching()  # as a run has it
    request.addfinalizer(enable_caching)
    data = run("trial_wordy_filter", open_rows(tmp_path / "rows.arrow"), ledger, num_proc=2)
    assert data[ROW] == [1, 3, 7]
    assert [failure["row"] for failure in ledger.failures()] == [2, 4, 6]


def test_a_vanished_row_is_noticed(start):
    ledger, data = start(["row 1", "row 2"])
    run("caption_words_filter", data, ledger, min_num=1)
    ledger.drop([(1, "recorded twice", None, None)])
    ledger.drop([(1, "recorded twice", None, None)])
    with pytest.raises(RuntimeError, match="rows went missing"):
        funnel(ledger)


def test_a_deduplicator_may_change_texts(start):
    """Lines that many rows share are removed: a changed caption is counted, a lost image token fails its row."""
    ledger, data = start(["row 1\na shared line", "row 2\na shared line", "row 3"])
    data = data.map(lambda row: {"text": row["text"].replace("image>\n", "image> ")})
    result = run("document_line_deduplicator", data, ledger, frequency_threshold=1)
    assert result[ROW][:] == [1, 2, 3]
    assert ledger.steps[-1].rewritten == 2
    assert "a shared line" not in ledger.find(1).text_after
    ledger, data = start(["row 1", "row 2", "row 3"])
    result = run("document_line_deduplicator", data, ledger, frequency_threshold=1)
    assert len(result) == 0
    assert "image tokens" in ledger.find(1).reason


def test_an_operators_own_text_key(start):
    """A mapper on another key rewrites no caption; a filter on it scores that key."""
    ledger, data = start(["row 1", "row 2"])
    data = data.add_column("title", ["A Title", "Another Title"])
    data = run("replace_content_mapper", data, ledger, text_key="title", pattern="Title", repl="head")
    assert data["title"][:] == ["A head", "Another head"]
    assert ledger.steps[-1].rewritten == 0
    assert run("text_length_filter", data, ledger, text_key="title", min_len=8)[ROW][:] == [2]
    assert ledger.find(1).score == len("A head")
