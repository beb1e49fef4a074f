"""The smallest change to ``generate``: a logits processor in the place of ``prefix_allowed_tokens_fn``."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

from genrec_fast.base.checks import INT64, require_tensors, whole_number
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.catalog.trie import Trie
from genrec_fast.hf.codes import code_tokens, token_ids


class TrieLogitsProcessor(LogitsProcessor):  # type: ignore[misc]
    """Masks every token that no item of the catalog continues with.

    ``model.generate(**inputs, num_beams=W, logits_processor=LogitsProcessorList([TrieLogitsProcessor(trie)]))``

    Nothing is kept between calls: the codes that a row has so far are read from ``input_ids``, behind its prompt or
    behind the last ``marker``. All rows of a call are looked up at once. The scores of allowed tokens stay as they
    are, so beams and scores are those of ``prefix_allowed_tokens_fn`` with a trie in Python.

    Args:
        trie: the catalog.
        token_offset: see ``code_tokens``.
        code_to_token: see ``code_tokens``.
        eos_token_id: the token, or tokens, that may follow a complete ID (needed when ``max_new_tokens`` leaves room).
        prompt_length: tokens of ``input_ids`` in front of the first generated one: 1 for an encoder-decoder (its start
            token), ``inputs["input_ids"].shape[1]``, padding included, for a decoder-only model.
        marker: in place of prompt_length: the tokens that IDs follow, such as that of ``<|sid_begin|>``. The codes
            stand behind its last occurrence in the row. A row without one is left free, as a model may write the
            marker itself, and a ``UserWarning`` names it, once: most often its prompt was cut. A row past a complete
            ID is left free where there is no eos_token_id.
        prefix_tokens: tokens that are forced between the prompt (or marker) and the ID.

    Raises:
        InvalidTypeError: an argument of another kind.
        InvalidValueError: a value out of range, or prompt_length together with marker.

    Notes:
        One ``trie_lookup`` and one pass over the scores per call: O(R V) for R rows.
    """

    def __init__(
        self,
        trie: Trie,
        token_offset: int = 0,
        code_to_token: Any = None,
        *,
        eos_token_id: int | Sequence[int] | None = None,
        prompt_length: int | None = None,
        marker: Sequence[int] | None = None,
        prefix_tokens: Sequence[int] = (),
    ) -> None:
        op = "TrieLogitsProcessor"
        if not isinstance(trie, Trie):
            raise InvalidTypeError(f"{op}: trie must be a Trie, got {type(trie).__name__}")
        self.trie = trie
        self.codes = code_tokens(trie.codebook_sizes, token_offset, code_to_token, op=op)
        self.codes.require(op, trie)
        ends = [] if eos_token_id is None else [eos_token_id] if isinstance(eos_token_id, int) else eos_token_id
        self.eos_token_ids = token_ids(op, "eos_token_id", ends)
        self.marker = token_ids(op, "marker", [] if marker is None else marker)
        if marker is not None and not self.marker:
            raise InvalidValueError(f"{op}: marker must have a token, got none")
        if marker is not None and prompt_length is not None:
            raise InvalidValueError(f"{op}: prompt_length must be None with marker, got {prompt_length}")
        self.prompt_length = whole_number(op, "prompt_length", 1 if prompt_length is None else prompt_length, *INT64)
        if self.prompt_length < 0:
            raise InvalidValueError(f"{op}: prompt_length must be at least 0, got {self.prompt_length}")
        self.prefix_tokens = token_ids(op, "prefix_tokens", prefix_tokens)
        self._told = False  # of a row without a marker

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Sets the scores of tokens that may not follow to -inf.

        Args:
            input_ids: int64 ``[R, T]``.
            scores: float ``[R, V]``.

        Returns:
            A new tensor like scores.

        Raises:
            InvalidTypeError: input_ids are not int64.
            InvalidValueError: shapes that do not fit, a vocabulary too small, no row that an item continues, or rows
                past a complete ID without eos_token_id.
        """
        op = "TrieLogitsProcessor"
        require_tensors(op, None, input_ids=input_ids, scores=scores)
        if input_ids.dtype != torch.int64:
            raise InvalidTypeError(f"{op}: input_ids must be int64 [R, T], got {input_ids.dtype}")
        if input_ids.dim() != 2 or scores.dim() != 2 or input_ids.shape[0] != scores.shape[0]:
            raise InvalidValueError(
                f"{op}: input_ids and scores must be [R, T] and [R, V], "
                f"got {list(input_ids.shape)} and {list(scores.shape)}"
            )
        largest = max([self.codes.largest, *self.prefix_tokens, *self.eos_token_ids])
        if largest >= scores.shape[1]:
            raise InvalidValueError(
                f"{op}: scores must have a column for token {largest}, got a vocabulary of {scores.shape[1]}"
            )
        written = self._written(input_ids)
        out = torch.full_like(scores, -torch.inf)
        open_rows = written < 0
        out[open_rows] = scores[open_rows]
        place = len(self.prefix_tokens)
        alive = bool(open_rows.any()) or not scores.shape[0]
        for count in written.unique().tolist():
            if count < 0:
                continue
            rows = (written == count).nonzero().squeeze(1)
            recent = input_ids[rows, input_ids.shape[1] - count :]
            fits = (recent[:, :place] == recent.new_tensor(self.prefix_tokens[:count])).all(1)
            if count < place:
                allowed, mask = recent.new_full((1,), self.prefix_tokens[count]), fits.unsqueeze(1)
            else:
                allowed, mask = self._children(recent[:, place:], fits, count - place)
            alive |= bool(mask.any())
            columns = scores[rows.unsqueeze(1), allowed]
            out[rows.unsqueeze(1), allowed] = torch.where(mask, columns, -torch.inf)
        if not alive:
            raise InvalidValueError(
                f"{op}: input_ids must hold the beginning of an item behind "
                + ("the marker" if self.marker else f"prompt_length = {self.prompt_length} tokens")
                + f", but no row does, got for the first {input_ids[0, -self.trie.num_levels :].tolist()} at its end"
            )
        return out

    def _written(self, input_ids: Tensor) -> Tensor:
        """int64 ``[R]``: how many tokens of its prefix and ID each row has; -1 where it is left free."""
        rows, length = input_ids.shape
        if not self.marker:
            if length < self.prompt_length:
                raise InvalidValueError(
                    f"TrieLogitsProcessor: prompt_length must be at most the length of input_ids {length}, "
                    f"got {self.prompt_length}"
                )
            return torch.full((rows,), length - self.prompt_length)
        size = len(self.marker)
        if length < size:
            self._tell(range(rows))
            return torch.full((rows,), -1)
        found = (input_ids.unfold(1, size, 1) == input_ids.new_tensor(self.marker)).all(2)
        last = (found * torch.arange(1, found.shape[1] + 1, device=found.device)).amax(1)  # 0: none
        if not self._told:
            self._tell((last == 0).nonzero().flatten().tolist())
        written = torch.where(last > 0, length - (last - 1 + size), -1)
        complete = len(self.prefix_tokens) + self.trie.num_levels
        free = written > complete + 1 if self.eos_token_ids else written >= complete
        return torch.where(free, -1, written).cpu()

    def _tell(self, rows: Sequence[int]) -> None:
        if rows and not self._told:
            self._told = True
            warnings.warn(
                f"TrieLogitsProcessor: input_ids must hold the marker {self.marker} in every row to be constrained, "
                f"got none in row {rows[0]}, which is left free until the model writes one (was its prompt cut?)",
                stacklevel=4,
            )

    def _children(self, written: Tensor, fits: Tensor, level: int) -> tuple[Tensor, Tensor]:
        """Tokens ``[K]`` of a level and, per row, which of them the trie allows ``[rows, K]``."""
        device = self.trie.device
        levels = self.trie.num_levels
        if level == 0:
            nodes = torch.zeros(written.shape[0], dtype=torch.int32, device=device)
        else:
            nodes = self.trie.lookup(self.codes.decode(written[:, :levels]).to(device))
        fits = fits.to(device) & (nodes >= 0)
        if level >= levels:
            if not self.eos_token_ids:
                raise InvalidValueError(
                    "TrieLogitsProcessor: eos_token_id must be given, or max_new_tokens leave no room behind the ID "
                    f"of {levels} codes, got {level} tokens behind prompt_length = {self.prompt_length}"
                )
            ends = written.new_tensor(self.eos_token_ids)
            return ends, fits.unsqueeze(1).expand(-1, ends.numel()).to(written.device)
        mask = self.trie.valid_codes(level, nodes.clamp(min=0)) & fits.unsqueeze(1)
        table = self.codes.of[level]
        known = table >= 0  # a code without a token is no item's
        return table[known].to(written.device), mask[:, known.to(device)].to(written.device)
