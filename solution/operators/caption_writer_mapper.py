"""Write one or several captions for every image, in addition to or instead of the one it has."""

from pathlib import PurePath
from typing import Annotated, Any

from data_juicer.ops.base_op import OPERATORS, Mapper
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from .common.captioner import LOCAL, Captioner
from .common.captions import caption_of, with_caption
from .common.reasons import CAPTIONED
from .common.rows import FAILURE, NOTE, ROW, Batch, add_texts, count_rows
from .common.server_captioner import ServerCaptioner, for_data_juicer, server_of


@OPERATORS.register_module("caption_writer_mapper")
class CaptionWriterMapper(Mapper):
    """Each usable new caption becomes a row of its own, with the same id and its number in `caption_index`.

    A caption is usable when it has min_words to max_words words and no row of the image has it yet. A row without a
    usable caption stays as it is. Rows with several images are left alone; an unreadable image fails its row.
    """

    _accelerator = "cuda"
    _batched_op = True

    def __init__(
        self,
        hf_captioner: str = LOCAL,
        captions: PositiveInt = 1,
        prompts: list[str] | None = None,
        keep_original: bool = False,
        min_words: PositiveInt = 1,
        max_words: PositiveInt = 30,
        max_new_tokens: PositiveInt = 30,
        temperature: NonNegativeFloat = 0.0,
        seed: int = 0,
        model_batch: PositiveInt = 16,
        endpoint: str | None = None,
        model: str | None = None,
        api_key_env: str | None = None,
        concurrency: Annotated[int, Field(ge=1, le=512)] = 16,
        timeout: PositiveFloat = 120.0,
        retries: NonNegativeInt = 5,
        max_side: PositiveInt = 1024,
        *args,
        **kwargs,
    ) -> None:
        """Write captions.

        :param hf_captioner: folder (or hub name) of an image-to-text or chat model with its processor
        :param captions: captions to write for an image
        :param prompts: prompts of the first, second ... caption, in rotation; none if empty
        :param keep_original: whether the row with its old caption stays too
        :param min_words: a new caption with fewer words is not used
        :param max_words: a new caption with more words is not used
        :param max_new_tokens: longest caption, in the model's tokens
        :param temperature: 0 takes the likeliest caption, above 0 samples one (same row and seed, same caption)
        :param seed: changes the sampled captions
        :param model_batch: images in one forward pass
        :param endpoint: address of an OpenAI-compatible server that writes the captions, such as
            http://127.0.0.1:8000/v1, in place of hf_captioner
        :param model: the server's name for its model
        :param api_key_env: name of the environment variable with the server's key; none if it needs none
        :param concurrency: requests at a time, in each process
        :param timeout: seconds for one request
        :param retries: further tries of a request that failed
        :param max_side: longest side at which an image is sent to the server, px
        """
        local = hf_captioner != LOCAL
        server = server_of(endpoint, model, api_key_env, concurrency, timeout, retries, local)
        on_cpu = {"accelerator": "cpu"} if server else {}
        super().__init__(*args, **for_data_juicer(server, on_cpu | kwargs))
        prompts = prompts or [""]
        if captions > len(prompts) and not temperature:
            raise ValueError(
                f"captions: {captions} of one image need a temperature above 0 or as many prompts to differ"
            )
        self.min_words = min_words
        self.max_words = max_words
        self.keep_original = keep_original
        settings = [(prompts[index % len(prompts)], max_new_tokens, temperature, seed) for index in range(captions)]
        self.captioners: list[Captioner | ServerCaptioner] = []
        if server:
            asking = [ServerCaptioner(server, *own, max_side) for own in settings]
            asking[0].require_server()
            self.captioners += asking
        else:
            self.captioners += [Captioner(hf_captioner, *own, model_batch, self.use_cuda()) for own in settings]

    def process_batched(self, samples: Batch, rank: int | None = None) -> Batch:
        """A batch with the new rows, each after the row it comes from."""
        written, failures = self._written(samples, rank)
        if "caption_index" not in samples:
            samples["caption_index"] = [None] * count_rows(samples)
        if ROW in samples:
            samples[NOTE] = [""] * count_rows(samples)
        result: Batch = {key: [] for key in samples}
        reasons: list[str] = []
        for row in range(count_rows(samples)):
            old: dict[str, Any] = {key: values[row] for key, values in samples.items()}
            for new in self._rows(old, written.get(row, [])):
                for key, values in result.items():
                    values.append(new[key])
                reasons.append(failures[row])
        add_texts(result, FAILURE, reasons)
        return result

    def _rows(self, old: dict[str, Any], captions: list[str]) -> list[dict[str, Any]]:
        """The rows that replace one row."""
        text = old[self.text_key]
        fitting = [caption for caption in captions if self.min_words <= len(caption.split()) <= self.max_words]
        new = [
            caption for caption in dict.fromkeys(fitting) if not (self.keep_original and caption == caption_of(text))
        ]
        rows = [
            old | {self.text_key: with_caption(text, caption), "caption_index": index, NOTE: CAPTIONED}
            for index, caption in enumerate(new, start=1)
        ]
        return [old, *rows] if self.keep_original or not rows else rows

    def _written(self, samples: Batch, rank: int | None) -> tuple[dict[int, list[str]], list[str]]:
        """Row -> its new captions in order, and one failure per row."""
        images, ids = samples[self.image_key], samples.get("id")
        failures = ["" if paths else "the row has no image" for paths in images]
        single = [row for row, paths in enumerate(images) if len(paths or ()) == 1]
        paths = [images[row][0] for row in single]
        written: dict[int, list[str]] = {row: [] for row in single}
        for index, captioner in enumerate(self.captioners):
            keys = [
                f"{ids[row] if ids else ''}/{PurePath(path).name}/{index}"
                for row, path in zip(single, paths, strict=True)
            ]
            captions, reasons = captioner.caption(paths, keys, rank)
            for row, caption, reason in zip(single, captions, reasons, strict=True):
                written[row].append(caption)
                failures[row] = failures[row] or reason
        return written, failures
