"""Image-text similarity of many rows at once with a CLIP model in transformers' format."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from data_juicer.utils.model_utils import get_model, prepare_model

from .clip_towers import Towers, towers_of
from .images import ImageError, open_image
from .loader import model_folder
from .score_store import ScoreStore, blocks_of, image_digest, revision_of, score_folder, values_per_row

_CACHED_FEATURES = 4096  # image features kept in memory, for the second caption of an image: 8 MB at width 512
# Tokens per forward pass of captions, on a GPU or not; a caption is padded to the next length, or to the model's limit.
_TEXT_PASS = {False: 240, True: 6000}
_TEXT_LENGTHS = (8, 10, 12, 15, 16, 20, 24, 30, 40, 48, 60)  # each divides a pass into whole captions


class ClipScorer:
    """Scores rows with one CLIP model; ``on_gpu`` says whether Data-Juicer gave the operator a GPU.

    A row's score depends on its images and caption alone, to the last bit: every forward pass has the same number of
    images or tokens (filled up with repeats), and a caption's padding follows from its own length. So a row has the
    same score in any batch, process or restart, and a stored score is as good as the model's.
    """

    def __init__(self, model: str, model_batch: int | None, on_gpu: bool) -> None:
        model = model_folder(model)
        # 8 images keep a core busy; more of them no longer fit into its caches.
        self.model_batch = model_batch or (128 if on_gpu else 8)
        self.on_gpu = on_gpu
        self.model_key = prepare_model("huggingface", pretrained_model_name_or_path=model)
        device = "cuda" if on_gpu else "cpu"
        self.store = ScoreStore(score_folder(), f"clip similarity 2, {revision_of(model)}, {device} float32", float)
        self._image_features: OrderedDict[bytes, torch.Tensor] = OrderedDict()  # digest -> feature of length 1

    def __getstate__(self) -> dict:
        """A worker process is sent no features."""
        return self.__dict__ | {"_image_features": OrderedDict()}

    def score(
        self, images: Sequence[Sequence[str]], captions: Sequence[str], rank: int | None = None
    ) -> tuple[list[float | None], list[str]]:
        """Similarity of each row's caption with its images.

        ``images`` holds each row's image paths. Returns one score per row (logits / 100 as Data-Juicer's own filter has
        it, which is the cosine for CLIP's usual scale of 100; mean over a row's images) and one failure per row: empty
        for a good row, else the score is None.
        """

        def compute(rows: list[int], failures: list[str]) -> Iterator[dict[int, float]]:
            # All captions before the first block: the more there are, the fewer passes must be filled up.
            texts = self._text_features([captions[row] for row in rows], rank)
            for block in blocks_of(rows):
                bad = self._cache_image_features([path for row in block for path in images[row]], rank)
                for row in block:
                    failures[row] = next((bad[path] for path in images[row] if path in bad), "")
                good = [row for row in block if not failures[row]]
                yield dict(zip(good, self._compare(good, images, captions, texts, rank), strict=True))

        return values_per_row(self.store, images, [[caption] for caption in captions], compute)

    def _towers(self, rank: int | None) -> tuple[Towers, Any]:
        """(towers, processor) of the model on this process's device."""
        model, processor = get_model(self.model_key, rank, self.on_gpu)
        return towers_of(model, self.model_batch, _TEXT_PASS[self.on_gpu]), processor

    def _compare(
        self,
        rows: list[int],
        images: Sequence[Sequence[str]],
        captions: Sequence[str],
        texts: dict[str, torch.Tensor],
        rank: int | None,
    ) -> list[float]:
        """The scores of rows whose image features are cached; ``texts``: caption -> feature."""
        scale = self._towers(rank)[0].scale / 100.0
        scores = []
        for row in rows:
            digests = map(image_digest, images[row])
            features = torch.stack([self._image_features[digest] for digest in digests])  # [images, width]
            # In double precision, where the order of the sum does not show in the result.
            scores.append(scale * (features.double() @ texts[captions[row]].double()).mean().item())
        return scores

    @torch.inference_mode()
    def _cache_image_features(self, paths: Sequence[str], rank: int | None) -> dict[str, str]:
        """Cache the feature of every image; returns path -> reason for those that cannot be read."""
        towers, processor = self._towers(rank)
        digests = {path: image_digest(path) for path in dict.fromkeys(paths)}
        new = {digest: path for path, digest in digests.items() if digest not in self._image_features}
        for digest in digests.values():
            if digest in self._image_features:
                self._image_features.move_to_end(digest)
        bad: dict[bytes, str] = {}

        def load(item: tuple[bytes, str]) -> tuple[bytes, torch.Tensor] | None:
            try:
                pixels = processor.image_processor(open_image(item[1]), return_tensors="pt")["pixel_values"][0]
            except ImageError as error:
                bad[item[0]] = str(error)
                return None
            return item[0], pixels  # [3, size, size]

        with ThreadPoolExecutor(2) as threads:
            loaded = (item for item in _ahead(threads, load, list(new.items()), self.model_batch) if item)
            for batch in _batches(loaded, self.model_batch):
                pixels = _filled([pixels for _, pixels in batch], self.model_batch).to(towers.device)
                features = towers.image_features(pixels)[: len(batch)].cpu()  # [batch, width]
                self._image_features.update(zip([digest for digest, _ in batch], features.clone(), strict=True))
        while len(self._image_features) > max(_CACHED_FEATURES, len(digests)):
            self._image_features.popitem(last=False)
        return {path: bad[digest] for path, digest in digests.items() if digest in bad}

    @torch.inference_mode()
    def _text_features(self, captions: Sequence[str], rank: int | None) -> dict[str, torch.Tensor]:
        """Caption -> its feature [width], of length 1; captions of about one length share a forward pass."""
        towers, processor = self._towers(rank)
        longest = towers.text.config.max_position_embeddings
        tokens = {
            caption: processor.tokenizer(caption, truncation=True, max_length=longest)["input_ids"]
            for caption in dict.fromkeys(captions)
        }
        by_length: dict[int, list[str]] = {}
        for caption, ids in tokens.items():
            length = next((length for length in _TEXT_LENGTHS if len(ids) <= length < longest), longest)
            by_length.setdefault(length, []).append(caption)
        features = {}
        for length, group in sorted(by_length.items()):
            count = max(_TEXT_PASS[self.on_gpu] // length, 1)
            for batch in _batches(iter(group), count):
                # Attention is causal: tokens after a caption's end change nothing and need no mask.
                padded = [(tokens[caption] + [tokens[caption][-1]] * length)[:length] for caption in batch]
                ids = _filled([torch.tensor(row) for row in padded], count).to(towers.device)
                features.update(zip(batch, towers.text_features(ids)[: len(batch)].cpu().clone(), strict=True))
        return features


def _filled(tensors: list[torch.Tensor], count: int) -> torch.Tensor:
    """Stack to [count, ...], the last tensor repeated: kernels round differently for other batch sizes."""
    return torch.stack(tensors + [tensors[-1]] * (count - len(tensors)))


def _batches(items: Iterator, count: int) -> Iterator[list]:
    """The items in lists of ``count``, the last one shorter."""
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == count:
            yield batch
            batch = []
    if batch:
        yield batch


def _ahead(threads: ThreadPoolExecutor, call: Callable, items: list, ahead: int) -> Iterator:
    """call(item) for every item, in order; ``ahead`` of them are computed while the caller is busy."""
    waiting = [threads.submit(call, item) for item in items[:ahead]]
    for item in items[ahead:]:
        done = waiting.pop(0).result()
        waiting.append(threads.submit(call, item))
        yield done
    for future in waiting:
        yield future.result()
