"""Give poorly matching pairs a new caption, and keep it only where it fits the image better."""

from pathlib import PurePath
from typing import Annotated

from data_juicer.ops.base_op import OPERATORS, Mapper
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from .common.captioner import LOCAL, Captioner
from .common.captions import caption_of, with_caption
from .common.clip import ClipScorer
from .common.reasons import recaptioned
from .common.rows import FAILURE, NOTE, Batch, add_texts, count_rows
from .common.server_captioner import ServerCaptioner, for_data_juicer, server_of


@OPERATORS.register_module("conditional_recaption_mapper")
class ConditionalRecaptionMapper(Mapper):
    """Recaption the rows whose CLIP similarity lies in [min_score, below); better new captions replace the old ones."""

    _accelerator = "cuda"
    _batched_op = True

    def __init__(
        self,
        hf_clip: str = "openai/clip-vit-base-patch32",
        hf_captioner: str = LOCAL,
        min_score: Annotated[float, Field(ge=-1, le=1)] = -1.0,
        below: Annotated[float, Field(ge=-1, le=1)] = 0.28,
        min_gain: NonNegativeFloat = 0.0,
        min_new_score: Annotated[float, Field(ge=-1, le=1)] = -1.0,
        min_words: PositiveInt = 2,
        max_words: PositiveInt = 30,
        prompt: str = "",
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
        """Keep a new caption where it scores more than min_gain above the old one.

        :param hf_clip: folder (or hub name) of a CLIPModel with its processor, which scores the captions
        :param hf_captioner: folder (or hub name) of an image-to-text model with its processor
        :param min_score: rows under this similarity are left alone
        :param below: rows at or above this similarity are left alone
        :param min_gain: by how much the new caption's similarity must exceed the old one's
        :param min_new_score: lowest similarity that a new caption must have
        :param min_words: a new caption with fewer words is not used
        :param max_words: a new caption with more words is not used
        :param prompt: text the captioner continues; empty for none
        :param max_new_tokens: longest new caption, in the captioner's tokens
        :param temperature: 0 takes the likeliest caption, above 0 samples one (same row and seed, same caption)
        :param seed: changes the sampled captions
        :param model_batch: images in one forward pass of the captioner
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
        super().__init__(*args, **for_data_juicer(server, kwargs))
        if min_score >= below:
            raise ValueError(f"min_score {min_score} must be smaller than below {below}")
        self.min_score = min_score
        self.below = below
        self.min_gain = min_gain
        self.min_new_score = min_new_score
        self.min_words = min_words
        self.max_words = max_words
        self.scorer = ClipScorer(hf_clip, None, self.use_cuda())
        settings = (prompt, max_new_tokens, temperature, seed)
        self.captioner: Captioner | ServerCaptioner
        if server:
            self.captioner = ServerCaptioner(server, *settings, max_side)
            self.captioner.require_server()
        else:
            self.captioner = Captioner(hf_captioner, *settings, model_batch, self.use_cuda())

    def process_batched(self, samples: Batch, rank: int | None = None) -> Batch:
        """Replace captions in place; rows with several images are left alone, an unreadable image fails its row."""
        texts, images = samples[self.text_key], samples[self.image_key]
        captions = [caption_of(text) for text in texts]
        scores, failures = self.scorer.score(images, captions, rank)
        notes = [""] * count_rows(samples)
        poor = [
            row
            for row, score in enumerate(scores)
            if score is not None and self.min_score <= score < self.below and len(images[row]) == 1
        ]
        new_captions = self._new_captions(samples, poor, failures, rank)
        new_scores, _ = self.scorer.score([images[row] for row in new_captions], list(new_captions.values()), rank)
        for (row, caption), score in zip(new_captions.items(), new_scores, strict=True):
            is_readable = score is not None  # the image may be gone since
            if is_readable and score > scores[row] + self.min_gain and score >= self.min_new_score:
                texts[row] = with_caption(texts[row], caption)
                notes[row] = recaptioned(score, scores[row])
        add_texts(samples, FAILURE, failures)
        add_texts(samples, NOTE, notes)
        return samples

    def _new_captions(self, samples: Batch, poor: list[int], failures: list[str], rank: int | None) -> dict[int, str]:
        """Row -> usable new caption, for the rows ``poor``."""
        images, ids = samples[self.image_key], samples.get("id")
        keys = [f"{ids[row] if ids else ''}/{PurePath(images[row][0]).name}" for row in poor]
        captions, reasons = self.captioner.caption([images[row][0] for row in poor], keys, rank)
        for row, reason in zip(poor, reasons, strict=True):
            failures[row] = failures[row] or reason
        return {
            row: caption
            for row, caption in zip(poor, captions, strict=True)
            if self.min_words <= len(caption.split()) <= self.max_words
        }
