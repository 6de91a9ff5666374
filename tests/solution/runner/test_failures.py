"""Operators that raise anything anywhere and return anything: it costs the row, or ends the run in one line."""

import errno
import logging
import shutil
import sys

import pytest
import torch
from datasets import disable_caching, enable_caching

from solution.operators.common.faults import IMAGE_ROOT, SetupFault, machine_fault
from solution.operators.common.loader import load_model
from solution.operators.common.rows import ROW
from solution.runner.audit import Ledger, RowAudit, funnel
from solution.runner.data_juicer import (
    OPERATORS,
    STATS,
    Deduplicator,
    Filter,
    Mapper,
    NestedDataset,
    Selector,
    model_utils,
)
from solution.runner.errors import UserError
from solution.runner.pipeline import build_operators, run_operator
from solution.runner.tables import open_rows, tables_of, write_tables
from solution.terminal import visible

TEXT = "<__dj__image>\n{} <|__dj__eoc|>"
ROWS = 8
BAD = 4  # the row that the operators below stumble over


class Lost(Exception):
    """As many libraries have it: cannot be rebuilt in the process that waits for a worker."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(f"{text}\nand more")


def fail() -> None:
    raise Lost("gone", 3)


def is_bad(sample: dict) -> bool:
    return f"row {BAD} " in sample["text"]


def register(name: str, kind: type, methods: dict) -> str:
    operator = type(name, (kind,), methods | {"_name": name, "__module__": __name__})
    OPERATORS.modules[name] = globals()[name] = operator  # workers find it here
    return name


def mapper(name: str, change) -> str:
    """Register a mapper that does ``change(sample)`` with the bad row."""

    def process_single(self, sample):
        if is_bad(sample):
            change(sample)
        return sample

    return register(name, Mapper, {"process_single": process_single})


def filter_of(name: str, score, decide) -> str:
    """Register a filter."""

    def compute_stats_single(self, sample, context=False):
        score(sample)
        return sample

    methods = {"compute_stats_single": compute_stats_single, "process_single": lambda self, sample: decide(sample)}
    return register(name, Filter, methods)


def give(sample: dict, value) -> None:
    sample[STATS]["quality"] = value


ROW_FAULTS = {
    mapper("odd_raising_mapper", lambda sample: fail()): "Lost: gone",
    mapper("odd_leaving_mapper", lambda sample: sys.exit(0)): "SystemExit: 0",
    mapper("odd_textless_mapper", lambda sample: sample.update(text=None)): "returned text: None, expected text",
    mapper("odd_imageless_mapper", lambda sample: sample.update(images=None)): "returned images: None, expected a list",
    mapper("odd_nameless_mapper", lambda sample: sample.update(id=None)): "returned id: None, expected text",
    mapper("odd_number_mapper", lambda sample: sample.update(text=3)): "image tokens",
    mapper("odd_large_mapper", lambda sample: sample.update(count=2**64)): "OverflowError",
    filter_of("odd_score_filter", lambda sample: fail() if is_bad(sample) else give(sample, 1), bool): "Lost: gone",
    filter_of(
        "odd_nan_filter",
        lambda sample: give(sample, float("nan") if is_bad(sample) else 1.0),
        lambda sample: sample[STATS]["quality"] >= 0.5,
    ): "quality is not a number",
    filter_of(
        "odd_nans_filter",
        lambda sample: give(sample, [1.0, float("nan") if is_bad(sample) else 1.0]),
        lambda sample: min(sample[STATS]["quality"]) >= 0.5,
    ): "quality is not a number",
    filter_of(
        "odd_missing_filter",
        lambda sample: None if is_bad(sample) else give(sample, 1.0),
        lambda sample: sample[STATS]["quality"] >= 0.5,
    ): "KeyError: 'quality'",
    filter_of(
        "odd_decision_filter",
        lambda sample: give(sample, 1.0),
        lambda sample: fail() if is_bad(sample) else True,
    ): "Lost: gone",
}


@OPERATORS.register_module("odd_hash_deduplicator")
class OddHashDeduplicator(Deduplicator):
    def compute_hash(self, sample):
        return fail() if is_bad(sample) else sample

    def process(self, dataset, show_num=0):
        return dataset, {}


ROW_FAULTS["odd_hash_deduplicator"] = "Lost: gone"


@OPERATORS.register_module("odd_deduplicator")
class OddDeduplicator(OddHashDeduplicator):
    def compute_hash(self, sample):
        return sample

    def process(self, dataset, show_num=0):
        fail()


@OPERATORS.register_module("odd_selector")
class OddSelector(Selector):
    def process(self, dataset):
        fail()


@OPERATORS.register_module("odd_list_selector")
class OddListSelector(Selector):
    def process(self, dataset):
        return [dataset[0]]


@OPERATORS.register_module("odd_column_selector")
class OddColumnSelector(Selector):
    def process(self, dataset):
        return dataset.remove_columns("images")


@OPERATORS.register_module("odd_batch_mapper")
class OddBatchMapper(Mapper):
    _batched_op = True

    def process_batched(self, samples):
        fail()


@OPERATORS.register_module("odd_mute_mapper")
class OddMuteMapper(Mapper):
    """As text_pair_similarity_filter without its second key: says what it lacks, and passes the row."""

    def __init__(self, only_bad: bool = False, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.only_bad = only_bad

    def process_single(self, sample):
        if is_bad(sample) or not self.only_bad:
            logging.getLogger(__name__).error("needs\n  `second_key`")
        return sample


@OPERATORS.register_module("odd_constructor_filter")
class OddConstructorFilter(Filter):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        fail()


@OPERATORS.register_module("odd_disk_mapper")
class OddDiskMapper(Mapper):
    def process_single(self, sample):
        try:
            raise OSError(28, "No space left on device")
        except OSError as error:
            raise ValueError("cannot save") from error


@pytest.fixture
def ledger() -> Ledger:
    ledger = Ledger("skip")
    texts = [TEXT.format(f"row {row} here") for row in range(1, ROWS + 1)]
    ledger.add(RowAudit(f"id{row}", row, None, text, text, f"{row}.jpg") for row, text in enumerate(texts, start=1))
    return ledger


@pytest.fixture
def data(ledger, tmp_path) -> NestedDataset:
    """The ledger's rows in a file, as a run has them: worker processes read it."""
    rows = [
        {"id": f"id{row}", "text": ledger.find(row).text_before, "images": [f"/seed/{row}.jpg"], ROW: row}
        for row in range(1, ROWS + 1)
    ]
    write_tables(tmp_path / "rows.arrow", tables_of(NestedDataset.from_list(rows)))
    return open_rows(tmp_path / "rows.arrow")


