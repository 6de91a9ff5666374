"""The mini Gemma: four layers of 128 channels that answer questions about a described scene."""

from __future__ import annotations

import math
import random
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoTokenizer, GemmaConfig, GemmaForCausalLM, PreTrainedTokenizerBase

from toolkit.mini.text_samples import ImageSimulator, TextSample, draw_sample
from toolkit.mini.tokenizer import build_tokenizer
from toolkit.mini.training import IGNORED, MiniTrainer

HIDDEN, LAYERS, HEADS, HEAD_SIZE, INTERMEDIATE = 128, 4, 4, 32, 384
STEPS, BATCH, LEARNING_RATE = 3000, 12, 2.5e-3
INITIAL_STD = 0.08
ANSWER_WEIGHT = 9.0  # against 1 for other text
CODE = 18  # channels of a token's code, rotated least by the position encoding
FIRST_CODE_PAIR = HEAD_SIZE // 2 - CODE // 2


def build_gemma(folder: Path, steps: int = STEPS) -> None:
    """Train tokenizer and model and store both in `folder`, as a Hugging Face Gemma."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    build_tokenizer(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = GemmaForCausalLM(_config(tokenizer))
    initialise(model)
    rng = random.Random("gemma")
    simulator = ImageSimulator(tokenizer)
    trainer = MiniTrainer("gemma", model.parameters(), LEARNING_RATE, steps, weight_decay=0.01)
    for _ in range(steps):
        samples = [draw_sample(rng, tokenizer) for _ in range(BATCH)]
        trainer.step(sample_losses(model, simulator, samples))
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)


def _config(tokenizer: PreTrainedTokenizerBase) -> GemmaConfig:
    return GemmaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        head_dim=HEAD_SIZE,
        max_position_embeddings=2048,
        initializer_range=INITIAL_STD,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


def sample_losses(
    model: GemmaForCausalLM, simulator: ImageSimulator, samples: list[TextSample]
) -> dict[str, torch.Tensor]:
    """Next-token losses of answers (mean, weighted) and of other text."""
    length = max(len(sample.ids) for sample in samples)
    ids = torch.tensor([sample.ids + [0] * (length - len(sample.ids)) for sample in samples])
    answers = torch.tensor([sample.answers + [False] * (length - len(sample.ids)) for sample in samples])
    embeddings = model.get_input_embeddings()(ids)
    scenes = {number: sample.scene for number, sample in enumerate(samples) if sample.scene}
    if scenes:
        simulated = simulator(list(scenes.values()), model.get_input_embeddings().weight)
        for number, image in zip(scenes, simulated, strict=True):
            start = samples[number].image_start
            embeddings[number, start : start + len(image)] = image
    hidden = model.model(
        inputs_embeds=embeddings, attention_mask=(torch.arange(length) < _lengths(samples))
    ).last_hidden_state
    targets = ids.masked_fill(ids == 0, IGNORED)
    return {
        "answers": ANSWER_WEIGHT / (ANSWER_WEIGHT + 1) * _next_token_loss(model, hidden, targets, answers),
        "text": 1 / (ANSWER_WEIGHT + 1) * _next_token_loss(model, hidden, targets, ~answers),
    }


def _lengths(samples: list[TextSample]) -> torch.Tensor:
    return torch.tensor([[len(sample.ids)] for sample in samples])


def _next_token_loss(model, hidden: torch.Tensor, targets: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    use = (chosen & (targets != IGNORED))[:, 1:]
    return F.cross_entropy(model.lm_head(hidden[:, :-1][use]), targets[:, 1:][use])


@torch.no_grad()
def initialise(model: GemmaForCausalLM) -> None:
    """Initialise attention so that it can copy: heads that look one or two tokens back, then heads that match.

    Layer 0 writes the codes of the two preceding tokens into channels of their own. In layers 1 and 2 two heads look
    for tokens that followed the current one before (an induction head, Olsson et al., 2209.11895) and one for earlier
    occurrences of it; all copy what they find towards the output. Gradient descent alone takes far longer than the
    mini world's minutes to find this.
    """
    draw = torch.Generator().manual_seed(1)
    basis = torch.linalg.qr(torch.randn(HIDDEN - 1, HIDDEN - 1, generator=draw))[0]
    basis = torch.cat([torch.zeros(HIDDEN - 1, 1), basis], dim=1)  # channel 0 is kept for a constant
    code, previous, before_that = basis[:CODE], basis[CODE : 2 * CODE], basis[2 * CODE : 3 * CODE]  # [18, 128] each
    embedding = model.get_input_embeddings().weight
    embedding[:, 0] = 2.5 * INITIAL_STD
    layers = model.model.layers
    for layer in layers:
        for projection in (layer.self_attn.o_proj, layer.mlp.down_proj):
            nn.init.normal_(projection.weight, std=INITIAL_STD / math.sqrt(2 * LAYERS))
    for head, written, offset in ((0, previous, 1), (1, before_that, 2)):
        _look_back(layers[0].self_attn, head, offset)
        _carry(layers[0].self_attn, head, code, written, 1.5)
    for layer in layers[1:3]:
        for head, key in ((0, previous), (1, before_that), (2, code)):
            _match(layer.self_attn, head, code, key)
            copied = basis[3 * CODE + 3 : 3 * CODE + 3 + HEAD_SIZE] if head == 0 else code
            _carry(layer.self_attn, head, copied, copied, 1.0)


def _rows(head: int) -> slice:
    return slice(head * HEAD_SIZE, (head + 1) * HEAD_SIZE)


def _look_back(attention: nn.Module, head: int, offset: int) -> None:
    """Query and key from the constant channel only, turned so that their product peaks `offset` tokens back."""
    half = HEAD_SIZE // 2
    angles = offset * 10000.0 ** (-torch.arange(half) / half)
    query = torch.cat([torch.ones(half), torch.zeros(half)])
    key = torch.cat([angles.cos(), angles.sin()])
    for projection, value in ((attention.q_proj, query), (attention.k_proj, key)):
        projection.weight[_rows(head)] *= 0.1
        projection.weight[_rows(head), 0] = 2.6 * value


def _match(attention: nn.Module, head: int, query: torch.Tensor, key: torch.Tensor) -> None:
    """The current token's code looks for the same code in the channels `key`."""
    half, start = HEAD_SIZE // 2, FIRST_CODE_PAIR
    channels = [*range(start, half), *range(half + start, HEAD_SIZE)]
    rows = torch.tensor(channels) + head * HEAD_SIZE
    for projection, source in ((attention.q_proj, query), (attention.k_proj, key)):
        projection.weight[_rows(head)] *= 0.1
        projection.weight[rows] = 1.5 * source


def _carry(attention: nn.Module, head: int, read: torch.Tensor, write: torch.Tensor, gain: float) -> None:
    """Values are the channels `read`; the output adds them to the channels `write`."""
    attention.v_proj.weight[_rows(head)] *= 0.1
    attention.v_proj.weight[_rows(head)][: len(read)] = read
    attention.o_proj.weight[:, _rows(head)] *= 0.1
    attention.o_proj.weight[:, _rows(head)][:, : len(write)] = gain * write.T
