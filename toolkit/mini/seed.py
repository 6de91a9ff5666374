"""The seed set: image-text pairs with the defects of crawled web data."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from PIL import Image

from toolkit.dataset.llava import CAPTION_PROMPTS
from toolkit.files import write_json, write_jsonl
from toolkit.mini import captions
from toolkit.mini.scenes import Scene, blurred, draw_scene, render, watermarked

ROWS = 2400
# Defect -> share of the seed's rows; what is left is clean. `near_duplicate` rows repeat an earlier clean row.
DEFECTS = {
    "mismatched": 0.06, "half_wrong": 0.14, "boilerplate": 0.12, "too_short": 0.05, "other_language": 0.05,
    "blur": 0.05, "watermark": 0.05, "near_duplicate": 0.04, "rambling": 0.04,
}  # fmt: skip
IMAGE_TOKEN, CHUNK_END = "<__dj__image>", "<|__dj__eoc|>"
JPEG_QUALITY = 85


def build_seed(
    folder: Path,
    truth_file: Path,
    draw: int,
    rows: int = ROWS,
    repaired: bool = False,
    shares: Mapping[str, float] = DEFECTS,
) -> None:
    """Write a seed set in the challenge's file formats.

    Args:
        folder: gets `mgm_pretrain_mini.jsonl`, `stage_1.json` (the LLaVA-format original) and `images/`.
        truth_file: gets one line per row: id, defect (or `none`), the changed detail, and a true caption.
        draw: number of the draw; another number gives another seed set of the same kind.
        rows: how many pairs.
        repaired: undo every defect: true captions, undamaged images, no near-duplicates. Clean rows stay as they are.
        shares: of the rows, by defect.
    """
    pairs, originals, truths = [], [], []
    for row_id, scene, defect, rng in _plan(draw, rows, shares):
        if repaired:
            if defect == "near_duplicate":
                continue
            defect = "none"
        path = f"images/{row_id[:5]}/{row_id}.jpg"
        true = captions.true_caption(scene, rng)
        caption, detail = _written_caption(scene, true, defect, rng)
        image, _ = render(scene)
        save_jpeg(_damaged(image, defect, rng), folder / path)
        pairs.append({"id": row_id, "text": f"{IMAGE_TOKEN}\n{caption} {CHUNK_END}", "images": [path]})
        question = rng.choice(CAPTION_PROMPTS)
        asked = f"{question}\n<image>" if rng.random() < 0.5 else f"<image>\n{question}"
        turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": caption}]
        originals.append({"id": row_id, "image": path, "conversations": turns})
        truths.append({"id": row_id, "defect": defect, "detail": detail, "true_caption": true})
    write_jsonl(folder / "mgm_pretrain_mini.jsonl", pairs)
    write_json(folder / "stage_1.json", originals)
    write_jsonl(truth_file, truths)


def save_jpeg(image: Image.Image, path: Path) -> None:
    """Store an image with fixed settings, so that a rebuild gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, "JPEG", quality=JPEG_QUALITY, optimize=True)


def _plan(draw: int, rows: int, shares: Mapping[str, float]):
    """Yield (id, scene, defect, the row's own random generator) in file order."""
    rng = random.Random(f"seed {draw}")
    # Real ids are sparse: ten thousand per image folder, about a hundred of them in the set.
    ids = [f"{number:09d}" for number in rng.sample(range(rows * 100), rows)]
    defects = [defect for defect, share in shares.items() for _ in range(round(share * rows))]
    defects += ["none"] * (rows - len(defects))
    rng.shuffle(defects)
    clean_scenes: list[Scene] = []
    for row_id, defect in zip(ids, defects, strict=True):
        row_rng = random.Random(f"seed {draw} row {row_id}")
        if defect == "near_duplicate" and clean_scenes:
            scene = _shifted(row_rng.choice(clean_scenes), row_rng)
        else:
            scene = draw_scene(row_rng)
        if defect == "none":
            clean_scenes.append(scene)
        yield row_id, scene, defect, row_rng


def _shifted(scene: Scene, rng: random.Random) -> Scene:
    """The same scene with its objects moved by one or two pixels."""
    dx, dy = rng.randint(-2, 2), rng.randint(-2, 2)
    return replace(scene, things=tuple(replace(thing, x=thing.x + dx, y=thing.y + dy) for thing in scene.things))


def _written_caption(scene: Scene, true: str, defect: str, rng: random.Random) -> tuple[str, str]:
    """The caption with its defect, and the wrong detail of a half-wrong one."""
    if defect == "mismatched":
        return captions.true_caption(draw_scene(rng), rng), ""
    if defect == "half_wrong":
        changed, detail = captions.half_wrong_scene(scene, rng)
        return captions.true_caption(changed, rng), detail
    if defect == "boilerplate":
        return captions.boilerplate(rng), ""
    if defect == "too_short":
        return captions.too_short(rng), ""
    if defect == "other_language":
        return captions.foreign_caption(scene, rng), ""
    if defect == "rambling":
        return captions.rambling_caption(scene, rng), ""
    return true, ""


def _damaged(image: Image.Image, defect: str, rng: random.Random) -> Image.Image:
    if defect == "blur":
        return blurred(image, rng.uniform(3.0, 5.0))
    if defect == "watermark":
        return watermarked(image, rng)
    return image
