"""MGM with a Gemma language model: images become tokens among the words.

Does no file reading (see checkpoint.py) and knows nothing of tokenizers (conversation.py) or pixels (images.py).
Shapes are given for MGM-2B: 576 tokens per image, hidden size 2048.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import nn
from transformers import Cache, CLIPVisionConfig, GemmaConfig, GemmaForCausalLM, GemmaModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from toolkit.mgm.conversation import IMAGE_TOKEN_INDEX
from toolkit.mgm.images import expand, normalise
from toolkit.mgm.vision import CLIPTower, ConvNeXtTower, mine_patch_info, mine_patch_info_plainly, norm_linear

# The towers of the published MGM-2B, whose config.json names their folders but not their sizes.
CLIP_LARGE_336 = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}
CONVNEXT_LARGE = {"dims": [192, 384, 768, 1536], "depths": [3, 3, 27, 3]}
GEMMA_VOCABULARY = 256000

ADAPTER_MODULES = ("mm_projector", "vlm_uni_query_projector", "vlm_uni_aux_projector", "vlm_uni_val_projector")


class MGMConfig(GemmaConfig):
    """Gemma's configuration plus the published MGM fields, plus the towers' sizes.

    Args:
        vision_config: CLIPVisionConfig fields of the main tower; default CLIP-L/14-336.
        vision_config_aux: `dims` and `depths` of the ConvNeXt tower; default ConvNeXt-L.
        image_size_aux: px of the aux tower's input.
        mm_vision_select_layer: which entry of CLIP's hidden states is used.
        tokenizer_model_max_length: a sample is cut to this many tokens after its image is expanded.
    """

    model_type = "mgm_gemma"

    def __init__(
        self,
        vision_config: dict | None = None,
        vision_config_aux: dict | None = None,
        image_size_aux: int = 768,
        mm_vision_select_layer: int = -2,
        tokenizer_model_max_length: int = 2048,
        hidden_act: str = "gelu_pytorch_tanh",
        **kwargs: Any,
    ):
        self.vision_config = vision_config or dict(CLIP_LARGE_336)
        self.vision_config_aux = vision_config_aux or dict(CONVNEXT_LARGE)
        self.image_size_aux = image_size_aux
        self.mm_vision_select_layer = mm_vision_select_layer
        self.tokenizer_model_max_length = tokenizer_model_max_length
        super().__init__(**kwargs)
        # Gemma was trained with the tanh form, while its first config files say `gelu`. transformers 5 corrects the
        # word in any Gemma, 4 in none; here it is corrected where it was wrong: for Gemma's own vocabulary.
        if hidden_act == "gelu" and self.vocab_size == GEMMA_VOCABULARY:
            hidden_act = "gelu_pytorch_tanh"
        self.hidden_act = hidden_act


class MGMModel(GemmaModel):
    """Gemma's decoder with the two towers and the adapter between them as siblings of its layers."""

    config_class = MGMConfig

    def __init__(self, config: MGMConfig):
        super().__init__(config)
        self.vision_tower = CLIPTower(CLIPVisionConfig(**config.vision_config), config.mm_vision_select_layer)
        self.vision_tower_aux = ConvNeXtTower(**config.vision_config_aux)
        self.build_adapter()
        self.reference_mode = False

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> MGMModel:
        # Rotary frequencies stay fp32 in a model of bf16 or fp16, as the reference's do. Rounded to bf16 they would be
        # wrong by up to 0.4 %: by a radian and more at the last token of an image.
        kept = self.rotary_emb.inv_freq
        super()._apply(fn, recurse)
        self.rotary_emb.inv_freq = kept.to(self.rotary_emb.inv_freq.device)
        return self

    def build_adapter(self) -> None:
        """Make the projector and the three maps of patch info mining, with torch's default initialisation."""
        width, width_aux = self.config.vision_config["hidden_size"], sum(self.config.vision_config_aux["dims"])
        hidden = self.config.hidden_size
        self.mm_projector = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden))
        self.vlm_uni_query_projector = norm_linear(width, width)
        self.vlm_uni_aux_projector = norm_linear(width_aux, width)
        self.vlm_uni_val_projector = norm_linear(width_aux, width)

    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """Images as tokens of the language model; gradients reach the adapter, never the towers.

        Args:
            pixels: [N, 3, 768, 768], uint8, of `images.scale_image`.

        Returns:
            [N, 576, 2048]
        """
        dtype = self.mm_projector[0].weight.dtype
        with torch.no_grad():
            images, images_aux = normalise(pixels, self.config.vision_config["image_size"])
            if not self.reference_mode:  # ConvNeXt's blocks work with channels last: no copies in between
                images_aux = images_aux.contiguous(memory_format=torch.channels_last)
            tokens = self.vision_tower(images.to(dtype), self.reference_mode)  # [N, 576, 1024]
            maps = self.vision_tower_aux(images_aux.to(dtype))  # [N, 192, 192, 192], ...
        return self.adapt(tokens, maps)

    def encode_nothing(self) -> torch.Tensor:
        """A zero that depends on every adapter parameter, as an image's features would.

        A batch of text alone needs it in training. Without a gradient Adam would skip the adapter's moments; and ZeRO's
        processes add up gradients in the order they arrive, which has to be that of a process with images.

        Returns:
            scalar
        """
        like = self.mm_projector[0].weight
        width, width_aux = self.config.vision_config["hidden_size"], sum(self.config.vision_config_aux["dims"])
        # Two patches per side, two positions per side of each: the smallest image that takes a real one's steps.
        return 0.0 * self.adapt(like.new_zeros(1, 4, width), [like.new_zeros(1, width_aux, 4, 4)]).sum()

    def adapt(self, tokens: torch.Tensor, maps: list[torch.Tensor]) -> torch.Tensor:
        """The part that learns: CLIP's patch tokens and the aux tower's maps -> [N, 576, 2048]."""
        mine = mine_patch_info_plainly if self.reference_mode else mine_patch_info
        mined = mine(tokens, maps, self.vlm_uni_query_projector, self.vlm_uni_aux_projector, self.vlm_uni_val_projector)
        return self.mm_projector(tokens + mined)


