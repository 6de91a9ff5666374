"""The report's page: what it shows, that nothing in the data can act in it, and that a browser loads it in silence."""

import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from solution.operators.common import reasons
from solution.report.compare import write_comparison
from solution.report.report import write_report
from solution.runner.audit import Ledger, RowAudit
from solution.runner.errors import UserError
from solution.runner.histogram import histogram
from solution.terminal import visible
from tests.solution.analysis.browser import Browser, chromium
from tests.solution.conftest import ROOT, TEXT, sample_image


@pytest.fixture
def audit(tmp_path) -> Path:
    """An audit with a row of each kind: dropped, recaptioned, cleaned, repeated, synthetic, failed, kept."""
    ledger = Ledger("skip")
    ledger.begin("read", 8)
    for row in range(1, 9):
        (tmp_path / "seed").mkdir(exist_ok=True)
        sample_image(row).save(tmp_path / "seed" / f"{row}.jpg")
        text = TEXT.format(f"caption <script>alert({row})</script>")
        ledger.add([RowAudit(f"id{row}", row, None, text, text, f"{row}.jpg")])
    ledger.fail(8, "image 8.jpg cannot be read")
    ledger.begin("picture_deduplicator", 7)
    ledger.drop([(2, reasons.repeats_image("id1"), None, None)])
    ledger.begin("conditional_recaption_mapper", 6)
    for row, new, old in ((3, 0.30, 0.29), (4, 0.35, 0.10)):
        ledger.rewrite([(row, TEXT.format(f"new caption {row}"))])
        ledger.note([(row, reasons.recaptioned(new, old))])
    ledger.rewrite([(5, TEXT.format("clean caption"))])
    (made,) = ledger.create([5], [TEXT.format("clean caption")])
    ledger.result([(made, TEXT.format("clean caption"), "synthetic_images/5.jpg", "synthetic")])
    (tmp_path / "out" / "synthetic_images").mkdir(parents=True)
    sample_image(50).save(tmp_path / "out" / "synthetic_images" / "5.jpg")
    ledger.begin("similarity_filter", 7)
    ledger.drop((row, f"similarity below min_score 0.2: {score}", score, 0.2) for row, score in ((6, 0.199), (7, 0.01)))
    ledger.steps[-1].scores = [
        histogram("similarity", [0.199, 0.01, 0.3, 0.4], [False, False, True, True], {"min_score": 0.2})
    ]
    path = tmp_path / "audit" / "trial.parquet"
    ledger.write(path, **about(tmp_path))
    return path


def about(folder: Path, recipe: str = "process: []  # <b>\n") -> dict:
    """What a run notes of itself in its audit."""
    return {
        "images": str(folder / "seed"), "output": str(folder / "out"), "dataset": ["seed.jsonl"], "limit": 7,
        "recipe": {"path": "trial.yaml", "text": recipe}, "versions": {"torch": "2.0"}, "date": "2026-01-02T03:04:05",
    }  # fmt: skip