def run(name: str, data: NestedDataset, ledger: Ledger, processes: int = 1, **parameters) -> NestedDataset:
    (operator,) = build_operators([{name: parameters}], processes, "/nowhere")
    return run_operator(operator, data, ledger)


@pytest.mark.parametrize("name", ROW_FAULTS)
def test_a_fault_at_one_row_costs_that_row(name, data, ledger):
    result = run(name, data, ledger)
    assert result[ROW][:] == [row for row in range(1, ROWS + 1) if row != BAD]
    assert [failure["row"] for failure in ledger.failures()] == [BAD]
    assert ROW_FAULTS[name] in ledger.find(BAD).reason
    assert "\n" not in ledger.find(BAD).reason
    assert ledger.totals() == {"in": ROWS, "created": 0, "kept": ROWS - 1, "dropped": 0, "failed": 1}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["odd_raising_mapper", "odd_leaving_mapper", "odd_decision_filter"])
def test_two_processes_fail_the_same_row(name, data, ledger, request):
    """An exception that cannot be rebuilt would leave the pool waiting for ever."""
    disable_caching()  # as a run has it
    request.addfinalizer(enable_caching)
    assert run(name, data, ledger, processes=2)[ROW][:] == [row for row in range(1, ROWS + 1) if row != BAD]
    assert ROW_FAULTS[name] in ledger.find(BAD).reason


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("odd_deduplicator", "operator odd_deduplicator: Lost: gone"),
        ("odd_selector", "operator odd_selector: Lost: gone"),
        ("odd_list_selector", "operator odd_list_selector returned list, expected a data set"),
        ("odd_column_selector", "operator odd_column_selector removed the key 'images' from its rows"),
        (
            "odd_batch_mapper",
            "operator odd_batch_mapper fails for every row: Lost: gone (8 of the first 8 rows, the last line 8 "
            "(id id8, 8.jpg))",
        ),
        ("odd_mute_mapper", "operator odd_mute_mapper only logs an error for every row: needs `second_key`"),
        ("odd_constructor_filter", "operator 1 (odd_constructor_filter) cannot be set up: Lost: gone"),
        (
            "odd_disk_mapper",
            "operator odd_disk_mapper cannot work: OSError: [Errno 28] No space left on device; the steps before it "
            "are saved, the same command resumes with it",
        ),
    ],
)
def test_a_fault_of_no_row_is_one_line(name, message, data, ledger):
    with pytest.raises(UserError) as error:
        run(name, data, ledger)
    assert str(error.value) == message


def test_errors_that_are_only_logged_are_told(data, ledger):
    assert len(run("odd_mute_mapper", data, ledger, only_bad=True)) == ROWS
    assert ledger.steps[-1].remark == "logged 1 errors, the first: needs `second_key`"


