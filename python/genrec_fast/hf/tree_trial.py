"""Whether a model reads rows at different depths in one call as it reads whole texts: found out by trying, once."""

from __future__ import annotations

import torch
from torch import Tensor

from genrec_fast.base.errors import UnsupportedError
from genrec_fast.base.jagged import Jagged
from genrec_fast.hf.branched import Branched, shortest_window
from genrec_fast.hf.called import CalledModel
from genrec_fast.hf.likeness import difference, likely_tokens, tolerance_of, trial
from genrec_fast.hf.tried import Tried
from genrec_fast.hf.whole import WholeTexts

_SHORTEST, _LONGEST = 8, 24  # tokens of the trial's longer prompt
# Two calls of three rows: what each writes is its number; behind which row (0 is the prompt), some of the same call.
_PARENTS = ((0, 0, 1), (2, 3, 0))
_PATHS = ((0,), (1,), (0, 2)), ((1, 3), (0, 2, 4), (5,))

_reads: Tried[bool] = Tried()


def check_trees(model: CalledModel, prompt: Tensor) -> None:
    """Raises for a model that ``Branched`` would misread.

    Args:
        model: a decoder.
        prompt: int64 ``[S]`` that it knows; repeated if it is short.

    Raises:
        UnsupportedError: such a model, by its name.
    """
    if not _reads.of(model.owner, lambda: _reads_trees(model, prompt)):
        raise UnsupportedError(
            f"extend_tree: {model.name} does not read rows at different depths in one call, told apart by a mask "
            "[B, 1, W, S] and position_ids, as it reads whole texts: extend level by level"
        )


@trial
def _reads_trees(model: CalledModel, prompt: Tensor) -> bool:
    if model.turns_by_length:
        return False
    longest = max(2, min(_LONGEST, shortest_window(model)[1] - 6))
    prompt = prompt.repeat(-(-_SHORTEST // len(prompt)))[:longest]
    prompts = [prompt, prompt[len(prompt) // 2 :]]  # one of two is padded
    read = WholeTexts.begin(model, Jagged.from_rows(prompts), None, False).logits
    tolerance = tolerance_of(model, prompt, None, False, read)
    tokens = likely_tokens(model, read[:, 0], 6)
    tree: Branched = Branched.begin(model, Jagged.from_rows(prompts))
    for call, (parents, paths) in enumerate(zip(_PARENTS, _PATHS, strict=True)):
        tree = tree.extend_tree(tokens[:, 3 * call : 3 * call + 3], torch.tensor([parents] * 2))
        texts = [
            torch.cat([text, row[list(path)].to(text.device)])
            for text, row in zip(prompts, tokens, strict=True)
            for path in paths
        ]
        wanted = WholeTexts.begin(model, Jagged.from_rows(texts), None, False).logits
        if difference(tree.logits, wanted.view(tree.logits.shape)) > tolerance:
            return False
    return True