def test_every_kind_of_row_is_shown(audit, tmp_path):
    write_report(audit, "trial", None, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    for words in ("Recaptioned", "Cleaned", "Synthetic pairs", "Repeated images", "Failed", "similarity_filter"):
        assert f"<h3>{words}</h3>" in text
    assert "<script" not in text
    assert "caption &lt;script&gt;" in text
    assert text.index("new caption 4") < text.index("new caption 3")  # the larger gain first
    assert text.index("0.2: 0.199") < text.index("0.2: 0.01")  # the one nearest to the threshold first
    synthetic = text.split("<h3>Synthetic pairs</h3>")[1].split("</figure>")[0]
    assert synthetic.count("data:image/jpeg;base64,") == 2  # next to its original
    assert text.count('class="missing"') == 0


def test_the_page_says_of_which_run_it_is(audit, tmp_path):
    write_report(audit, "trial", None, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    for words in ("process: []  # &lt;b&gt;", "seed.jsonl", "2026-01-02 03:04:05", "torch 2.0", "the first 7 rows"):
        assert words in text


def test_copies_among_the_kept_rows_are_counted(tmp_path):
    """1,200 kept rows may be 427 images: the page says so, and which pair is there how often."""
    (tmp_path / "seed").mkdir()
    ledger = Ledger("skip")
    ledger.begin("read", 3)
    for row in (1, 2, 3):
        sample_image(row).save(tmp_path / "seed" / f"{row}.jpg")
        ledger.add([RowAudit(f"id{row}", row, None, TEXT.format(row), TEXT.format(row), f"{row}.jpg")])
    ledger.begin("similarity_filter", 3)
    ledger.passed([(row, row / 10, 0.0) for row in (1, 2, 3)])
    ledger.begin("fill_to_cap_selector", 3)
    ledger.create([3, 3, 2], [TEXT.format(3), TEXT.format(3), TEXT.format("another caption")])
    ledger.write(tmp_path / "trial.parquet", **about(tmp_path))
    write_report(tmp_path / "trial.parquet", "trial", None, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    tiles = {name: count for count, name in re.findall(r"<b>(.*?)</b><span>(.*?)</span>", text)}
    assert (tiles["kept"], tiles["copies among the kept"], tiles["different images kept"]) == ("6", "2", "3")
    assert text.count("kept 3 times") == 2  # the pair is among the best and among the worst
    assert "kept 2 times" not in text


def test_the_page_does_not_depend_on_the_parts_of_the_audit(audit, tmp_path):
    pq.write_table(pq.read_table(audit), audit.with_name("parts.parquet"), row_group_size=2)
    for name in ("trial", "parts"):
        write_report(audit.with_name(f"{name}.parquet"), "trial", None, tmp_path / f"{name}.html")
    whole, parts = ((tmp_path / f"{name}.html").read_text() for name in ("trial", "parts"))
    assert parts.replace("parts", "trial") == whole.replace("parts", "trial")


def test_an_image_path_with_a_space_is_shown(tmp_path):
    ledger = Ledger("skip")
    ledger.begin("read", 2)
    for row, images in enumerate(("my dog.jpg", "one.jpg two.jpg"), start=1):
        ledger.add([RowAudit(f"id{row}", row, None, TEXT, TEXT, images)])
        ledger.fail(row, "cannot be judged")
    for name in ("my dog.jpg", "one.jpg"):
        sample_image(1).save(tmp_path / name)
    ledger.write(tmp_path / "trial.parquet", images=str(tmp_path), output=str(tmp_path))
    write_report(tmp_path / "trial.parquet", "trial", None, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count('class="missing"') == 0
    assert page.count("data:image/jpeg;base64,") == 2


def test_an_unreadable_image_is_no_obstacle(audit, tmp_path):
    (tmp_path / "seed" / "6.jpg").write_bytes(b"broken")
    assert write_report(audit, "trial", None, tmp_path / "page.html") == 0  # no other folder would help
    (tmp_path / "seed" / "6.jpg").unlink()
    assert write_report(audit, "trial", None, tmp_path / "page.html") == 1
    assert (tmp_path / "page.html").read_text().count('class="missing"') == 1


HOSTILE = [
    "</style></title><script>alert(1)</script>",
    '"><img src=x onerror="alert(1)">',
    "' onload='alert(1)' x='",
    "<svg/onload=alert(1)><a href=javascript:alert(1)>",
    "{{ 7 * 7 }} {% include '/etc/passwd' %} {# gone #}",
    "&lt;b&gt; &amp; &#60;script&#62; <!-- -->",
    "]]> \u202e\u2028 \x1b[31m \ud7ff\ufffe ${7*7}",
]


class Reader(HTMLParser):
    """The tags, attribute names and texts of a page, as a browser takes them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags, self.attributes, self.links = Counter(), set(), set()
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes |= {name for name, _ in attrs}
        self.links |= {value[:5] for name, value in attrs if name in ("src", "href")}
        if tag in ("figcaption", "del", "ins", "small"):
            self.texts.append("")

    def handle_data(self, data):
        if self.texts:
            self.texts[-1] += data


def hostile_audit(tmp_path):
    """Wherever text of the data can get into the page: captions, ids, reasons, image paths, operators, thresholds."""
    ledger = Ledger("skip")
    ledger.begin("read", len(HOSTILE))
    for row, text in enumerate(HOSTILE, start=1):
        ledger.add([RowAudit(text, row, None, text, text, text)])
    for text in HOSTILE:
        ledger.begin(text, 1)
        ledger.steps[-1].scores = [histogram(text, [0.1, 0.9], [False, True], {f"min_{text}": 0.5})]
        ledger.steps[-1].reasons[text] += 1
    ledger.rewrite([(1, f"new {HOSTILE[0]}")])
    ledger.note([(1, reasons.recaptioned(0.3, 0.2))])
    ledger.fail(2, HOSTILE[1])
    ledger.drop([(3, reasons.repeats_image(HOSTILE[0]), None, None), (4, HOSTILE[3], 0.1, 0.5)])
    ledger.passed([(row, row / 10, 0.0) for row in range(5, len(HOSTILE) + 1)])
    audit = tmp_path / "audit" / "<script>alert(2)<.parquet"
    ledger.write(audit, **about(tmp_path, "\n".join(HOSTILE)) | {"images": str(tmp_path), "dataset": HOSTILE})
    return audit


def test_hostile_captions_and_ids_stay_text(tmp_path):
    write_report(hostile_audit(tmp_path), "trial", None, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    found = Reader(page)
    assert set(found.tags) == {
        "html", "head", "meta", "link", "title", "style", "body", "main", "h1", "h2", "h3", "nav", "a", "section",
        "div", "b", "span", "table", "tr", "th", "td", "small", "i", "svg", "rect", "line", "text", "p", "figure",
        "figcaption", "del", "ins", "dl", "dt", "dd", "pre", "footer",
    }  # fmt: skip
    assert found.tags["title"] == found.tags["style"] == 1
    assert not [name for name in found.attributes if name.startswith("on")]
    assert {link for link in found.links if not link.startswith("#")} == {"data:"}
    captions = [text.strip() for text in found.texts]
    assert HOSTILE[0] in captions
    assert f"new {HOSTILE[0]}" in captions
    for text in map(visible, HOSTILE[1:]):
        assert text in captions
        assert any(caption.startswith(f"id {text}") for caption in captions)
    assert "\x1b" not in "".join(captions)
    assert "\u202e" not in "".join(captions)


def test_no_image_outside_the_image_root_is_shown(tmp_path):
    """Rows that name one have failed, but their cards are shown."""
    seed = tmp_path / "seed"
    seed.mkdir()
    sample_image(1).save(tmp_path / "outside.png")
    sample_image(2).save(seed / "inside.png")
    (seed / "link.png").symlink_to(tmp_path / "outside.png")
    (seed / "folder").symlink_to(tmp_path)
    names = ["inside.png", "link.png", "folder/outside.png", "../outside.png", f"{tmp_path}/outside.png", "a\0.png"]
    ledger = Ledger("skip")
    ledger.begin("read", len(names))
    ledger.add([RowAudit(str(row), row, None, "a", "a", name) for row, name in enumerate(names, start=1)])
    for row in range(1, len(names) + 1):
        ledger.fail(row, "a fault")
    ledger.write(tmp_path / "trial.parquet", **about(tmp_path, "") | {"images": str(seed)})
    assert write_report(tmp_path / "trial.parquet", "trial", None, tmp_path / "page.html") == 0
    page = (tmp_path / "page.html").read_text()
    assert page.count("a fault") >= len(names)
    assert page.count('src="data:image/jpeg') == 1


def test_images_that_cannot_be_found_are_told(audit, tmp_path):
    with pytest.raises(UserError, match=r"--images .*nowhere is no folder"):
        write_report(audit, "trial", tmp_path / "nowhere", tmp_path / "page.html")
    assert write_report(audit, "trial", None, tmp_path / "page.html") == 0
    (tmp_path / "empty").mkdir()
    assert write_report(audit, "trial", tmp_path / "empty", tmp_path / "page.html") > 0


def test_missing_and_foreign_audits(audit, tmp_path):
    with pytest.raises(UserError, match="run the recipe first; audits there: trial"):
        write_report(audit.with_name("other.parquet"), "trial", None, tmp_path / "page.html")
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(UserError, match=r"not written by process\.py"):
        write_report(tmp_path / "folder.parquet", "folder", None, tmp_path / "page.html")
    audit.write_bytes(b"no parquet")
    with pytest.raises(UserError, match=r"not written by process\.py"):
        write_report(audit, "trial", None, tmp_path / "page.html")


def test_histogram_counts_every_row_once():
    scores = [*(number / 100 for number in range(100)), None, 50.0]
    chart = histogram(
        "x", scores, [score is not None and score >= 0.3 for score in scores], {"min_x": 0.3, "max_x": 1e30}
    )
    assert (sum(chart["kept"]), sum(chart["dropped"])) == (71, 30)
    assert chart["limits"] == {"min_x": 0.3}
    assert chart["low"] < 0.3 < chart["high"]
    assert histogram("x", [None], [False], {}) is None
    flat = histogram("x", [0.0, 0.0], [True, True], {"max_x": 0.5})
    assert (flat["low"], flat["high"]) == (0.0, 0.5)


def load(page: Path, profile: Path) -> subprocess.CompletedProcess[str]:
    """A browser without network loads a page: the document as its scripts leave it, and what it says meanwhile."""
    done = subprocess.run(
        [
            chromium(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            f"--user-data-dir={profile}", "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr",
            "--virtual-time-budget=5000", "--dump-dom", page.as_uri(),
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert "</html>" in done.stdout, done.stderr
    return done


def console_of(page: Path, profile: Path) -> list[str]:
    """What a browser says while it loads a page: script errors, refused and failed requests."""
    return [line for line in load(page, profile).stderr.splitlines() if re.search(r"CONSOLE", line)]


@pytest.mark.slow
def test_a_browser_loads_the_page_in_silence(make_seed, make_recipe, run_process, tmp_path):
    recipe = make_recipe([{"caption_cleanup_mapper": None}, {"caption_words_filter": {"min_num": 2}}])
    seed = make_seed(["a red dog stock photo", "a <img src=http://elsewhere.example/x.png> cat", "dog", "two cats"])
    done = run_process(recipe, seed)
    assert done.code == 0, done.err
    command = [sys.executable, str(ROOT / "solution" / "process.py"), "report", "trial", "--output", str(done.output)]
    subprocess.run(command, check=True, timeout=120)
    page = done.audit.with_suffix(".html")
    assert console_of(page, tmp_path / "profile") == []
    assert not re.search(
        r"""(src|href|url)\s*[=(]\s*["']?(?!data:|#)\w""", re.sub(r"&lt;.*?&gt;", "", page.read_text())
    )
    # The same browser does speak up about a page that asks for something elsewhere.
    asking = tmp_path / "asking.html"
    asking.write_text(page.read_text().replace("<footer>", '<img src="http://elsewhere.example/x.png"><footer>'))
    assert any("elsewhere.example" in line for line in console_of(asking, tmp_path / "profile"))


@pytest.mark.slow
def test_a_browser_runs_nothing_that_texts_hold(tmp_path):
    """In a report and in a comparison; nor would it, were a script to get into them."""
    audit, page, other = hostile_audit(tmp_path), tmp_path / "page.html", tmp_path / "comparison.html"
    write_report(audit, "trial", None, page)
    write_comparison((audit, audit), (HOSTILE[0], HOSTILE[1]), None, other)
    foreign = tmp_path / "foreign.html"
    foreign.write_text(page.read_text().replace("<footer>", "<script>document.title = 'run'</script><footer>"))
    with Browser(tmp_path / "profile") as browser:
        for shown in (page, other):
            browser.open(shown.as_uri(), "document.querySelector('footer')")
            assert browser.evaluate("document.scripts.length") == 0
            assert browser.said == []
        browser.open(foreign.as_uri(), "document.querySelector('footer')")
        assert browser.evaluate("document.title") != "run"
        assert "Content Security Policy" in " ".join(browser.said)


@pytest.mark.slow
@pytest.mark.parametrize("width", [320, 500])
def test_nothing_is_cut_off_on_a_narrow_screen(audit, tmp_path, width):
    write_report(audit, "trial", None, tmp_path / "page.html")
    with Browser(tmp_path / "profile") as browser:
        browser.narrow(width)
        browser.open((tmp_path / "page.html").as_uri(), "document.querySelector('footer')")
        wide = browser.evaluate(
            "JSON.stringify([...document.querySelectorAll('body *')].filter((found) => "
            f"found.getBoundingClientRect().right > {width} + 0.5).map((found) => found.outerHTML.slice(0, 90)))"
        )
        assert wide == "[]"
        assert browser.evaluate("document.documentElement.scrollWidth") == width