def test_the_commonest_reasons_of_failures_are_told_of_all_images_alike(ledger):
    """Where the first ten failed rows do not show it; a reason that only one row has keeps its image and numbers."""
    ledger.begin("odd_mapper", ROWS)
    ledger.add(RowAudit(f"id{row}", row, None, "", "", f"a {row}/{row}.jpg") for row in range(ROWS + 1, 20))
    faults = ["is missing", "is cut off ({} bytes not read)", "is odd"]
    for row in range(ROWS + 1, 20):
        fault = faults[0 if row % 4 else 1] if row < 19 else faults[2]
        ledger.fail(row, f"image /seed 1k/a {row}/{row}.jpg {fault.format(row)}")
    ledger.steps[-1].rows_in = 19
    counts = [sum(bool(row % 4) for row in range(ROWS + 1, 19)), sum(not row % 4 for row in range(ROWS + 1, 19)), 1]
    assert [line for line in funnel(ledger).splitlines() if f" of {sum(counts)} in odd_mapper: " in line] == [
        f"  failed {counts[0]} of {sum(counts)} in odd_mapper: image /seed 1k/... is missing",
        f"  failed {counts[1]} of {sum(counts)} in odd_mapper: image /seed 1k/... is cut off (N bytes not read)",
        f"  failed 1 of {sum(counts)} in odd_mapper: image /seed 1k/a 19/19.jpg is odd",
    ]


def test_a_model_that_cannot_be_loaded_is_tried_once(data, ledger):
    tried = []

    def load(**options):
        tried.append(options)
        raise OSError("Error no file named model.safetensors")

    @OPERATORS.register_module("odd_model_filter")
    class OddModelFilter(Filter):
        def compute_stats_single(self, sample, context=False):
            model_utils.get_model(model_utils.partial(load, pretrained_model_name_or_path="clip-x"))

    with pytest.raises(UserError, match=r"its model clip-x cannot be loaded: OSError: Error no file named"):
        run("odd_model_filter", data, ledger)
    assert len(tried) == 1
    assert ledger.failures() == []


def test_keys_of_several_types_in_one_column(data, ledger):
    """Around a bad row the parts are run alone, and a key that an operator adds may have another type in each."""

    def add(sample):
        sample["extra"] = 1 if sample["id"] < "id4" else 0.5

    name = mapper("odd_types_mapper", lambda sample: fail())
    process = OPERATORS.modules[name].process_single
    OPERATORS.modules[name].process_single = lambda self, sample: add(sample) or process(self, sample)
    assert run(name, data, ledger)["extra"][:] == [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5]


@pytest.mark.parametrize("name", ["picture_sharpness_filter", "clip_similarity_filter", "image_shape_filter"])
def test_a_vanished_image_folder_fails_no_row(name, data, ledger, tmp_path, monkeypatch, clip_folder):
    """Ours and Data-Juicer's; a missing file alone is its row's fault."""
    parameters = {"hf_clip": str(clip_folder)} if name.startswith("clip") else {}
    monkeypatch.setenv(IMAGE_ROOT, str(tmp_path / "gone"))
    with pytest.raises(
        UserError, match=rf"{name} cannot work: the image folder .*gone is not there; the steps before it"
    ):
        run(name, data, ledger, **parameters)
    assert not ledger.failures()


def test_a_damaged_model_of_ours_is_no_rows_fault(tmp_path, clip_folder):
    shutil.copytree(clip_folder, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"cut short")
    with pytest.raises(SetupFault, match=r"its model .*model cannot be loaded: "):
        load_model(str(tmp_path / "model"), "cpu", torch.float32)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EIO, "Input/output error"),
        OSError(errno.EMFILE, "Too many open files"), MemoryError(), torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("CUDA error: unspecified launch failure"),
    ],
    ids=lambda error: str(error)[:24],
)  # fmt: skip
def test_a_fault_of_the_machine_fails_no_row(error, data, ledger):
    """It comes at one row, but is not that row's."""

    def stop(sample):
        raise error

    with pytest.raises(UserError, match=r"odd_machine_mapper cannot work: .*; the steps before it are saved"):
        run(mapper("odd_machine_mapper", stop), data, ledger)
    assert not ledger.failures()


def test_faults_of_the_machine_are_told_from_faults_of_rows():
    assert "No space" in machine_fault(OSError(28, "No space left on device"))
    assert "CUDA error" in machine_fault(RuntimeError("CUDA error: an illegal memory access was encountered"))
    assert machine_fault(MemoryError()) == "MemoryError"
    assert machine_fault(FileNotFoundError(2, "no such file")) == ""
    assert machine_fault(ValueError("out of memory, says a caption")) == ""


def test_messages_hold_no_control_characters():
    assert str(UserError("id \x1b[31mred\u202e\nx")) == "id \\x1b[31mred\\u202e\\nx"
    assert visible("a\nb\x07", kept="\n") == "a\nb\\x07"
