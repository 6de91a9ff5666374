"""The adapter to Data-Juicer: fails when Data-Juicer changes under a deviation, and shows what each deviation does."""

import ast
import hashlib
import importlib.util
import inspect
import os
import subprocess
import sys
from pathlib import Path
from pkgutil import resolve_name

import pytest
from PIL import Image

from solution.runner import data_juicer
from solution.runner.data_juicer import DEVIATIONS, STATS, NestedDataset, load_operator
from solution.runner.record import TESTED_DATA_JUICER
from tests.solution.conftest import ROOT, sample_image

READ = {name: digest for deviation in DEVIATIONS for name, digest in deviation.read.items()}
# Stock operators, each with a package that the kit does not install: named when the operator is built, when its model
# is loaded, or when the first row is worked on.
MISSING = {
    "image_tagging_mapper": "ram @ git+https://github.com/cmgzn/recognize-anything.git",
    "text_action_filter": "spacy",
    "image_deduplicator": "imagededup",
    "image_remove_background_mapper": "rembg",
    "image_segment_mapper": "ultralytics",
}


def python(code: str, **environment: str) -> str:
    """What a fresh process prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("name", READ)
def test_data_juicer_is_the_one_that_was_read(name):
    """After a change: read the code again, correct the deviation, then write the new digest into its table."""
    source = inspect.getsource(resolve_name(name))
    assert hashlib.sha256(source.encode()).hexdigest()[:12] == READ[name], f"Data-Juicer changed {name}"


def test_every_deviation_is_complete():
    assert len({deviation.target for deviation in DEVIATIONS}) == len(DEVIATIONS)
    for deviation in DEVIATIONS:
        assert deviation.how in ("patch", "instance", "parameter", "call")
        assert deviation.instead
        assert deviation.reason
        assert deviation.read
        assert deviation.version == TESTED_DATA_JUICER


def test_no_other_part_of_data_juicer_is_patched():
    """An assignment to something of Data-Juicer's that is not in the table would be a hidden deviation."""
    tree = ast.parse(Path(data_juicer.__file__).read_text(encoding="utf-8"))
    patched = {
        ast.unparse(target)
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Attribute)
    }
    assert patched == {
        deviation.target for deviation in DEVIATIONS if deviation.how == "patch" and "." in deviation.target
    } - {"the packages data_juicer.core and data_juicer.ops.*"}


@pytest.mark.slow
@pytest.mark.parametrize("operator", MISSING)
def test_a_missing_package_is_named_in_one_line(operator, make_seed, make_recipe, run_process):
    done = run_process(make_recipe([{operator: None}]), make_seed(["<b>a red dog</b>", "a cat"]))
    assert done.code == 1
    last = done.err.splitlines()[-1]
    assert last.startswith("error: operator ")
    assert f"{operator}" in last
    assert f"needs the package {MISSING[operator]}" in last
    assert "(pip install " in last
    assert "Traceback" not in done.err
    assert "RecursionError" not in done.err
    assert done.rows is None


def test_installed_packages_are_not_asked_for():
    """`check_packages` looks for a module of the package's name; several packages have other names."""
    data_juicer.LazyLoader.check_packages(["pillow>=9", "py-data-juicer"])
    with pytest.raises(ImportError, match=r"needs the package pillow>=999; install it \(pip install 'pillow"):
        data_juicer.LazyLoader.check_packages(["pillow>=999"], "--no-deps")


