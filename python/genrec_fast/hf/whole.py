"""A search's state as texts: whatever a model keeps between calls, its next token is that of the whole text."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from genrec_fast.base.jagged import Jagged
from genrec_fast.hf.called import CalledModel
from genrec_fast.hf.session import TransformersSession

_LOGITS_AT_ONCE = 1 << 26  # of a call, where a model gives those of every token


class WholeTexts(TransformersSession):
    """Every beam's text is read whole at every token, without padding: texts of one length are read together.

    Right for every model whose forward pass says what follows a text, and slow: O(W S) tokens a level in the place of
    O(W).

    Args:
        model: to be called.
        groups: of users with prompts of one length.
        written: int64 ``[B, W, t]`` behind the prompts.
        logits: ``[B, W, V]``; ``None``: to be computed.
    """

    def __init__(
        self, model: CalledModel, groups: Sequence[_Group], written: Tensor, logits: Tensor | None = None
    ) -> None:
        self.model, self.groups, self.written = model, groups, written
        self.logits = self._read() if logits is None else logits

    @classmethod
    def begin(
        cls,
        model: CalledModel,
        prompts: Jagged,
        decoder_prompts: Jagged | None,
        encoded: bool,
        kept: Jagged | None = None,
    ) -> WholeTexts:
        """Reads the prompts; arguments as ``TorchEngine.prefill``."""
        device, groups = model.device, []
        lengths = prompts.lengths.cpu()
        for length in lengths.unique().tolist():
            users = (lengths == length).nonzero().squeeze(1)
            rows = torch.stack([prompts[int(user)] for user in users]).to(device)
            mask = torch.ones(rows.shape[:2], dtype=torch.int64, device=device)
            if kept is not None:
                mask = torch.stack([kept[int(user)] for user in users]).long().to(device)
            texts, encoder_rows = rows, None
            if decoder_prompts is not None:
                encoder_rows = rows.to(model.dtype) if encoded else model.encode(rows, mask)
                texts = torch.stack([decoder_prompts[int(user)] for user in users]).to(device)
            groups.append(_Group(users, texts, mask, encoder_rows, kept is not None))
        return cls(model, groups, torch.empty(len(prompts), 1, 0, dtype=torch.int64))

    def extend(self, codes: Tensor, parents: Tensor) -> WholeTexts:
        """Every beam by a token: integers ``[B, W]`` each."""
        codes, parents = codes.cpu().long(), parents.cpu().long()
        before = self.written.gather(1, parents.unsqueeze(2).expand(-1, -1, self.written.shape[2]))
        return WholeTexts(self.model, self.groups, torch.cat([before, codes.unsqueeze(2)], 2))

    def select(self, users: Tensor) -> WholeTexts:
        """The session of users int64 ``[m]``."""
        users = users.cpu()
        groups = [group.select(users) for group in self.groups if bool(torch.isin(users, group.users).any())]
        return WholeTexts(self.model, groups, self.written[users], self.logits[users.to(self.logits.device)])

    def _read(self) -> Tensor:
        found: Tensor | None = None
        for group in self.groups:
            logits = group.read(self.model, self.written[group.users])
            if found is None:
                found = logits.new_empty(*self.written.shape[:2], logits.shape[-1])
            found[group.users.to(found.device)] = logits
        if found is None:
            return torch.empty(0, self.written.shape[1], self.model.vocab_size)
        return found


class _Group:
    """Users whose prompts are of one length."""

    def __init__(self, users: Tensor, texts: Tensor, mask: Tensor, rows: Tensor | None, holes: bool) -> None:
        self.users, self.texts, self.mask, self.rows, self.holes = users, texts, mask, rows, holes

    def select(self, users: Tensor) -> _Group:
        """Those of users int64 ``[m]`` that are in it, under their places there."""
        places, mine = (users.unsqueeze(1) == self.users).nonzero(as_tuple=True)
        mine = mine.to(self.texts.device)
        rows = None if self.rows is None else self.rows[mine.to(self.rows.device)]
        return _Group(places, self.texts[mine], self.mask[mine], rows, self.holes)

    def read(self, model: CalledModel, written: Tensor) -> Tensor:
        """Logits ``[G, W, V]`` behind the texts and what beams wrote ``[G, W, t]``."""
        group, beams, steps = written.shape
        own = torch.arange(group).repeat_interleave(beams)
        tail = written.flatten(0, 1).to(self.texts.device)
        length = self.texts.shape[1] + steps
        at_once = max(1, _LOGITS_AT_ONCE // (length * model.vocab_size))
        parts = []
        for rows, behind in zip(own.split(at_once), tail.split(at_once), strict=True):
            rows = rows.to(self.texts.device)
            texts = torch.cat([self.texts[rows], behind], 1)
            given = {}
            if self.rows is not None:
                given = model.encoded(self.rows[rows.to(self.rows.device)], self.mask[rows])
            elif self.holes:
                mask = torch.cat([self.mask[rows], self.mask.new_ones(behind.shape)], 1)
                given["attention_mask"] = mask
                if model.takes_positions:
                    given["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
            parts.append(model(texts, use_cache=False, **given)[0])
        return torch.cat(parts).view(group, beams, -1)
