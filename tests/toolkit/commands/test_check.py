"""`python -m toolkit check`: every fault by its line, repeats counted, origins and odd images noted."""

from __future__ import annotations

import inspect
import json
import re
import struct
import subprocess
import sys
import zlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from toolkit.__main__ import main
from toolkit.commands import check as command
from toolkit.commands.check import SHOWN_FAULTS
from toolkit.dataset.fixes import FIXES, NOTE_FIXES
from toolkit.dataset.images import NOTES
from toolkit.dataset.llava import to_llava
from toolkit.files import REPOSITORY, sha256_of
from toolkit.presets import load_preset

SEED_1K = REPOSITORY.parent / "shared" / "seed_1k"
FEW_TOKENS = 80  # more than the small seed's image takes (36), fewer than image and LONG_QUESTION
LONG_QUESTION = "why " * 100


def check(seed, *lines, words=()):
    """Status and JSON report."""
    report = seed.processed / "report.json"
    status = main(["check", *seed.arguments(seed.write(*lines)), "--json", str(report), *words])
    return status, json.loads(report.read_text())


def faults(seed, *lines):
    """(line, reason) of every fault; the status must say that there are some."""
    status, report = check(seed, *lines)
    assert status == 1
    return [(fault["line"], fault["reason"]) for fault in report["faults"]]


def test_a_valid_file_passes(small_seed, capsys):
    status, report = check(small_seed, *(small_seed.row(number) for number in range(6)))
    assert status == 0
    assert (report["faults"], report["not_checked"]) == ([], [])
    assert report["counts"]["rows"] == report["counts"]["pictures"] == report["counts"]["question restored"] == 6
    output = capsys.readouterr().out
    assert "6 rows checked" in output
    assert "6 of at most 8: all are trained" in output
    assert "faults       none" in output


@pytest.mark.parametrize("token", ["<image>", "<__dj__image>"])
def test_both_tokens_pass_and_are_counted(small_seed, token):
    status, report = check(small_seed, small_seed.row(0), small_seed.row(1, text=f"{token} a"))
    assert status == 0
    assert report["counts"][token] == (2 if token == "<image>" else 1)


def test_faults_of_rows_are_named_by_line(small_seed):
    row = small_seed.row
    assert faults(
        small_seed,
        row(0),
        "{",
        "",
        row(0, id=None),
        row(1, text="<image> a <__dj__image>"),
        row(1, text="a dress"),
        row(1, images=[]),
        row(1, images=["/etc/1.png"]),
        row(1, images=["images/../1.png"]),
        row(2, text="<image>\n<|__dj__eoc|>"),
        row(2, text="<image>\na <|__dj__eoc|> b"),
    ) == [
        (2, "not_json"),
        (4, "missing_id"),
        (5, "mixed_image_tokens"),
        (6, "image_without_token"),
        (7, "token_without_image"),
        (8, "bad_image_path"),
        (9, "bad_image_path"),
        (10, "empty_caption"),
        (11, "token_in_caption"),
    ]


def test_missing_broken_and_truncated_images_are_named_for_every_row_that_shows_them(small_seed):
    images = small_seed.folder / "images"
    (images / "0.png").unlink()
    (images / "1.png").write_text("no image")
    Image.effect_noise((64, 64), 50).save(images / "2.png", "JPEG")
    (images / "2.png").write_bytes((images / "2.png").read_bytes()[:-200])
    rows = [small_seed.row(number) for number in (0, 1, 2, 3, 1)]
    assert faults(small_seed, *rows) == [
        (1, "missing_image"),
        (2, "unreadable_image"),
        (3, "unreadable_image"),
        (5, "unreadable_image"),
    ]


def test_a_synthetic_image_lies_beside_the_file_and_keeps_a_seed_id(small_seed):
    synthetic = {"images": ["synthetic_images/a.png"]}
    status, report = check(small_seed, small_seed.row(0), small_seed.row(0, **synthetic))
    assert status == 0
    assert report["counts"]["synthetic"] == 1
    rows = [small_seed.row(0, **synthetic, id="new"), small_seed.row(1, images=["synthetic_images/b.png"])]
    assert faults(small_seed, *rows) == [(1, "synthetic_image_of_unknown_id"), (2, "missing_image")]


def test_ids_are_not_held_against_the_questions_of_another_seed(small_seed, tmp_path, capsys):
    other = tmp_path / "other"
    other.mkdir()
    file = small_seed.write(small_seed.row(0, id="new", images=["synthetic_images/a.png"]))
    assert main(["check", str(file), "--images", str(other), "--preset", str(small_seed.preset)]) == 0
    assert "origin" not in capsys.readouterr().out.replace("original", "")


