"""Generate an image for every caption: synthetic pairs, instead of the original ones or in addition to them."""

import hashlib
import os
from pathlib import Path
from typing import Annotated, Any

from data_juicer.ops.base_op import OPERATORS, Mapper
from data_juicer.utils.constant import Fields
from PIL import Image
from pydantic import Field, NonNegativeFloat, PositiveInt

from .common.captions import caption_of
from .common.generator import ImageGenerator
from .common.images import made_name
from .common.reasons import GENERATED
from .common.rows import MODEL_ROWS, NOTE, ORIGINAL, Batch, add_texts, count_rows
from .common.score_store import revision_of

FOLDER = "synthetic_images"  # next to processed_data.jsonl, as the row contract requires


@OPERATORS.register_module("picture_painter_mapper")
class PicturePainterMapper(Mapper):
    """The generated image is `synthetic_images/<id>_<hash>.jpg`; the hash covers all that decides its content.

    A file that exists is not generated again, so a killed run resumes where it was. The new row has the id of the
    row it comes from, and names that row's images for `synthetic_score_filter`. Where the pipeline's safety
    check refuses an image, the row stays as it is.
    """

    _accelerator = "cuda"
    _batched_op = True

    def __init__(
        self,
        hf_painter: str = "stable-diffusion-v1-5/stable-diffusion-v1-5",
        keep_original: bool = False,
        prompt_suffix: str = "",
        steps: PositiveInt = 30,
        guidance: NonNegativeFloat = 7.5,
        size: Annotated[int, Field(ge=8, multiple_of=8)] = 512,
        seed: int = 0,
        model_batch: PositiveInt = 4,
        *args,
        **kwargs,
    ) -> None:
        """Generate images.

        :param hf_painter: folder (or hub name) of a text-to-image pipeline in diffusers' format
        :param keep_original: whether the row with its own image stays too
        :param prompt_suffix: text after the caption, for the pipeline only (", photo")
        :param steps: denoising steps
        :param guidance: how closely the image follows the caption; 1 and less switches guidance off
        :param size: side of the square images, px, a multiple of 8
        :param seed: changes all images
        :param model_batch: images in one forward pass
        """
        super().__init__(*args, **{"batch_size": MODEL_ROWS} | kwargs)
        self.keep_original = keep_original
        self.prompt_suffix = prompt_suffix
        self.generator = ImageGenerator(hf_painter, steps, guidance, size, seed, model_batch, self.use_cuda())
        self.settings = f"1 {revision_of(self.generator.model)} {steps} {guidance} {size} {seed}"

    def process_batched(self, samples: Batch, rank: int | None = None) -> Batch:
        """A batch with the new rows, each instead of the row it comes from or after it."""
        files = self._generated(samples, rank)
        if ORIGINAL not in samples:
            samples[ORIGINAL] = [None] * count_rows(samples)
        add_texts(samples, NOTE, [""] * count_rows(samples))
        result: Batch = {key: [] for key in samples}
        for row in range(count_rows(samples)):
            old: dict[str, Any] = {key: values[row] for key, values in samples.items()}
            rows = [old] if self.keep_original or row not in files else []
            if row in files:
                new = {self.image_key: [files[row]], ORIGINAL: old[self.image_key], NOTE: GENERATED}
                if Fields.stats in old:  # scores of the old image
                    new[Fields.stats] = dict.fromkeys(old[Fields.stats])
                rows.append(old | new)
            for each in rows:
                for key, values in result.items():
                    values.append(each[key])
        return result

    def _generated(self, samples: Batch, rank: int | None) -> dict[int, str]:
        """Row -> file of its generated image; rows whose text has several images or no caption are left alone."""
        folder = Path(self.work_dir or ".").absolute() / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        ids = samples.get("id") or [""] * count_rows(samples)
        jobs: dict[int, tuple[str, str]] = {}  # row -> (prompt, key)
        files: dict[int, Path] = {}
        for row, (text, name, paths) in enumerate(
            zip(samples[self.text_key], ids, samples[self.image_key], strict=True)
        ):
            caption = caption_of(text)
            if caption and len(paths) == 1:
                key = f"{name}/{caption}"
                digest = hashlib.sha256(f"{self.settings}\x1f{self.prompt_suffix}\x1f{key}".encode()).hexdigest()
                files[row] = folder / made_name(name, digest, ".jpg")
                jobs[row] = (caption + self.prompt_suffix, key)
        waiting = [row for row, file in files.items() if not file.exists()]
        for start in range(0, len(waiting), self.generator.model_batch):
            part = waiting[start : start + self.generator.model_batch]
            images = self.generator.generate([jobs[row][0] for row in part], [jobs[row][1] for row in part], rank)
            for row, image in zip(part, images, strict=True):
                if image is not None:
                    _save(image, files[row])
        return {row: str(file) for row, file in files.items() if file.exists()}


def _save(image: Image.Image, file: Path) -> None:
    """Write a JPEG, whole or not at all."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    image.convert("RGB").save(temporary, format="JPEG", quality=95)
    temporary.replace(file)
