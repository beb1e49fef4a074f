"""The search behind the drop-in: beams over the trie, each prompt read once, scores as Hugging Face's beam search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from genrec_fast.decoders._choose import Choose, Diverse, Sampled
from genrec_fast.errors import InvalidValueError
from genrec_fast.integrations.hf.codes import CodeTokens
from genrec_fast.integrations.hf.engine import Engine
from genrec_fast.nn.engine.plan import Plan
from genrec_fast.ops.trie_filter import TrieFilter
from genrec_fast.ops.trie_offsets import unpack_offsets
from genrec_fast.ops.trie_step import trie_step
from genrec_fast.trie import Trie
from genrec_fast.types import Jagged, Session

__all__ = ["Found", "Processor", "search"]

# (tokens int64 [B * W, t] behind the prompt, log-probabilities [B * W, V]) -> log-probabilities
Processor = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Found:
    """Beams after the last level, best first.

    Args:
        rows: int32 ``[B, W]`` of the trie, the last item's; -1 = no beam.
        tokens: int64 ``[B, W, t]``: all that was written behind the prompt, the end token not among it.
        codes: int32 ``[B, W, L]`` of the last item.
        scores: float32 ``[B, W]``: summed log-probabilities, of the end token too; -inf = no beam.
        bound: float32 ``[B]``: no sequence that was pruned scores higher.
    """

    rows: Tensor
    tokens: Tensor
    codes: Tensor
    scores: Tensor
    bound: Tensor


class _Beams:
    """What is known of every beam between two calls of the engine."""

    def __init__(self, vocab_size: int, users: int, session: Session, processor: Processor | None) -> None:
        self.vocab_size, self.session, self.processor = vocab_size, session, processor
        self.scores = torch.zeros(users, 1)
        self.written = torch.empty(users, 1, 0, dtype=torch.int64)

    def log_probabilities(
        self, tokens: Tensor | slice, log_sums: bool = True, allowed: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Scores ``[B, W, K]`` of tokens up to a number per beam ``[B, W]``, which is to be subtracted.

        A processor sees -inf wherever a token is not ``allowed`` (bool ``[B, W, K]``; ``None``: all K are).
        """
        if self.processor is None:
            logits, sums = self.session.scores(tokens, log_sums=log_sums)
            return logits, self.scores.new_zeros(self.scores.shape) if sums is None else sums
        logits, sums = self.session.scores(slice(0, self.vocab_size), log_sums=True)
        assert sums is not None
        wide = logits - sums.unsqueeze(-1)
        index = torch.arange(tokens.start, tokens.stop) if isinstance(tokens, slice) else tokens
        open_to = torch.ones(1, dtype=torch.int8) if allowed is None else allowed.to(torch.int8)
        seen = torch.zeros(wide.shape, dtype=torch.int8)  # added up: a code without a token has another code's
        seen.index_add_(2, index, open_to.expand(*wide.shape[:2], index.numel()))
        masked = wide.where(seen > 0, -torch.inf)
        processed = self.processor(self.written.flatten(0, 1), masked.flatten(0, 1)).view(logits.shape).float()
        return processed[..., tokens], torch.zeros_like(sums)

    def write(self, tokens: Tensor, parents: Tensor, scores: Tensor) -> None:
        """Beams become ``[B, W]`` children of others; the engine is asked when their logits are next needed."""
        self.written = _extended(self.written, tokens, parents)
        self.scores = scores
        self.session = self.session.extend(tokens, parents)

    def force(self, token: int, *, pays: bool, last: bool = False) -> None:
        """Every beam writes the same token; behind the last one the engine is not asked again."""
        scores = self.scores
        if pays:
            logits, sums = self.log_probabilities(torch.tensor([token]))
            scores = scores + (logits[..., 0] - sums)
        if last:
            self.scores = scores
            return
        users, beams = scores.shape
        self.write(torch.full((users, beams), token), torch.arange(beams).expand(users, -1), scores)