def test_one_id_with_two_original_images_is_a_fault(small_seed):
    assert faults(small_seed, small_seed.row(0), small_seed.row(1), small_seed.row(0, images=["images/1.png"])) == [
        (3, "two_images_of_one_id")
    ]


def test_repeats_and_further_captions_are_counted_not_refused(small_seed):
    row = small_seed.row
    status, report = check(
        small_seed, row(0), row(0, copy_index=1), row(0, copy_index=2), row(0, text="<image> other", caption_index=1)
    )
    assert status == 0
    assert report["counts"]["exact repeats"] == 2
    assert report["counts"]["further rows of an id"] == 1


def test_rows_above_the_cap_are_said(small_seed, capsys):
    status, _ = check(small_seed, *(small_seed.row(number % 6) for number in range(11)))
    assert status == 0
    assert "3 rows above 8: training draws 8 at random, seed 1024" in capsys.readouterr().out


def test_rows_that_teach_nothing_are_faults(small_seed):
    text = small_seed.preset.read_text().replace("max_length: 2048", f"max_length: {FEW_TOKENS}")
    small_seed.preset.write_text(text)
    originals = json.loads((small_seed.folder / "stage_1.json").read_text())
    originals[1]["conversations"][0]["value"] = f"<image>\n{LONG_QUESTION}"
    (small_seed.folder / "stage_1.json").write_text(json.dumps(originals))
    rows = [small_seed.row(0), small_seed.row(1), small_seed.row(2, text="<image> an <eos> inside")]
    assert faults(small_seed, *rows) == [(2, "nothing_supervised"), (3, "special_token_in_text")]


def test_what_cannot_be_checked_is_said_and_the_rest_is_checked(small_seed, capsys):
    (small_seed.folder / "stage_1.json").unlink()
    file = small_seed.write(small_seed.row(0), small_seed.row(1, text="<image>"))
    assert main(["check", *small_seed.arguments(file), "--tokenizer", str(small_seed.folder / "none")]) == 1
    output = capsys.readouterr().out
    assert f"NOT CHECKED  trainability: {small_seed.folder}/none is missing" in output
    assert "NOT CHECKED  original questions:" in output
    assert "line 2 (id s1)" in output


def test_only_the_first_faults_of_a_reason_are_shown(small_seed, capsys):
    lines = [small_seed.row(0, text="<image>")] * (SHOWN_FAULTS + 3)
    status, report = check(small_seed, small_seed.row(1), *lines)
    assert status == 1
    assert len(report["faults"]) == SHOWN_FAULTS + 3
    output, error = capsys.readouterr()
    assert output.count("(id s0)") == SHOWN_FAULTS
    assert "and 3 more" in output
    assert error.startswith("error: ")
    assert "23 of 24 rows are faulty" in error


def test_skip_passes_while_a_row_remains(small_seed, capsys):
    broken = small_seed.row(0, text="<image>")
    assert check(small_seed, small_seed.row(1), broken, words=["--on-error", "skip"])[0] == 0
    assert check(small_seed, broken, words=["--on-error", "skip"])[0] == 1
    assert "no row can be trained" in capsys.readouterr().err


def test_an_empty_file_and_a_missing_folder_are_refused(small_seed, capsys):
    assert main(["check", *small_seed.arguments(small_seed.write())]) == 1
    assert "no row can be trained" in capsys.readouterr().err
    assert main(["check", str(small_seed.write(small_seed.row(0))), "--images", "nowhere", "--preset", "mini"]) == 1
    assert "--images nowhere: no such folder" in capsys.readouterr().err


def test_what_rows_hold_cannot_move_the_cursor_nor_fill_the_screen(small_seed, capsys):
    """Ids and names with escape sequences, a line end, a mark that turns the text; and of five million characters."""
    odd = "a\x1b[31m\n\u202e\x9b"
    file = small_seed.write(
        small_seed.row(0, id=odd, images=["images/none.png"]),
        small_seed.row(1, images=[f"images/{odd}.png"]),
        small_seed.row(2, id="i" * 5_000_000, images=[f"images/{'n' * 5_000_000}.png"]),
    )
    for words in (
        ["check"],
        ["prepare", "--out", str(small_seed.processed / "llava.json")],
        ["judge", "--workers", "0"],
    ):
        assert main([words[0], *small_seed.arguments(file), *words[1:]]) == 1
        said = "".join(capsys.readouterr())
        assert "a\\x1b[31m\\n\\u202e\\x9b" in said
        assert all(character.isprintable() for character in said.replace("\n", ""))
        assert max(map(len, said.splitlines())) < 5000


