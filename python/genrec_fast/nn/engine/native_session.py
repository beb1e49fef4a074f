"""A search run by the native kernels: beams share what was read of prompts, nothing is copied or reordered."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from genrec_fast.base.errors import InvalidValueError
from genrec_fast.base.jagged import offsets_of
from genrec_fast.nn.engine.block import Block
from genrec_fast.nn.engine.plan import BestFirstPlan, Found, Plan
from genrec_fast.nn.engine.rows import Rows, level_scores
from genrec_fast.ops.transformer import transformer_select
from genrec_fast.ops.transformer_best_first import BestFound, transformer_best_first
from genrec_fast.ops.transformer_search import transformer_search
from genrec_fast.ops.transformer_step import transformer_step
from genrec_fast.ops.trie_filter import CatalogTrie


@dataclass(frozen=True)
class Prompts:
    """Keys and values of the prompts that a search begins with."""

    offsets: Tensor
    cache: Tensor
    cross: Tensor | None = None
    cross_offsets: Tensor | None = None
    longest: int = 1
    """rows of the longest prompt"""


@dataclass(frozen=True)
class NativeSession:
    """A search over a ``Block`` (``TreeSession``).

    Args:
        engine: what runs it.
        prompts: what all beams of a user share.
        hidden: float32 ``[B, W, D]`` of the rows of the last call.
        levels: the tokens of each level's codes, for a network that is extended by codes; ``None``: by tokens.
        chain: what every call has kept, float32 ``[layers, B * W, kept]``.
        parents: int64 ``[B, W]`` of every call: beams of the call before.
        ancestors: int32 ``[t, B * W]``: for every beam of the last call its ancestor at each call, itself the last;
            ``None`` once a call made a tree.
        rows: once a call made a tree, which rows descend from which.
    """

    finite: ClassVar[bool] = True

    engine: Block
    prompts: Prompts
    hidden: Tensor
    levels: tuple[slice, ...] | None = None
    chain: tuple[Tensor, ...] = ()
    parents: tuple[Tensor, ...] = ()
    ancestors: Tensor | None = None
    rows: Rows | None = None

    @property
    def length(self) -> int:
        """Tokens of all prompts."""
        return int(self.prompts.offsets[-1])

    @property
    def kept_bytes(self) -> int:
        """Memory of all keys and values."""
        prompts = self.prompts
        tensors = [prompts.cache, *self.chain, *([] if prompts.cross is None else [prompts.cross])]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def scores(self, span: Tensor | slice | None = None, *, log_sums: bool = False) -> tuple[Tensor, Tensor | None]:
        """Logits ``[B, W, K]`` of a span of tokens, or of each row's next level."""
        if span is not None:
            return self.engine.logits(self.hidden, span, log_sums)
        assert self.levels is not None
        if self.rows is None:
            return self.engine.logits(self.hidden, self.levels[len(self.chain)], log_sums=False)
        return level_scores(self._logits_of, self.rows.paths()[1], [span.stop - span.start for span in self.levels])

    def extend(self, codes: Tensor, parents: Tensor) -> NativeSession:
        """Every beam by a code (or token): int ``[B, W]`` each.

        Raises:
            InvalidValueError: a token outside the vocabulary, or a parent that is no beam.
        """
        if self.rows is not None:
            return self.extend_tree(codes, parents + self.rows.first_of_last)
        users, beams = codes.shape
        parents, steps = parents.long(), len(self.chain)
        if self.ancestors is None:
            ancestors = torch.empty(0, users * beams, dtype=torch.int32)
        else:
            before = self.hidden.shape[1]
            low, high = (int(end) for end in parents.aminmax()) if parents.numel() else (0, 0)
            if low < 0 or high >= before:
                raise InvalidValueError(f"step: parents must be beams in [0, {before}), got {low} to {high}")
            extended = parents if users == 1 else parents + torch.arange(users).unsqueeze(1) * before
            ancestors = self.ancestors.index_select(1, extended.flatten())
        tokens = codes.long() if self.levels is None else codes.long() + self.levels[steps].start
        places = (self.prompts.offsets.diff() + steps).repeat_interleave(beams) if self.engine.placed else None
        hidden, kept = self._step(tokens.flatten(), places, steps, ancestors)
        own = torch.arange(users * beams, dtype=torch.int32).unsqueeze(0)
        return dataclasses.replace(
            self,
            hidden=hidden.view(users, beams, -1),
            chain=(*self.chain, kept),
            parents=(*self.parents, parents),
            ancestors=torch.cat([ancestors, own]),
        )

    def extend_tree(self, codes: Tensor, parents: Tensor) -> NativeSession:
        """Rows at different depths in one pass: int ``[B, W]`` codes, and numbers of the rows that they extend.

        Raises:
            InvalidValueError: as ``extend``; a parent that is no row made before.
        """
        users, beams = codes.shape
        rows = Rows.of(users, self.parents) if self.rows is None else self.rows
        rows = rows.grown(parents.long())
        paths, depths = rows.paths()
        calls, places = rows.calls(paths[..., 1:])  # the root is the prompt
        known = paths[..., 1:] >= 0
        parts, ancestors = calls.sub(1).where(known, -1), places.where(known, 0)
        parts, ancestors = (part.int().flatten(0, 1).T.contiguous() for part in (parts, ancestors))
        tokens, level = codes.long(), depths - 1
        if self.levels is not None:
            tokens = tokens + torch.tensor([span.start for span in self.levels])[level]
        at = (self.prompts.offsets.diff().unsqueeze(1) + level).flatten() if self.engine.placed else None
        hidden, kept = self._step(tokens.flatten(), at, int(depths.max()), ancestors, parts)
        chain = (*self.chain, kept)
        hidden = hidden.view(users, beams, -1)
        return dataclasses.replace(self, hidden=hidden, chain=chain, ancestors=None, rows=rows)

    def select(self, users: Tensor) -> NativeSession:
        """The session of users int64 ``[m]``; keys and values are copied, nothing is computed."""
        count, old = len(self.hidden), self.prompts
        if users.numel() == count and torch.equal(users, torch.arange(count)):
            return self
        stack = self.engine.decoder
        cross = cross_offsets = None
        if old.cross is not None and old.cross_offsets is not None:
            cross = transformer_select(stack, old.cross, old.cross_offsets, users)
            cross_offsets = offsets_of(old.cross_offsets.diff()[users])
        prompts = Prompts(
            offsets_of(old.offsets.diff()[users]),
            transformer_select(stack, old.cache, old.offsets, users),
            cross,
            cross_offsets,
            old.longest,
        )
        ancestors = self.ancestors
        if ancestors is not None:  # rows of a call stand user by user: those of user b begin at b times its width
            widths = torch.tensor([part.shape[1] // count for part in self.chain], dtype=torch.int32).view(-1, 1, 1)
            moved = (torch.arange(len(users)) - users).int().view(1, -1, 1)
            ancestors = (ancestors.view(len(self.chain), count, -1)[:, users] + moved * widths).flatten(1)
        return dataclasses.replace(
            self,
            prompts=prompts,
            hidden=self.hidden[users],
            chain=tuple(part.unflatten(1, (count, -1))[:, users].flatten(1, 2) for part in self.chain),
            parents=tuple(call[users] for call in self.parents),
            ancestors=ancestors,
            rows=None if self.rows is None else self.rows.select(users),
        )

    def search(self, trie: CatalogTrie, plan: Plan, paid: Tensor) -> Found | None:
        """The whole decode behind one beam per user, in one call (``transformer_search``).

        Args:
            trie: the catalog.
            plan: what to find; one item, the same beams at every level, nobody to ask in between.
            paid: float32 ``[B, 1]``: scores of the beams so far.

        Returns:
            Beams as the last level left them, ``None`` where the plan or the engine needs a level at a time.
        """
        whole = plan.num_items == 1 and plan.processor is None and len(set(plan.num_beams)) == 1
        if not whole or self.rows is not None or self.engine.embedding.dtype != torch.float32:
            return None
        if plan.tokens is None:
            assert self.levels is not None
            tokens = [torch.arange(span.start, span.stop) for span in self.levels]
            normalize = "codes" if plan.normalize == "all" else plan.normalize
        else:
            tokens, normalize = list(plan.tokens.known), plan.normalize
        reach = self.prompts.longest + len(self.chain) + len(tokens) + 1
        found = transformer_search(
            self.engine.decoder,
            self.hidden[:, 0],
            paid[:, 0],
            self.prompts.offsets,
            self.prompts.cache,
            trie,
            tokens,
            self.engine.embedding,
            num_beams=plan.num_beams[0],
            normalize=normalize,
            keep=plan.keep,
            end_token=plan.end_token,
            embedding_scale=float(self.engine.note.get("embedding_scale", 1.0)),
            chain=self.chain,
            ancestors=self.ancestors,
            first_table=self.engine.first_tables[self.engine.decoder.number],
            positions=self.engine.tensors.get("positions"),
            **self._tables(reach),
        )
        return Found(found.rows, found.codes, found.scores, found.bound, found.tokens)

    @property
    def searches_best_first(self) -> bool:
        """Behind prompts alone, by codes, over embeddings of float32."""
        return self.levels is not None and not self.chain and self.engine.embedding.dtype == torch.float32

    def best_first(self, trie: CatalogTrie, plan: BestFirstPlan, users: tuple[int, int], width: int) -> BestFound:
        """See ``TreeSession``."""
        assert self.levels is not None
        return transformer_best_first(
            self.engine.decoder,
            self.hidden[:, 0],
            torch.zeros(len(self.hidden)),
            self.prompts.offsets,
            self.prompts.cache,
            trie,
            [torch.arange(span.start, span.stop) for span in self.levels],
            self.engine.embedding,
            k=plan.k,
            width=width,
            first_user=users[0],
            last_user=users[1],
            budget=2**62 if plan.budget is None else plan.budget,
            least_rows=plan.least_rows,
            share=plan.share,
            normalize="codes" if plan.normalize == "all" else plan.normalize,
            keep=plan.keep,
            embedding_scale=float(self.engine.note.get("embedding_scale", 1.0)),
            first_table=self.engine.first_tables[self.engine.decoder.number],
            positions=self.engine.tensors.get("positions"),
            **self._tables(self.prompts.longest + len(self.levels) + 1),
        )

    def _step(
        self, tokens: Tensor, places: Tensor | None, depth: int, ancestors: Tensor, parts: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return transformer_step(
            self.engine.decoder,
            self.engine.embed(tokens, places),
            self.prompts.offsets,
            self.prompts.cache,
            self.chain,
            ancestors,
            parts=parts,
            **self.engine.first_layer(self.engine.decoder, tokens),
            **self._tables(self.prompts.longest + depth + 1),
        )

    def _tables(self, reach: int) -> dict[str, Any]:
        prompts = self.prompts
        return {
            "rotary": self.engine.rotary(reach),
            "distance": self.engine.distance("decoder", reach),
            "cross": prompts.cross,
            "cross_offsets": prompts.cross_offsets,
        }

    def _logits_of(self, at: Tensor, level: int) -> Tensor:
        """``[n, K_l]`` of the rows where bool ``[B, W]``."""
        assert self.levels is not None
        return self.engine.logits(self.hidden[at].unsqueeze(0), self.levels[level], log_sums=False)[0][0]
