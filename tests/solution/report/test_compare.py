"""Two runs side by side: what one keeps of the seed and the other does not, with the other one's reasons."""

import re

import pytest

from solution.report.compare import write_comparison
from solution.runner.audit import Ledger, RowAudit
from solution.runner.errors import UserError
from tests.solution.conftest import TEXT, sample_image
from tests.solution.report.test_report import about


@pytest.fixture
def run(tmp_path):
    """run(name, dropped, failed, ids, changed) writes the audit of a run over six rows; row 6 becomes another row."""
    (tmp_path / "seed").mkdir()
    for row in range(1, 7):
        sample_image(row).save(tmp_path / "seed" / f"{row}.jpg")

    def write(name, dropped, failed=(), ids="abcdef", changed=""):
        ledger = Ledger("skip")
        ledger.begin("read", 6)
        for row, identifier in enumerate(ids, start=1):
            text = TEXT.format(f"caption {identifier}")
            ledger.add([RowAudit(identifier, row, None, text, text, f"{row}.jpg")])
        ledger.begin("caption_writer_mapper", 6)
        ledger.create([6], [TEXT.format("a new caption")])
        ledger.rewrite([(row, TEXT.format(changed)) for row in (1,) if changed])
        ledger.drop([(6, "removed by the operator", None, None)])
        for row in failed:
            ledger.fail(row, "cannot be judged")
        ledger.begin("words_filter", 6)
        ledger.drop([(row, f"words below min_num 3: {row}", row, 3.0) for row in dropped])
        path = tmp_path / f"{name}.parquet"
        ledger.write(path, **about(tmp_path, f"process: []  # {name}"))
        return path

    return write


def tiles_of(text: str) -> dict[str, str]:
    section = text.split('<section id="compared">')[1].split("</section>")[0]
    return {name: count for count, name in re.findall(r"<b>(.*?)</b><span>(.*?)</span>", section)}


def test_what_only_one_run_keeps_is_shown_with_the_other_ones_reason(run, tmp_path):
    audits = [run("mild", [1]), run("strict", [1, 2, 3], failed=[4])]
    assert write_comparison(audits, ["mild", "strict"], None, tmp_path / "page.html") == 0
    text = (tmp_path / "page.html").read_text()
    assert tiles_of(text) == {
        "rows in both seeds": "6", "kept by both": "2", "only by mild": "3", "only by strict": "0", "by neither": "1",
    }  # fmt: skip
    only = text.split("<h2>Only mild keeps</h2>")[1].split("</section>")[0]
    assert only.index("<h3>strict: words_filter</h3>") < only.index("<h3>strict: caption_writer_mapper</h3>")
    assert re.findall(r"<small>(.*?)</small>", only) == [
        "id b · words below min_num 3: 2", "id c · words below min_num 3: 3", "id d · cannot be judged",
    ]  # fmt: skip
    assert only.count("data:image/jpeg;base64,") == 3
    assert "Only strict keeps" not in text
    assert "# mild" in text
    assert "# strict" in text


def test_captions_that_differ_are_shown(run, tmp_path):
    audits = [run("old", []), run("new", [], changed="a better one")]
    write_comparison(audits, ["old", "new"], None, tmp_path / "page.html")
    assert "<del>caption a</del><ins>a better one</ins>" in (tmp_path / "page.html").read_text()


def test_runs_over_seeds_in_another_order_are_told_by_id(run, tmp_path):
    audits = [run("one", []), run("two", [1], ids="fxydez")]
    write_comparison(audits, ["one", "two"], None, tmp_path / "page.html")
    tiles = tiles_of((tmp_path / "page.html").read_text())
    # d and e are kept by both; f is kept by the first as a created row, and dropped as the second's first line.
    assert (tiles["rows in both seeds"], tiles["kept by both"], tiles["only by one"]) == ("3", "2", "1")
    with pytest.raises(UserError, match="they have no row in common"):
        write_comparison([audits[0], run("three", [], ids="uvwxyz")], ["one", "three"], None, tmp_path / "page.html")