def test_check_changes_nothing(small_seed):
    file = small_seed.write(small_seed.row(0), "{")
    before = {path: path.stat().st_mtime_ns for path in small_seed.processed.rglob("*")}
    assert main(["check", *small_seed.arguments(file)]) == 1
    assert {path: path.stat().st_mtime_ns for path in small_seed.processed.rglob("*")} == before


def test_every_fault_has_advice():
    """The reasons are read off the source of the modules that `check` asks."""
    modules = ["dataset/rows.py", "dataset/images.py", "dataset/validation.py", "mgm/conversation.py"]
    source = "".join((REPOSITORY / "toolkit" / name).read_text() for name in modules)
    source += inspect.getsource(to_llava)
    reasons = set(re.findall(r'RowFault\("(\w+)"', source))
    assert len(reasons) > 20
    assert reasons - {"malformed_row"} == set(FIXES)  # of a training row, which `check` makes itself
    assert set(NOTES) == set(NOTE_FIXES)


def test_the_fix_list_names_every_faulty_line_and_odd_image(small_seed):
    Image.new("L", (24, 24)).save(small_seed.folder / "images" / "1.png")
    fixes = small_seed.processed / "fixes.jsonl"
    lines = [small_seed.row(1), small_seed.row(0, text="<image>"), small_seed.row(2), small_seed.row(1)]
    status, _ = check(small_seed, *lines, words=["--fixes", str(fixes)])
    assert status == 1
    found = [json.loads(line) for line in fixes.read_text().splitlines()]
    assert [(fix["kind"], fix["line"], fix["id"], fix["reason"]) for fix in found] == [
        ("fault", 2, "s0", "empty_caption"),
        ("note", 1, "s1", "greyscale"),
        ("note", 4, "s1", "greyscale"),
    ]
    assert found[0]["fix"] == FIXES["empty_caption"]
    assert "images/1.png: 24 x 24 pixels, L" in found[1]["detail"]


