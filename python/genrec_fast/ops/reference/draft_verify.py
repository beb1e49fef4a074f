"""The twin of ``ops.draft_verify``: a search of the target alone, on what was read."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from genrec_fast.ops.reference.draft_tree import row_of

Step = Callable[[int, Tensor, Tensor, Tensor, int, Tensor | None], tuple[Tensor, ...]]
"""``(level, logits, nodes, scores, num_beams, log_sums)`` to the five of ``trie_step``"""


def draft_verify(
    step: Step,
    rows: tuple[Tensor, Tensor, Tensor, Tensor | None],
    standing: tuple[Tensor, ...],
    num_beams: Sequence[int],
    sizes: Sequence[int],
    widths: Tensor | None,
) -> tuple[Tensor, ...]:
    """See ``ops.draft_verify``; rows and standing by their fields, sizes of the codebooks."""
    row_parents, row_codes, every, log_sums = rows
    levels, nodes, scores, codes, above, numbers, bound = (part.clone() for part in standing)
    user = torch.arange(len(levels), device=levels.device).unsqueeze(1)
    for level, size in enumerate(sizes):
        here = (levels == level) & ((numbers >= 0) | (nodes < 0)).all(1)
        if not bool(here.any()):
            continue
        one, read = here.unsqueeze(1), numbers.clamp(min=0)
        logits = every[user, read, :size].contiguous()
        sums = None if log_sums is None else log_sums[user, read]
        found = step(level, logits, nodes.where(one, -1), scores, num_beams[level], sums)
        best, chosen, parents, reached, pruned = found
        if widths is not None:
            kept = torch.arange(num_beams[level], device=levels.device) < widths.unsqueeze(1)
            pruned = torch.maximum(pruned, best.where(~kept, -torch.inf).amax(1))
            best, reached = best.where(kept, -torch.inf), reached.where(kept, -1)
        missing = (0, nodes.shape[1] - num_beams[level])
        reached, best = functional.pad(reached, missing, value=-1), functional.pad(best, missing, value=-torch.inf)
        parents, chosen = functional.pad(parents.long(), missing), functional.pad(chosen, missing)
        live = reached >= 0
        behind = numbers.gather(1, parents)
        written = codes.gather(1, parents.unsqueeze(2).expand(-1, -1, codes.shape[2])).clone()
        written[..., level] = chosen
        number = row_of(row_parents, row_codes, behind, chosen).where(live, -1)
        levels = levels + here
        nodes, scores = torch.where(one, reached, nodes), torch.where(one, best, scores)
        codes = torch.where(one.unsqueeze(2), written.where(live.unsqueeze(2), 0), codes)
        above, numbers = torch.where(one, behind, above), torch.where(one, number, numbers)
        bound = torch.where(here, torch.maximum(bound, pruned), bound)
    return levels, nodes, scores, codes, above, numbers, bound
