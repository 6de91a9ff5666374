"""Greedy decoding with Gemma's layers over one key-value cache: the same words as transformers' `generate`.

What it leaves out: sampling, beams, every model but Gemma. What it saves:

- Questions on one image share its keys and values: the prompt up to the image's last token is computed once an image.
- Prompts are padded on the right, so a token's place in the cache is its position, and new words overwrite padding.
- On a GPU a step is recorded once as a CUDA graph; launching its 800 kernels one by one takes ten times as long as they
  do.

Shapes are given for MGM-2B: 18 layers, 8 heads that share 1 head of keys and values, head width 256.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from toolkit.mgm.conversation import IMAGE_TOKEN_INDEX
from toolkit.mgm.model import MGMGemmaForCausalLM
from toolkit.weights import first_line

# On a GPU lengths are rounded up to these: every new one costs a graph, or a search for the quickest kernel.
SUFFIX_STEP = 32
# All kinds of attention but cuDNN's, which builds a plan for every new shape.
PLANLESS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
CACHE_STEP = 256

Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class Decoder:
    """Continues prompts.

    Args:
        model: on its device, in evaluation mode.
        ends: tokens that end an answer.
        pad: the padding token.
    """

    def __init__(self, model: MGMGemmaForCausalLM, ends: Sequence[int], pad: int):
        self.model, self.gemma = model, model.model
        self.device, self.pad = model.device, pad
        self.ends = torch.tensor(ends, device=self.device)
        config = model.config
        self.kv_heads, self.head_dim = config.num_key_value_heads, config.head_dim
        # transformers 5 scales words in the embedding, 4 scales words and images before the first layer.
        late = not hasattr(self.gemma.embed_tokens, "embed_scale")
        self.scale = torch.tensor(config.hidden_size**0.5, dtype=model.dtype) if late else None
        self.on_gpu = self.device.type == "cuda"
        self.graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self.use_graphs = self.on_gpu
        self.keys = self.values = torch.empty(0)

    def reserve(self, rows: int, length: int) -> None:
        """Make the cache large enough for so many prompts of so many tokens, new ones included."""
        if self.on_gpu:
            length = _round_up(length, CACHE_STEP)
        if self.keys.ndim == 5 and self.keys.shape[1] >= rows and self.keys.shape[3] >= length:
            return
        self.graphs.clear()
        shape = (len(self.gemma.layers), rows, self.kv_heads, length, self.head_dim)
        del self.keys, self.values
        # Zeros: what is masked is multiplied by zero, and must be finite.
        self.keys = torch.zeros(shape, dtype=self.model.dtype, device=self.device)
        self.values = torch.zeros_like(self.keys)
        positions = torch.arange(length, device=self.device)
        cos, sin = self.gemma.rotary_emb(self.keys[:1, :1, 0, :1], positions[None])
        self.positions, self.rotation = positions, (cos[0], sin[0])  # [T], 2 x [T, 256]
        # What a recorded step reads and writes.
        self.tokens, self.lengths = (torch.zeros(rows, dtype=torch.long, device=self.device) for _ in range(2))
        self.done = torch.zeros(rows, dtype=torch.bool, device=self.device)
        self.too_early = torch.zeros(len(self.ends), dtype=self.model.dtype, device=self.device)

    @torch.inference_mode()
    def prefixes(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Keys and values of prompts' common beginnings.

        Args:
            embeddings: [N, P, 2048], of `MGMGemmaForCausalLM.embed`, all of one length.

        Returns:
            [18, 2, N, 1, P, 256]
        """
        found: list[torch.Tensor] = []

        def attend(_: int, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
            found.append(torch.stack([keys, values]))
            groups = queries.shape[1] // keys.shape[1]
            keys, values = (tensor.repeat_interleave(groups, dim=1) for tensor in (keys, values))
            return F.scaled_dot_product_attention(queries, keys, values, is_causal=True)

        length = embeddings.shape[1]
        self._layers(embeddings, tuple(table[:length] for table in self.rotation), attend)
        return torch.stack(found)

    @torch.inference_mode()
    @sdpa_kernel(PLANLESS)
    def continue_prompts(
        self,
        prefixes: torch.Tensor,
        owners: Sequence[int],
        suffixes: Sequence[Sequence[int]],
        max_new_tokens: int,
        min_new_tokens: int = 0,
    ) -> list[list[int]]:
        """New tokens of each prompt, up to the one that ends it.

        Args:
            prefixes: of `prefixes`.
            owners: which of them each prompt begins with.
            suffixes: the rest of each prompt, one token or more; `reserve` was told of their number and length.
            max_new_tokens: longest answer.
            min_new_tokens: an answer does not end before.
        """
        start, rows = prefixes.shape[4], len(suffixes)
        lengths = [len(suffix) for suffix in suffixes]
        chosen = torch.tensor(owners, device=self.device)
        self.keys[:, :rows, :, :start] = prefixes[:, 0].index_select(1, chosen)
        self.values[:, :rows, :, :start] = prefixes[:, 1].index_select(1, chosen)

        self.lengths.fill_(start)
        self.lengths[:rows] += torch.tensor(lengths, device=self.device)
        self.done.fill_(True)
        self.done[:rows] = False
        self._forbid_ends(min_new_tokens > 0)
        self._choose(self._suffixes(suffixes, start), slice(rows))
        chosen_tokens = [self.tokens[:rows].clone()]
        for number in range(1, max_new_tokens):
            if self.done.all():
                break
            self._forbid_ends(number < min_new_tokens)
            self._step(start + max(lengths) + number, rows)
            chosen_tokens.append(self.tokens[:rows].clone())
        ends = set(self.ends.tolist())
        return [_until(answer, ends) for answer in torch.stack(chosen_tokens, dim=1).tolist()]

    def _forbid_ends(self, forbidden: bool) -> None:
        self.too_early.fill_(float("-inf") if forbidden else 0.0)

    def _suffixes(self, suffixes: Sequence[Sequence[int]], start: int) -> torch.Tensor:
        """Add the rests of prompts to the cache, from `start` on.

        All their W words pass the layers in one row without padding; only attention sees them as [B, S].

        Returns:
            hidden state of the last word of each, [B, 2048]
        """
        rows, longest = len(suffixes), max(map(len, suffixes))
        width = _round_up(start + longest, SUFFIX_STEP) - start if self.on_gpu else longest
        end = min(start + width, self.keys.shape[3])
        width = end - start
        words = torch.tensor([word for suffix in suffixes for word in suffix])
        row = torch.tensor([number for number, suffix in enumerate(suffixes) for _ in suffix])
        place = torch.tensor([number for suffix in suffixes for number in range(len(suffix))])
        last = torch.tensor([len(suffix) for suffix in suffixes]).cumsum(0) - 1
        words, row, place, last = (tensor.to(self.device) for tensor in (words, row, place, last))
        slots = place + start
        visible = self.positions[:end] <= self.positions[start:end, None]  # [S, T]

        def attend(layer: int, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
            self.keys[layer][row, :, slots] = keys[0].transpose(0, 1)
            self.values[layer][row, :, slots] = values[0].transpose(0, 1)
            padded = queries.new_zeros(rows, width, *queries.shape[1::2])  # [B, S, 8, 256]
            padded[row, place] = queries[0].transpose(0, 1)
            found = self._attend_cache(layer, padded.transpose(1, 2), rows, end, visible)
            return found.transpose(1, 2)[row, place].transpose(0, 1)[None]

        rotation = tuple(table[slots] for table in self.rotation)
        return self._layers(self._embed(words[None]), rotation, attend)[0, last]

    def _step(self, end: int, rows: int) -> None:
        """One more token of each row, which sees `end` places of the cache; by a graph where there is a GPU."""
        if self.on_gpu:
            end = min(_round_up(end, CACHE_STEP), self.keys.shape[3])
        if not self.use_graphs:
            self._plain_step(end, rows)
            return
        if end not in self.graphs:
            try:
                self.graphs[end] = self._record(end)
            except RuntimeError as error:
                print(f"CUDA graphs are off, answers take longer: {first_line(error)}", file=sys.stderr, flush=True)
                self.use_graphs = False
                self._plain_step(end, rows)
                return
        self.graphs[end].replay()

    def _record(self, end: int) -> torch.cuda.CUDAGraph:
        """A step of all rows as a graph; leaves tokens and lengths as they were."""
        state = [tensor.clone() for tensor in (self.tokens, self.lengths, self.done)]
        rows = len(self.tokens)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # libraries choose their kernels, which no graph can record
            self._plain_step(end, rows)
        torch.cuda.current_stream().wait_stream(stream)
        for tensor, value in zip((self.tokens, self.lengths, self.done), state, strict=True):
            tensor.copy_(value)
        # All they hand on lies outside the graphs' memory, so graphs of all lengths may use the same.
        pool = next((known.pool() for known in self.graphs.values()), None)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            self._plain_step(end, rows)
        return graph

    def _plain_step(self, end: int, rows: int) -> None:
        """The first `rows` tokens go through the layers and are replaced by their successors; nothing waits."""
        lengths = self.lengths[:rows]
        numbers = torch.arange(rows, device=self.device)
        visible = (self.positions[:end] <= lengths[:, None])[:, None, None]  # [B, 1, 1, T]
        rotation = tuple(table[lengths][:, None, None] for table in self.rotation)  # [B, 1, 1, 256]

        def attend(layer: int, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
            self.keys[layer][numbers, :, lengths] = keys[:, :, 0]
            self.values[layer][numbers, :, lengths] = values[:, :, 0]
            return self._attend_cache(layer, queries, rows, end, visible)

        hidden = self._layers(self._embed(self.tokens[:rows, None]), rotation, attend)
        self._choose(hidden[:, 0], slice(rows))
        lengths += 1

    def _attend_cache(
        self, layer: int, queries: torch.Tensor, rows: int, end: int, visible: torch.Tensor
    ) -> torch.Tensor:
        """Attention of queries [B, 8, S, 256] to the cache's first `end` tokens, where `visible` [.., S, T] says so."""
        rows_of, heads, length, width = queries.shape
        groups = heads // self.kv_heads
        # Heads that share keys are more queries to one head: nothing is repeated.
        queries = queries.reshape(rows_of, self.kv_heads, groups * length, width)
        mask = visible.repeat(*[1] * (visible.ndim - 2), groups, 1)
        keys, values = self.keys[layer, :rows, :, :end], self.values[layer, :rows, :, :end]
        found = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        return found.reshape(rows_of, heads, length, width)

    def _layers(self, x: torch.Tensor, rotation: tuple[torch.Tensor, ...], attend: Attend) -> torch.Tensor:
        """[B, S, 2048] through Gemma's layers, without its last norm; attention is the caller's."""
        rows, length, _ = x.shape
        if self.scale is not None:
            x = x * self.scale
        for number, layer in enumerate(self.gemma.layers):
            attention, normed = layer.self_attn, layer.input_layernorm(x)
            queries, keys, values = (
                project(normed).view(rows, length, -1, self.head_dim).transpose(1, 2)
                for project in (attention.q_proj, attention.k_proj, attention.v_proj)
            )
            found = attend(number, _rotate(queries, *rotation), _rotate(keys, *rotation), values)
            x = x + attention.o_proj(found.transpose(1, 2).reshape(rows, length, -1))
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        return x

    def _embed(self, words: torch.Tensor) -> torch.Tensor:
        return self.gemma.embed_tokens(words.masked_fill(words == IMAGE_TOKEN_INDEX, 0))

    def _choose(self, hidden: torch.Tensor, rows: slice) -> None:
        """Take the likeliest token after each row's hidden state [B, 2048]."""
        logits = self.model.lm_head(self.gemma.norm(hidden))
        logits[:, self.ends] += self.too_early
        chosen = logits.argmax(dim=-1).masked_fill(self.done[rows], self.pad)
        self.tokens[rows] = chosen
        self.done[rows] |= (chosen[:, None] == self.ends).any(dim=1)


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding of [B, heads, S, 256], in the halves that Gemma pairs."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], dim=-1) * sin


def _round_up(number: int, step: int) -> int:
    return -(-number // step) * step


def _until(tokens: list[int], ends: set[int]) -> list[int]:
    """Tokens up to the first that ends the answer."""
    return tokens[: next((place for place, token in enumerate(tokens, 1) if token in ends), len(tokens))]