class MGMGemmaForCausalLM(GemmaForCausalLM):
    """MGM: answers in words to words and at most one image per sample."""

    config_class = MGMConfig

    def __init__(self, config: MGMConfig):
        # GemmaForCausalLM's own __init__ would build a second, plain Gemma first.
        super(GemmaForCausalLM, self).__init__(config)
        self.model = MGMModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.decoder: Callable[..., torch.Tensor] | None = None  # of training, see speed/decoder.py
        self.post_init()

    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """See MGMModel.encode_images."""
        return self.model.encode_images(pixels)

    @property
    def image_tokens(self) -> int:
        """How many tokens an image takes (576)."""
        vision = self.config.vision_config
        return (vision["image_size"] // vision["patch_size"]) ** 2

    def set_trainable(self, stage: Literal["pretrain", "finetune"]) -> None:
        """Let a stage's parameters learn: the adapter in pre-training; all but the two towers in finetuning."""
        self.requires_grad_(stage == "finetune")
        self.model.vision_tower.requires_grad_(False)
        self.model.vision_tower_aux.requires_grad_(False)
        for parameter in self.adapter_parameters().values():
            parameter.requires_grad_(True)

    def adapter_parameters(self) -> dict[str, nn.Parameter]:
        """The 16 tensors of the projector and of patch info mining, by checkpoint name."""
        return {
            name: parameter
            for name, parameter in self.named_parameters()
            if name.startswith(tuple(f"model.{module}." for module in ADAPTER_MODULES))
        }

    def set_stochastic_depth(self, enabled: bool) -> None:
        """Switch the aux tower's stochastic depth in training on (the fixed training) or off (equality tests)."""
        self.model.vision_tower_aux.stochastic_depth = enabled

    def set_reference_mode(self, enabled: bool) -> None:
        """Compute as the reference does: plain mining, a mask, logits of every position; fast paths must equal it."""
        self.model.reference_mode = enabled

    def expand(
        self, ids: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor | None, side: Literal["left", "right"]
    ) -> dict[str, Any]:
        """See `images.expand`; for batches that bring none."""
        return expand(ids, mask, labels, self.image_tokens, self.config.tokenizer_model_max_length, side)

    def embed(
        self, input_ids: torch.Tensor, image_features: torch.Tensor | None, expansion: dict[str, Any]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Words and images as the language model takes them.

        Args:
            input_ids: [B, L]; IMAGE_TOKEN_INDEX is an image's placeholder.
            image_features: [N, 576, 2048], one for each row with a placeholder, in row order.
            expansion: of the batch, see `images.expand`.

        Returns:
            inputs_embeds [B, M, 2048], zeros on padding; attention_mask [B, M] bool.

        Raises:
            ValueError: there are more or fewer images than rows with a placeholder.
        """
        rows = self._table(input_ids, image_features, expansion)
        source = expansion["source"].to(rows.device)
        return rows.index_select(0, source.flatten()).view(*source.shape, -1), source != len(rows) - 1

    def _table(self, ids: torch.Tensor, features: torch.Tensor | None, expansion: dict[str, Any]) -> torch.Tensor:
        """All words, then all images' tokens, then a row of zeros: what `expansion["source"]` points into."""
        words = self.model.embed_tokens(ids.masked_fill(ids == IMAGE_TOKEN_INDEX, 0))  # [B, L, 2048]
        given = 0 if features is None else len(features)
        if given != expansion["images"]:
            raise ValueError(f"{given} images for {expansion['images']} rows with an image's placeholder")
        table = [words.flatten(0, 1)]
        if features is not None:
            # transformers 5 scales inside the token embedding, 4 scales everything later; features are scaled in both.
            scaled = features * getattr(self.model.embed_tokens, "embed_scale", 1.0)
            table.append(scaled.to(words.dtype).flatten(0, 1))
        return torch.cat([*table, words.new_zeros(1, words.shape[-1])])

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        pixels: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        expansion: dict[str, Any] | None = None,
        inputs_embeds: torch.Tensor | None = None,
        logits_to_keep: int = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits, and the loss if labels are given.

        Args:
            input_ids: [B, L]; IMAGE_TOKEN_INDEX is an image's placeholder.
            attention_mask: [B, L], nonzero on real tokens; padding on the right.
            labels: [B, L], IGNORE_INDEX where nothing is learnt.
            pixels: the N images of the rows with a placeholder, in row order, see `encode_images`.
            image_features: [N, 576, 2048], their encoding, if it is known already.
            expansion: of the batch, see `images.expand`, where the loader has computed it.
            inputs_embeds, logits_to_keep: transformers' own, while it generates: only the last position's logits.

        Returns:
            loss = mean cross-entropy over all supervised tokens of the batch; logits [B, M, vocabulary] after
            expansion to M tokens. In training a `decoder` gives the loss alone: only supervised positions go
            through the vocabulary (256,000 words, a third of the language model's forward).
        """
        # While generating, Gemma's own forward sees embeddings first, then one new token at a time with the cache of
        # those before: `past_key_values` up to transformers 5.23, `cache` from 5.24 on.
        if inputs_embeds is not None or any(isinstance(value, Cache) for value in kwargs.values()):
            kwargs |= {"inputs_embeds": inputs_embeds, "logits_to_keep": logits_to_keep}
            return super().forward(input_ids=input_ids, attention_mask=attention_mask, **kwargs)
        if image_features is None and pixels is not None:
            image_features = self.encode_images(pixels)
        nothing = self.model.encode_nothing() if image_features is None and self.training else 0.0
        if expansion is None:
            expansion = self.expand(input_ids, attention_mask, labels, "right")
        if self.training and self.decoder and not self.model.reference_mode:
            rows = self._table(input_ids, image_features, expansion) + nothing
            return CausalLMOutputWithPast(loss=self.decoder(self, rows, expansion))
        inputs_embeds, mask = self.embed(input_ids, image_features, expansion)
        hidden = self.model(inputs_embeds=inputs_embeds + nothing, attention_mask=mask, use_cache=False, **kwargs)[0]
        labels = expansion["labels"].to(hidden.device)
        logits = self.lm_head(hidden).float()
        loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return CausalLMOutputWithPast(loss=loss, logits=logits)

    @torch.inference_mode()
    def generate(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        pixels: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Continue prompts, by GenerationMixin.

        Args:
            input_ids: [B, L]; IMAGE_TOKEN_INDEX is an image's placeholder.
            attention_mask: [B, L], nonzero on real tokens.
            pixels, image_features: as in `forward`.
            kwargs: `transformers.GenerationConfig` fields such as `max_new_tokens`.

        Returns:
            The new tokens only, [B, T].
        """
        if image_features is None and pixels is not None:
            image_features = self.encode_images(pixels)
        expansion = self.expand(input_ids, attention_mask, None, "left")
        inputs_embeds, mask = self.embed(input_ids, image_features, expansion)
        return super().generate(inputs_embeds=inputs_embeds, attention_mask=mask.long(), **kwargs)