def test_an_installed_package_that_cannot_be_imported_says_why(tmp_path, monkeypatch):
    (tmp_path / "broken_module_of_a_test.py").write_text("raise ImportError('libGL.so.1: cannot open')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match=r"broken_module_of_a_test cannot be imported: libGL\.so\.1: cannot open"):
        data_juicer.LazyLoader("broken_module_of_a_test").anything  # noqa: B018


def test_packages_are_deferred_until_a_name_is_asked_for():
    code = (
        "import sys; from solution.runner.data_juicer import OPERATORS; before = len(OPERATORS.modules);"
        "import data_juicer.ops.filter as filters;"
        "print(before < 10, hasattr(filters, 'no_such_name'), 'ray' in sys.modules);"
        "from data_juicer.ops.filter import LLMQualityScoreFilter; from data_juicer.core import Tracer;"
        "print(LLMQualityScoreFilter.__name__, Tracer.__name__, len(OPERATORS.modules) - before);"
        "from solution.runner.data_juicer import register_stock; register_stock();"
        "print(len(OPERATORS.modules) > 200, filters.WordsNumFilter.__name__)"
    )
    assert python(code).splitlines() == [
        "True False False", "LLMQualityScoreFilter Tracer 2", "True WordsNumFilter",
    ]  # fmt: skip


@pytest.mark.parametrize("package", ["data_juicer.core", *data_juicer._OPERATOR_PACKAGES])
def test_a_deferred_package_only_imports_from_its_own_modules(package):
    tree = ast.parse(Path(sys.modules[package].__spec__.origin).read_text(encoding="utf-8"))
    for node in tree.body:
        is_list = isinstance(node, ast.Assign) and isinstance(node.value, ast.List)
        assert is_list or isinstance(node, ast.Import | ast.ImportFrom | ast.Expr), ast.unparse(node)


def test_an_operator_of_text_loads_no_torch():
    code = (
        "import sys; from solution.runner.data_juicer import *; register_stock(['text_length_filter']);"
        "operator = load_operator('text_length_filter', {'batch_mode': True, 'min_len': 1});"
        "print(len(operator.run(NestedDataset.from_list([{'text': 'a dog'}] * 3))), 'torch' in sys.modules);"
        "print('IPython' in sys.modules); import importlib.util; print(importlib.util.find_spec('IPython') is not None)"
    )
    found = str(importlib.util.find_spec("IPython") is not None)  # an operator may still import it
    assert python(code, HF_DATASETS_DISABLE_PROGRESS_BARS="1").split() == ["3", "False", "False", found]


@pytest.mark.parametrize("operator", ["image_shape_filter", "image_aspect_ratio_filter"])
def test_size_filters_read_headers_and_score_as_data_juicer_does(operator, tmp_path, monkeypatch):
    paths = []
    for number, orientation in enumerate((1, 6)):  # 6: the camera was held upright
        exif = Image.Exif()
        exif[0x0112] = orientation
        paths.append(str(tmp_path / f"{number}.jpg"))
        sample_image(number).save(paths[-1], exif=exif)
    rows = [{"images": paths, STATS: {}}, {"images": paths[:1], STATS: {}}, {"images": [], STATS: {}}]
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    data_juicer.register_stock([operator])
    stock = data_juicer.OPERATORS.modules[operator](batch_mode=True)
    expected = [
        {key: list(values) for key, values in stats.items()}
        for stats in stock.compute_stats({"images": columns["images"], STATS: [{}, {}, {}]})[STATS]
    ]
    decoded = []
    monkeypatch.setattr(data_juicer, "load_image", lambda path: decoded.append(path) or Image.open(path).transpose(2))
    monkeypatch.setattr(Image.Image, "convert", None)  # what decoding an image for Data-Juicer ends with
    found = load_operator(operator, {"batch_mode": True}).compute_stats(columns)
    assert set(found) == {"images", STATS}
    assert [{key: list(values) for key, values in stats.items()} for stats in found[STATS]] == expected
    assert set(decoded) == {paths[1]}


def test_files_around_a_bad_row_are_kept(tmp_path):
    (tmp_path / "other.arrow").write_text("of another part")
    rows = NestedDataset.from_list([{"n": 1}]).map(lambda row: row, cache_file_name=str(tmp_path / "own.arrow"))
    assert rows.cleanup_cache_files() == 0
    assert (tmp_path / "other.arrow").exists()


@pytest.mark.slow
def test_an_untested_version_is_said_at_the_start(make_seed, make_recipe, run_process, tmp_path):
    fake = tmp_path / "packages" / "py_data_juicer-9.9.9.dist-info"
    fake.mkdir(parents=True)
    (fake / "METADATA").write_text("Metadata-Version: 2.1\nName: py-data-juicer\nVersion: 9.9.9\n")
    recipe, seed = make_recipe([{"caption_cleanup_mapper": None}]), make_seed(["a dog"])
    done = run_process(recipe, seed, environment={"PYTHONPATH": str(fake.parent)})
    assert done.code == 0, done.err
    assert done.err.splitlines()[0].startswith(
        f"note: Data-Juicer 9.9.9 is untested here, {TESTED_DATA_JUICER} is tested"
    )
    assert "note:" not in run_process(recipe, seed).err