def search(
    engine: Engine,
    prompts: Jagged,
    decoder_prompts: Jagged | None,
    trie: Trie,
    tokens: CodeTokens,
    *,
    num_beams: int,
    normalize: str = "all",
    keep: TrieFilter | None = None,
    prefix: Sequence[int] = (),
    end_token: int | None = None,
    num_items: int = 1,
    processor: Processor | None = None,
    encoded: bool = False,
    kept: Jagged | None = None,
    choose: Choose = trie_step,
) -> Found:
    """``num_items`` items of the trie behind each prompt, one after the other, none twice in a sequence.

    Args:
        engine: reads prompts and extends beams.
        prompts: see ``Engine.prefill``.
        decoder_prompts: see ``Engine.prefill``.
        trie: the catalog.
        tokens: where its codes stand in the vocabulary.
        num_beams: W, sequences kept at every token.
        normalize: "all": log-softmax over the vocabulary; "valid": over the tokens that the trie allows.
        keep: which items may appear.
        prefix: tokens that every item begins with, paid for as they are written.
        end_token: written, and paid for, behind the last item; ``None``: nothing is.
        num_items: items per sequence.
        processor: changes log-probabilities over the whole vocabulary before the trie looks at them.
        encoded: see ``Engine.prefill``.
        kept: see ``TorchEngine.prefill``, which alone takes it.
        choose: which children of the beams survive, for searches of one item: the best (``trie_step``), a sample, or
            groups of them (``decoders._choose``).

    Returns:
        ``Found``, best first; a sample in the order of the draw.

    Raises:
        InvalidValueError: an argument out of range.
    """
    if normalize not in ("all", "valid"):
        raise InvalidValueError(f"search: normalize must be 'all' or 'valid', got {normalize!r}")
    users, levels, pays = len(prompts), trie.num_levels, normalize == "all"
    masked = {} if kept is None else {"kept": kept}
    session = engine.prefill(prompts, decoder_prompts, encoded=encoded, **masked)
    beams = _Beams(engine.vocab_size, users, session, processor)
    if choose is trie_step and num_items == 1 and processor is None:
        for token in prefix:
            beams.force(token, pays=normalize == "all")
        plan = Plan((num_beams,) * levels, normalize, keep, tokens, end_token=end_token)
        if (out := beams.session.search(trie, plan, beams.scores)) is not None:
            written = torch.cat([beams.written.expand(-1, out.tokens.shape[1], -1), out.tokens], 2)
            found = Found(out.rows, written, out.codes, out.scores, out.bound)
            return found if end_token is None else _ordered(found)
        prefix = ()
    bound = torch.full((users,), -torch.inf)
    rows = torch.zeros(users, 1, dtype=torch.int32)
    below = _rows_below(trie) if num_items > 1 else []
    for item in range(num_items):
        for token in prefix:
            beams.force(token, pays=pays)
        rows = torch.where(beams.scores > -torch.inf, 0, -1).int()
        for level in range(levels):
            allowed = None
            if processor is not None:
                codes = trie.valid_codes(level, rows.flatten().clamp(min=0))
                allowed = (codes & (tokens.of[level] >= 0)).view(*rows.shape, -1)
            logits, sums = beams.log_probabilities(tokens.span(level), pays, allowed)
            if item:
                logits = _without_repeats(logits, beams.written, trie, tokens, below[level], item, len(prefix) + levels)
            scores, log_sums = beams.scores, sums if pays else None
            if pays and processor is not None:
                # What is processed may rise above 0, and log_sums may not be below a logit: the level's own sum, which
                # trie_step takes away, is added first.
                here = logits.logsumexp(-1)
                scores = torch.where(here > -torch.inf, scores + (here - sums), -torch.inf)
                rows, log_sums = torch.where(here > -torch.inf, rows, -1), None
            step = choose(
                trie,
                level,
                logits,
                rows,
                scores,
                num_beams=min(num_beams, rows.shape[1] * trie.tokens[level].numel()),
                normalize=normalize,
                log_sums=log_sums,
                allowed=keep,
            )
            rows, bound = step.nodes, torch.maximum(bound, step.bound)
            chosen = tokens.written(level, step.codes)
            parents = step.parents.long()
            if level == levels - 1 and item == num_items - 1 and end_token is None:
                written = _extended(beams.written, chosen, parents)
                found = Found(rows, written, tokens.codes_of(written[..., -levels:]), step.scores, bound)
                return _ordered(found) if isinstance(choose, Diverse) else found
            beams.write(chosen, parents, step.scores)
    assert end_token is not None
    beams.force(end_token, pays=pays, last=True)
    scores = torch.where(rows >= 0, beams.scores, -torch.inf)
    found = Found(rows, beams.written, tokens.codes_of(beams.written[..., -levels:]), scores, bound)
    return found if isinstance(choose, Sampled) else _ordered(found)


def _extended(written: Tensor, tokens: Tensor, parents: Tensor) -> Tensor:
    """``[B, W, t + 1]``: what the parents wrote ``[B, W', t]``, and a token behind it."""
    if written.shape[2] == 0:
        return tokens.unsqueeze(2)
    before = written.gather(1, parents.unsqueeze(2).expand(-1, -1, written.shape[2]))
    return torch.cat([before, tokens.unsqueeze(2)], 2)


def _ordered(found: Found) -> Found:
    scores, order = found.scores.sort(dim=1, descending=True, stable=True)
    written, codes = (
        part.gather(1, order.unsqueeze(2).expand(-1, -1, part.shape[2])) for part in (found.tokens, found.codes)
    )
    return Found(found.rows.gather(1, order), written, codes, scores, found.bound)


def _rows_below(trie: Trie) -> list[Tensor]:
    """Per level int64 ``[edges]``: semantic IDs that begin with the path to each edge."""
    out = [torch.ones(trie.num_rows, dtype=torch.int64)]
    for level in range(trie.num_levels - 1, 0, -1):
        nodes = torch.arange(trie.num_nodes(level) + 1)
        ends = unpack_offsets(trie.child_bases[level], trie.child_deltas[level], nodes).long()
        sums = torch.cat([torch.zeros(1, dtype=torch.int64), out[0].cumsum(0)])
        out.insert(0, sums[ends[1:]] - sums[ends[:-1]])
    return out


def _without_repeats(
    logits: Tensor, written: Tensor, trie: Trie, tokens: CodeTokens, below: Tensor, item: int, length: int
) -> Tensor:
    """-inf for codes below which a beam has used up every item; ``below`` counts the rows below the level's edges."""
    levels = tokens.num_levels
    level = (written.shape[2] - item * length) - (length - levels)
    logits = logits.clone()
    begins = [earlier * length + length - levels for earlier in range(item)]
    used = torch.stack([tokens.decode(written[..., begin : begin + levels])[..., : level + 1] for begin in begins], 2)
    mine = tokens.decode(written[..., item * length + length - levels :]).unsqueeze(2) if level else used[..., :0]
    here = (used[..., :level] == mine).all(-1)  # [B, W, earlier items]: their path is the beam's
    same = (used.unsqueeze(3) == used.unsqueeze(2)).all(-1).sum(-1)  # how many of them share the next code too
    edges = trie.lookup(used.contiguous()).long()
    user, beam, earlier = (here & (edges >= 0) & (below[edges.clamp(min=0)] <= same)).nonzero(as_tuple=True)
    logits[user, beam, used[user, beam, earlier, level]] = -torch.inf
    return logits
