"""The cap's draw, the conversion to LLaVA and the batch sums against the reference's command line tools."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from toolkit.dataset.llava import load_originals, to_llava
from toolkit.dataset.rows import END_OF_CHUNK, IMAGE_TOKENS, image_token_of, parse_row, read_rows
from toolkit.dataset.training_file import draw_rows
from toolkit.errors import RowFault, UserError
from toolkit.presets import load_preset
from toolkit.training.preflight import batch_product

CAP, SEED = 20, 1024

# What the reference wrote for each token it was told; a row is its own token's run's, a text-only row either's.
CONVERTED = {"<__dj__image>": "restore_djimage.json", "<image>": "restore_default_image_token.json"}


@pytest.fixture
def tools(goldens: Path) -> Path:
    return goldens / "tools"


@pytest.fixture
def originals(tools: Path):
    return load_originals(tools / "orig_llava.json")


def rows_in(path: Path) -> list[dict]:
    return [row for _, row in read_rows(path)]


def convert(row: dict, originals) -> dict:
    return to_llava(parse_row(row), originals.get(str(row.get("id"))))


def fault_of_reference(caption: str) -> str | None:
    """The fault we must name where the reference lets a caption through that cannot be trained."""
    if any(token in caption for token in (*IMAGE_TOKENS, END_OF_CHUNK)):
        return "token_in_caption"
    return None if caption else "empty_caption"


def test_draw(tools):
    sizes = sorted(int(path.stem.rpartition("_")[2]) for path in tools.glob("sample_in_*.jsonl"))
    assert sizes[0] < CAP < sizes[-1]
    for size in sizes:
        drawn = draw_rows(rows_in(tools / f"sample_in_{size}.jsonl"), CAP, SEED)
        assert drawn == rows_in(tools / f"sample_out_{size}.jsonl")


def test_conversion(tools, originals):
    written = {token: json.loads((tools / name).read_text()) for token, name in CONVERTED.items()}
    valid = 0
    for number, row in enumerate(rows_in(tools / "dj_in.jsonl")):
        expected = written[image_token_of(row["text"]) or IMAGE_TOKENS[0]][number]
        reason = fault_of_reference(expected["conversations"][1]["value"])
        if reason:
            with pytest.raises(RowFault) as fault:
                convert(row, originals)
            assert fault.value.reason == reason
        else:
            assert convert(row, originals) == expected
            valid += 1
    assert valid >= number / 2


def test_ids_regain_their_type(tools, originals):
    (row,) = rows_in(tools / "dj_int_id.jsonl")
    assert [convert(row, originals)] == json.loads((tools / "int_id.json").read_text())


@pytest.mark.parametrize(("case", "reason"), [("two_images", "two_images"), ("no_id", "missing_id")])
def test_rows_that_stopped_the_reference_are_faults(tools, originals, case, reason):
    assert json.loads((tools / "results.json").read_text())[f"dj_to_llava:{case}"]["rc"] == 1
    (row,) = rows_in(tools / f"dj_{case}.jsonl")
    with pytest.raises(RowFault) as fault:
        convert(row, originals)
    assert fault.value.reason == reason


def test_an_unknown_id_stopped_the_reference_and_gets_a_caption_prompt_here(tools, originals):
    (row,) = rows_in(tools / "dj_unknown_id.jsonl")
    sample = convert(row | {"text": "<image>\nt"}, originals)
    assert re.fullmatch(r"<image>\n\w.+[.?]", sample["conversations"][0]["value"])
    assert sample["conversations"][1] == {"from": "gpt", "value": "t"}


def test_dialogues_are_not_captions(tools):
    for row in rows_in(tools / "dj_dialog.jsonl"):
        with pytest.raises(RowFault):
            parse_row(row)


def test_batch_products(tools):
    results = json.loads((tools / "results.json").read_text())
    pattern = r"check_global_batch_size_(\d+)_(\d+)_(\d+)_faked_(\d+)_gpus"
    cases = [(re.fullmatch(pattern, name), result["stdout"]) for name, result in results.items()]
    cases = [(match.groups(), answer == "True") for match, answer in cases if match]
    assert {answer for _, answer in cases} == {True, False}
    full = load_preset("full")
    for (batch, accumulation, target, gpus), fits in cases:
        preset = replace(full, pretrain=replace(full.pretrain, global_batch=int(target)))
        if fits:
            assert batch_product("pretrain", int(batch), int(accumulation), int(gpus), preset).endswith(f"= {target}")
        else:
            with pytest.raises(UserError, match=f"must be {target}"):
                batch_product("pretrain", int(batch), int(accumulation), int(gpus), preset)
