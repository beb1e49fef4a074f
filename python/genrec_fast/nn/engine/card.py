"""A decoder on a card: its weights where they are, and between their products the kernels of a search."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from genrec_fast.base.errors import InvalidTypeError, InvalidValueError, UnsupportedError
from genrec_fast.base.jagged import Jagged, offsets_of, spans
from genrec_fast.nn.engine.block import grown_table, rotary_table
from genrec_fast.nn.engine.card_session import Attend, CardSession, KeysValues, Room
from genrec_fast.ops.beam_attention import MOST_WIDTH
from genrec_fast.ops.jagged_attention import jagged_attention
from genrec_fast.ops.residual_norm import MOST_ON_CARD, residual_norm
from genrec_fast.ops.rotary import rotary
from genrec_fast.ops.transformer_spec import TransformerSpec

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": functools.partial(F.gelu, approximate="tanh"),
    "silu": F.silu,
}
_LOGITS_AT_ONCE = 1 << 28  # float32 of a vocabulary's: 1 GiB
_HIDDEN = -1e30  # a score whose weight is 0 beside any other's; -inf would make one of a chunk without another NaN


class CardEngine:
    """A decoder by torch's products and the kernels for cards; what it begins is a ``CardSession``.

    Args:
        spec: of its one stack, causal, without cross-attention.
        weights: by the names of ``pack_stacks``, on the card; those of the embedding's type are not copied.
        tensors: "embedding", and where the family has them "positions" and "inverse_frequencies".
        note: "embedding_scale", "attention_scaling".

    Raises:
        UnsupportedError: a stack that the kernels do not run.
    """

    def __init__(
        self,
        spec: TransformerSpec,
        weights: Mapping[str, Tensor],
        tensors: Mapping[str, Tensor],
        note: Mapping[str, Any],
    ) -> None:
        for holds, what in (
            (spec.causal and not spec.cross_width, "a decoder alone"),
            (spec.head_width <= MOST_WIDTH, f"heads of at most {MOST_WIDTH}"),
            (spec.width <= MOST_ON_CARD, f"rows of at most {MOST_ON_CARD}"),
            (spec.window != 1, "a window that shows more than a token itself"),
        ):
            if not holds:
                raise UnsupportedError(f"CardEngine: spec must be of {what}, got {spec}")
        self.spec, self.tensors, self.note = spec, dict(tensors), dict(note)
        self.embedding = self.tensors["embedding"]
        self.weights = {name: weight.detach().to(self.embedding.dtype) for name, weight in weights.items()}
        self.vocab_size = spec.head_size
        self._tables: dict[str, Tensor] = {}

    @property
    def device(self) -> torch.device:
        """Where it runs, and the search with it."""
        return self.embedding.device

    def prefill(
        self,
        prompts: Jagged,
        decoder_prompts: Jagged | None = None,
        *,
        encoded: bool = False,
        known: Sequence[tuple[CardSession, int] | None] = (),
    ) -> CardSession:
        """Reads every prompt once; see ``NativeEngine.prefill``.

        Raises:
            InvalidTypeError: prompts are not int64 Jagged.
            InvalidValueError: an empty prompt, a token outside the vocabulary, or too long a prompt.
        """
        if decoder_prompts is not None or encoded:
            raise InvalidValueError(f"prefill: this model takes no decoder_prompts, got {decoder_prompts!r:.40}")
        self._check(prompts)
        lengths = prompts.lengths.cpu()
        used = torch.tensor([0 if old is None else old[1] for old in known]) if known else torch.zeros_like(lengths)
        longest = int((used + lengths).max()) if len(lengths) else 1
        positions = spans(used, lengths).values.to(self.device)
        offsets = offsets_of(used + lengths).to(self.device)
        before = self._known(known, used) if bool(used.any()) else None
        prompts = prompts.to(self.device)
        kept: list[KeysValues] = []

        def attend(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            keys, values = keys.contiguous(), values.contiguous()  # of what one product made, the rest of which goes
            if before is not None:
                at, old = before
                keys, values = (
                    Jagged(part[at.values], at.offsets).followed_by(Jagged(new, prompts.offsets)).values
                    for part, new in zip(old[layer], (keys, values), strict=True)
                )
            kept.append((keys, values))
            return self._read_over(queries, keys, values, prompts.offsets, offsets, longest)

        x = self.embed(prompts.values, positions, longest)
        hidden = self.run(x, positions, longest, attend, last=prompts.offsets[1:] - 1)
        return CardSession(self, tuple(kept), offsets, longest, hidden.unsqueeze(1), Room.none(self, len(lengths)))

    def embed(self, tokens: Tensor, positions: Tensor, reach: int) -> Tensor:
        """``[R, D]`` of int64 tokens at positions ``[R]``, all below ``reach``."""
        x = F.embedding(tokens, self.embedding)
        if (scale := self.note.get("embedding_scale", 1.0)) != 1.0:
            x = x * scale
        table = self.tensors.get("positions")
        if table is None:
            return x
        if reach > len(table):
            raise InvalidValueError(f"tokens must stand below position {len(table)}, got {reach - 1}")
        return x + table[positions]

    def run(self, x: Tensor, positions: Tensor, reach: int, attend: Attend, last: Tensor | None = None) -> Tensor:
        """The layers: each product's branch is added to the stream where the next one is normed.

        Args:
            x: ``[R, D]``.
            positions: int64 ``[R]``, all below ``reach``.
            reach: of the table that turns heads.
            attend: what rows see.
            last: int64 ``[B]``: the rows whose hidden state is wanted; ``None``: all.

        Returns:
            ``[R, D]``, or of the last rows, behind the last norm.
        """
        spec, branch = self.spec, None
        for layer in range(spec.num_layers):
            place = f"layers.{layer}"
            y, x = self._norm(f"{place}.before_attention", x, branch)
            heads = self._linear(f"{place}.qkv", y).unflatten(1, (-1, spec.head_width))
            queries, keys = self._turned(place, heads, positions, reach)
            values = heads[:, spec.num_heads + spec.num_kv_heads :]
            branch = self._linear(f"{place}.attended", attend(layer, queries, keys, values).flatten(1))
            y, x = self._norm(f"{place}.before_feed_forward", x, branch)
            up = self._linear(f"{place}.up", y)
            activated = _ACTIVATIONS[spec.activation](self._linear(f"{place}.gate", y) if spec.gated else up)
            branch = self._linear(f"{place}.down", activated * up if spec.gated else activated)
        if last is not None:
            assert branch is not None
            x, branch = x[last], branch[last]
        return self._norm("last_norm", x, branch)[0]

    def logits(self, hidden: Tensor, tokens: Tensor | slice, log_sums: bool) -> tuple[Tensor, Tensor | None]:
        """As ``Block.logits``: float32 ``[B, W, K]`` of tokens and, if wanted, ``[B, W]`` over the vocabulary."""
        if isinstance(tokens, Tensor):
            tokens = tokens.to(self.device)
        weight, bias = self.weights["head.weight"], self.weights.get("head.bias")
        if not log_sums:
            return F.linear(hidden, weight[tokens], None if bias is None else bias[tokens]).float(), None
        parts = []
        for rows in hidden.flatten(0, 1).split(max(1, _LOGITS_AT_ONCE // self.vocab_size)):
            every = F.linear(rows, weight, bias).float()
            parts.append((every[:, tokens], every.logsumexp(1)))
        found, sums = (torch.cat(side) for side in zip(*parts, strict=True))
        return found.unflatten(0, hidden.shape[:2]), sums.view(hidden.shape[:2])

    def bias(self, reach: int) -> Tensor | None:
        """What ``beam_attention`` adds by distance where texts of ``reach`` tokens are longer than the window."""
        window = self.spec.window
        if not window or reach <= window:
            return None
        if "window" not in self._tables:
            table = torch.zeros(self.spec.num_heads, window + 1, device=self.device)
            table[:, window] = _HIDDEN
            self._tables["window"] = table
        return self._tables["window"]

    def _read_over(
        self, queries: Tensor, keys: Tensor, values: Tensor, offsets: Tensor, kv_offsets: Tensor, longest: int
    ) -> Tensor:
        """Prompts' attention. A key's head stands once for each of its queries' heads, of one layer at a time."""
        group, kind = self.spec.num_heads // self.spec.num_kv_heads, queries.dtype
        if kind == torch.float16:  # which `jagged_attention` does not take
            queries, keys, values = queries.float(), keys.float(), values.float()
        if group > 1:
            keys, values = (part.repeat_interleave(group, 1) for part in (keys, values))
        found = jagged_attention(
            queries,
            keys,
            values,
            offsets,
            kind="softmax",
            alpha=self.spec.score_scale,
            max_seq_len=longest,
            max_attn_len=max(self.spec.window - 1, 0),
            kv_offsets=kv_offsets,
        )
        return found.to(kind)

    def _turned(self, place: str, heads: Tensor, positions: Tensor, reach: int) -> tuple[Tensor, Tensor]:
        """Queries and keys of a layer's heads, normed and turned where the family does."""
        spec = self.spec
        sizes = [spec.num_heads, spec.num_kv_heads]
        both = heads[:, : sum(sizes)]
        frequencies = self.tensors.get("inverse_frequencies")
        if frequencies is None:
            queries, keys = both.split(sizes, 1)
            return queries, keys
        scaling = float(self.note.get("attention_scaling", 1.0))
        table = grown_table(self._tables, "rotary", reach, lambda size: rotary_table(frequencies, size, scaling))
        if not spec.qk_norm:
            queries, keys = rotary(both, positions, table).split(sizes, 1)
            return queries, keys
        parts = zip(both.split(sizes, 1), ("q_norm", "k_norm"), strict=True)
        queries, keys = (
            rotary(part, positions, table, weight=self.weights[f"{place}.{name}.weight"], epsilon=spec.epsilon)
            for part, name in parts
        )
        return queries, keys

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))

    def _norm(self, name: str, x: Tensor, added: Tensor | None) -> tuple[Tensor, Tensor]:
        """The norm of the stream with a branch, and that stream."""
        return residual_norm(
            x,
            self.weights[f"{name}.weight"],
            added=added,
            bias=self.weights.get(f"{name}.bias"),
            kind=self.spec.norm,
            epsilon=self.spec.epsilon,
        )

    def _known(
        self, known: Sequence[tuple[CardSession, int] | None], used: Tensor
    ) -> tuple[Jagged, tuple[KeysValues, ...]]:
        """What users' prompts begin with: where it stands in the keys and values of all their sessions, end to end."""
        old = [entry for entry in known if entry is not None]
        ends = torch.tensor([0, *(len(session.prompts[0][0]) for session, _ in old)]).cumsum(0)
        first = iter(ends.tolist())
        begin = torch.tensor([0 if entry is None else next(first) for entry in known])
        layers = zip(*(session.prompts for session, _ in old), strict=True)
        joined = tuple((torch.cat([k for k, _ in pairs]), torch.cat([v for _, v in pairs])) for pairs in layers)
        return spans(begin, used).to(self.device), joined

    def _check(self, prompts: Jagged) -> None:
        if not isinstance(prompts, Jagged) or prompts.values.dtype != torch.int64 or prompts.values.dim() != 1:
            raise InvalidTypeError(f"prefill: prompts must be int64 Jagged, got {type(prompts).__name__}")
        empty = (prompts.lengths == 0).nonzero()
        if len(empty):
            raise InvalidValueError(f"prefill: prompts must have a token each, but user {int(empty[0])} has none")
        if prompts.values.numel():
            low, high = (int(end) for end in prompts.values.aminmax())
            if low < 0 or high >= len(self.embedding):
                raise InvalidValueError(f"tokens must be in [0, {len(self.embedding)}), got {low} to {high}")
