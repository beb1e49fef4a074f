"""The smallest change: a logits processor that allows what the trie allows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from genrec_fast.errors import InvalidTypeError, InvalidValueError
from genrec_fast.integrations.hf.codes import CodeTokens, code_tokens
from genrec_fast.trie import Trie

__all__ = ["TrieLogitsProcessor"]


class TrieLogitsProcessor:
    """Masks every token that does not continue an item of the catalog.

    ``model.generate(..., logits_processor=[TrieLogitsProcessor(trie, prompt_length=...)])``

    Args:
        trie: the catalog.
        token_offset: see ``trie_beam_search``.
        code_to_token: see ``trie_beam_search``.
        prompt_length: tokens in front of the item in every row, padding among them: 1 (the start token) for an
            encoder-decoder, ``input_ids.shape[1]`` for a decoder-only model.
        marker: instead, the tokens after whose last occurrence in a row the item begins.
        end_tokens: what may follow an item; empty: a row that has its item is left as it is.

    Raises:
        InvalidTypeError: not a trie.
        InvalidValueError: prompt_length is negative, or the map does not fit.

    Notes:
        Stateless: rows may be reordered, repeated and dropped between calls. No Python loop over rows. A row whose
        tokens are no prefix of the catalog (a beam that generate keeps alive although nothing was left for it) may
        only write the end token, or what it likes where there is none.
    """

    def __init__(
        self,
        trie: Trie,
        *,
        token_offset: int = 0,
        code_to_token: Sequence[Any] | CodeTokens | None = None,
        prompt_length: int = 1,
        marker: Sequence[int] = (),
        end_tokens: Sequence[int] = (),
    ) -> None:
        if not isinstance(trie, Trie):
            raise InvalidTypeError(f"TrieLogitsProcessor: trie must be a Trie, got {type(trie).__name__}")
        if isinstance(prompt_length, bool) or not isinstance(prompt_length, int) or prompt_length < 0:
            raise InvalidValueError(f"TrieLogitsProcessor: prompt_length must be at least 0, got {prompt_length!r:.40}")
        self.trie = trie
        self.tokens = code_tokens(trie.codebook_sizes, token_offset=token_offset, code_to_token=code_to_token)
        self.prompt_length, self.marker = prompt_length, torch.tensor([int(token) for token in marker])
        self.end_tokens = torch.tensor([int(token) for token in end_tokens], dtype=torch.int64)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores ``[R, V]`` with -inf where a token continues no item.

        Args:
            input_ids: int64 ``[R, T]``.
            scores: float ``[R, V]``.

        Raises:
            InvalidValueError: a token of the map is outside the vocabulary, or rows are shorter than prompt_length.
        """
        length = input_ids.shape[1]
        for level, table in enumerate(self.tokens.of):
            if int(table.max()) >= scores.shape[1]:
                raise InvalidValueError(
                    f"TrieLogitsProcessor: tokens of level {level} must be below the vocabulary's {scores.shape[1]}, "
                    f"got {int(table.max())}"
                )
        written = length - self._starts(input_ids.cpu())
        allowed = torch.zeros(scores.shape, dtype=torch.bool)
        for count in written.unique().tolist():
            here = (written == count).nonzero()[:, 0]
            if count < self.trie.num_levels:
                self._allow(input_ids[here].cpu(), here, count, allowed)
            elif self.end_tokens.numel():
                allowed[here[:, None], self.end_tokens] = True
            else:
                allowed[here] = True
        lost = ~allowed.any(1)
        if bool(lost.any()):
            allowed[lost] = self.end_tokens.numel() == 0
            allowed[lost.nonzero(), self.end_tokens] = True
        return scores.masked_fill(~allowed.to(scores.device), -torch.inf)

    def _starts(self, input_ids: Tensor) -> Tensor:
        """int64 ``[R]``: where each row's item begins."""
        rows, length = input_ids.shape
        size = self.marker.numel()
        if size == 0:
            if length < self.prompt_length:
                raise InvalidValueError(
                    f"TrieLogitsProcessor: prompt_length must be at most the rows' {length} tokens, "
                    f"got {self.prompt_length}"
                )
            return torch.full((rows,), self.prompt_length)
        if length < size:
            return torch.full((rows,), length)
        hits = (input_ids.unfold(1, size, 1) == self.marker).all(2)
        if not bool(hits.any(1).all()):
            row = int((~hits.any(1)).nonzero()[0])
            raise InvalidValueError(f"TrieLogitsProcessor: marker must stand in every row, but row {row} has none")
        return hits.shape[1] - hits.flip(1).int().argmax(1) - 1 + size

    def _allow(self, input_ids: Tensor, here: Tensor, count: int, allowed: Tensor) -> None:
        nodes = torch.zeros(here.numel(), dtype=torch.int32)
        if count:
            nodes = self.trie.lookup(self.tokens.decode(input_ids[:, -count:]))
        alive = nodes >= 0
        unique, inverse = nodes[alive].unique(return_inverse=True)
        codes = self.trie.valid_codes(count, unique)
        wide = torch.zeros(unique.numel(), allowed.shape[1], dtype=torch.bool)
        wide[:, self.tokens.of[count]] = codes
        allowed[here[alive]] = wide[inverse]