def test_the_fix_list_helps_with_links_to_nothing_and_bombs(small_seed):
    images = small_seed.folder / "images"
    for number, target in enumerate(("nowhere.png", small_seed.folder.parent / "gone.png")):
        (images / f"{number}.png").unlink()
        (images / f"{number}.png").symlink_to(target)
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    (images / "2.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bomb)
    fixes = small_seed.processed / "fixes.jsonl"
    check(small_seed, *map(small_seed.row, range(3)), words=["--fixes", str(fixes)])
    found = {fix["reason"]: fix["fix"] for fix in map(json.loads, fixes.read_text().splitlines())}
    assert "in place of a link to nothing" in found["missing_image"]
    assert "if it is gone, drop the row" in found["link_leaves_root"]
    assert "at most 178 million pixels" in found["unreadable_image"]
    assert Image.MAX_IMAGE_PIXELS
    assert 2 * Image.MAX_IMAGE_PIXELS // 10**6 == 178


def test_where_each_row_comes_from(small_seed, capsys):
    row = small_seed.row
    status, report = check(
        small_seed,
        row(0, text="<image>\nold 0 <|__dj__eoc|>"),
        row(1),
        row(2),
        row(3, images=["images/4.png"]),
        row(4, images=["synthetic_images/a.png"]),
        row(5, id="new"),
    )
    assert status == 0
    assert report["origins"] == {"seed": 1, "changed_caption": 2, "other_image": 1, "synthetic_image": 1, "new_id": 1}
    assert "origin       2 rows with another caption than the seed's" in capsys.readouterr().out


def write_audit(seed, file, *lines):
    """The audit and the record that a recipe `mine.yaml` leaves around its result."""
    record = {"inputs": {"recipe": {"path": "recipes/mine.yaml"}}, "outputs": {file.name: sha256_of(file)}}
    (seed.processed / "run.json").write_text(json.dumps(record))
    audit = seed.processed.parent / "audit" / "mine.parquet"
    audit.parent.mkdir()
    pq.write_table(pa.Table.from_pylist(list(lines)), audit)
    return audit


def audit_line(row, **changes):
    before = {"text_before": row["text"], "text_after": row["text"]}
    line = {"id": row["id"], "image": row["images"][0], "state": "kept", "parent": None, "image_state": "seed"} | before
    return line | changes


def test_rows_are_matched_with_the_recipes_audit(small_seed, capsys):
    rows = [small_seed.row(0), small_seed.row(1), small_seed.row(1), small_seed.row(2)]
    file = small_seed.write(*rows)
    write_audit(
        small_seed,
        file,
        audit_line(
            rows[0], text_before="<__dj__image>\nbefore", text_after=rows[0]["text"].replace("<im", "<__dj__im")
        ),
        audit_line(rows[1]),
        audit_line(rows[1], parent=1),
        audit_line(small_seed.row(3)),
        audit_line(rows[3], state="dropped"),
    )
    status, report = check(small_seed, *rows)
    assert status == 0
    expected = {"found": 3, "unknown": 1, "rewritten": 1, "created": 1, "synthetic": 0, "left_out": 1}
    assert report["audit"] == expected
    assert "3 rows are kept rows of it: 1 rewritten, 1 created" in capsys.readouterr().out


def test_an_audit_of_another_file_is_said_and_a_wrong_one_refused(small_seed, capsys):
    file = small_seed.write(small_seed.row(0))
    audit = write_audit(small_seed, file, audit_line(small_seed.row(0)))
    status, report = check(small_seed, small_seed.row(1))
    assert status == 0
    assert report["audit"] == {}
    assert report["not_checked"] == ["audit: processed_data.jsonl was changed after mine.yaml wrote it"]
    assert check(small_seed, small_seed.row(0), words=["--audit", str(audit)])[1]["audit"]["found"] == 1
    capsys.readouterr()
    wrong = small_seed.folder / "stage_1.json"
    assert main(["check", *small_seed.arguments(file), "--audit", str(wrong)]) == 1
    assert "stage_1.json: not a recipe's audit" in capsys.readouterr().err


@pytest.mark.skipif(not SEED_1K.is_dir(), reason=f"{SEED_1K}: the 1,000 real seed pairs are not here")
def test_real_seed_rows_pass(capsys):
    file = SEED_1K / "mgm_pretrain_stage_1_1k.jsonl"
    assert main(["check", str(file), "--images", str(SEED_1K), "--preset", "mini"]) == 0
    output = capsys.readouterr().out
    assert "1,000 rows checked" in output
    assert "1,000 <__dj__image>" in output
    assert "faults       none" in output
    assert "NOT CHECKED" not in output
    assert "WARNING" in output


def test_images_unlike_the_mini_worlds_are_a_warning(small_seed, capsys):
    """By the median: a few large ones among them are none."""
    side = load_preset(str(small_seed.preset)).image_size_aux
    for number, sides in enumerate(((side,) * 3, (side, side, 4 * side), (side, 2 * side, 2 * side))):
        for row, length in enumerate(sides):
            Image.new("RGB", (length, side)).save(small_seed.folder / small_seed.row(row)["images"][0])
        check(small_seed, *map(small_seed.row, range(3)))
        assert (f"WARNING      half of the images are {2 * side} px" in capsys.readouterr().out) == (number == 2)


def test_rows_are_checked_without_torch(small_seed):
    arguments = small_seed.arguments(small_seed.write(small_seed.row(0), small_seed.row(1)))
    program = (
        f"import sys; from toolkit.__main__ import main; main({['check', *arguments]}); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert "2 rows checked" in done.stdout
    assert done.stdout.endswith("False\n")


def test_once_repeats_the_report_of_an_unchanged_file(small_seed, monkeypatch, capsys):
    monkeypatch.setattr(command, "REPOSITORY", small_seed.folder)
    file = small_seed.write(*(small_seed.row(number) for number in range(6)))
    words = ["check", *small_seed.arguments(file), "--once"]

    def said(*more):
        capsys.readouterr()
        return main([*words, *more]), capsys.readouterr().out.splitlines()

    first, again = said(), said()
    assert "6 rows checked" in first[1][0]
    assert again[1][0] == f"{file}: unchanged since it was checked"
    assert (again[0], again[1][1:]) == (first[0], first[1][1:])
    report = small_seed.processed / "report.json"
    assert "rows checked" in said("--json", str(report))[1][0]
    assert report.is_file()

    Image.new("L", (24, 24)).save(small_seed.folder / "images" / "1.png")
    assert "images are greyscale" in "\n".join(said()[1])
    assert "unchanged" in said()[1][0]
    (small_seed.folder / "images" / "1.png").write_bytes(b"no image")
    for _ in range(2):
        status, lines = said()
        assert status == 1
        assert "rows checked" in lines[0]
    Image.new("RGB", (24, 24)).save(small_seed.folder / "images" / "1.png")
    small_seed.write(small_seed.row(0))
    assert "1 rows checked" in said()[1][0]
    (known,) = (small_seed.folder / "output").iterdir()
    known.write_text("[")
    assert "1 rows checked" in said()[1][0]
