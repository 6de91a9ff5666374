"""Reduce a data set to a size without losing any kind of row: the best rows of every cluster."""

from collections import Counter
from typing import Any, Literal

import torch
from data_juicer.ops.base_op import OPERATORS, Selector
from pydantic import PositiveInt

from .common.captions import caption_of
from .common.images import open_images
from .common.kmeans import kmeans, shares
from .common.loader import device_for, load_model, model_folder
from .common.reasons import not_best_of_cluster
from .common.rows import FAILURE, ROW, Batch
from .common.score_threshold_selector import scores_of


@OPERATORS.register_module("cluster_balanced_selector")
class ClusterBalancedSelector(Selector):
    """Groups rows by k-means on CLIP's embedding of caption or image, and keeps each cluster's share of `cap`.

    Inside a cluster the best rows by `score_key` stay; equal ones in order. A row with an unreadable image fails.
    Embeddings are held in half precision: 1 kB per row at CLIP ViT-B's 512 numbers.
    """

    _accelerator = "cuda"

    def __init__(
        self,
        hf_clip: str = "openai/clip-vit-base-patch32",
        embed: Literal["caption", "picture"] = "caption",
        clusters: PositiveInt = 1000,
        cap: PositiveInt = 200_000,
        score_key: str = "clip_similarity",
        seed: int = 0,
        model_batch: PositiveInt = 64,
        *args,
        **kwargs,
    ) -> None:
        """Keep each cluster's share.

        :param hf_clip: folder (or hub name) of a CLIPModel with its processor
        :param embed: what is grouped, `caption` or `picture` (a row's first one)
        :param clusters: number of groups; there must be as many rows
        :param cap: rows to keep; with fewer rows all stay
        :param score_key: the score in the stats that says which rows are best (highest first)
        :param seed: changes the clusters
        :param model_batch: rows in one forward pass
        """
        super().__init__(*args, **kwargs)
        self.hf_clip = model_folder(hf_clip)
        self.embed = embed
        self.clusters = clusters
        self.cap = cap
        self.score_key = score_key
        self.seed = seed
        self.model_batch = model_batch
        self.dropped_because: dict[int, str] = {}

    def process(self, dataset):
        """Dataset with stats -> dataset of at most `cap` rows, in order; an audit gets failed rows too, marked."""
        self.dropped_because = {}
        if len(dataset) <= self.cap:
            return dataset
        scores = scores_of(dataset, self.score_key)
        failures = [""] * len(dataset)
        rows, features = self._features(dataset, failures)
        device = device_for(self.use_cuda(), None)
        groups = kmeans(features.to(device), self.clusters, self.seed).tolist()
        remaining = dict(enumerate(shares([Counter(groups)[number] for number in range(self.clusters)], self.cap)))
        is_audited = ROW in dataset.column_names
        kept = {row for row, failure in enumerate(failures) if failure and is_audited}
        for index in sorted(range(len(rows)), key=lambda index: -scores[rows[index]]):
            row, group = rows[index], groups[index]
            if remaining[group]:
                remaining[group] -= 1
                kept.add(row)
            else:
                self.dropped_because[row] = not_best_of_cluster(self.score_key, group)
        chosen = sorted(kept)
        result = dataset.select(chosen)
        return result.add_column(FAILURE, [failures[row] for row in chosen]) if is_audited else result

    def _features(self, dataset: Any, failures: list[str]) -> tuple[list[int], torch.Tensor]:
        """(rows, their embeddings [rows, width], unit vectors in half precision); bad images go to ``failures``."""
        model, processor = load_model(self.hf_clip, device_for(self.use_cuda(), None), torch.float32, "CLIPModel")
        inputs_of = self._caption_inputs if self.embed == "caption" else self._image_inputs
        embed = model.get_text_features if self.embed == "caption" else model.get_image_features
        rows, parts = [], []
        for start in range(0, len(dataset), self.model_batch):
            part = dataset[start : start + self.model_batch]
            batch_rows, inputs = inputs_of(part, start, processor, failures)
            if batch_rows:
                with torch.inference_mode():
                    features = embed(**inputs.to(model.device))  # [rows, width]
                rows += batch_rows
                parts.append(torch.nn.functional.normalize(features, dim=-1).half().cpu())
        if not parts:
            raise ValueError("no row has an image that can be read")
        return rows, torch.cat(parts)

    def _caption_inputs(self, part: Batch, start: int, processor: Any, failures: list[str]) -> tuple[list[int], Any]:
        """(rows, token ids) of the captions of ``part``, which starts at row ``start``."""
        captions = [caption_of(text) for text in part[self.text_key]]
        tokens = processor(text=captions, return_tensors="pt", padding=True, truncation=True)
        return list(range(start, start + len(captions))), tokens

    def _image_inputs(self, part: Batch, start: int, processor: Any, failures: list[str]) -> tuple[list[int], Any]:
        """(rows, pixels) of the images that can be read; the reasons of others go to ``failures``."""
        paths = [(start + index, own[0] if own else "") for index, own in enumerate(part[self.image_key])]
        opened = list(open_images(paths, failures))
        pixels = processor(images=[image for _, image in opened], return_tensors="pt") if opened else None
        return [row for row, _ in opened], pixels
