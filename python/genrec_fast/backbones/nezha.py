"""NEZHA: the network reads placeholders for the codes to come, once; a small recurrent head writes the codes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from genrec_fast.base.batch import Batch
from genrec_fast.base.checks import check_heads
from genrec_fast.base.config import check_fields
from genrec_fast.base.protocols import Session
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.nn.dropout import Dropout
from genrec_fast.nn.histories import codes_of, codes_of_targets
from genrec_fast.nn.packed import row_positions
from genrec_fast.nn.packed_block import PackedBlock, appended
from genrec_fast.nn.transformer import init_weights


@dataclass(frozen=True, kw_only=True)
class NezhaConfig:
    """Settings of ``Nezha``; the published network is Qwen3-0.6B or Llama-3.2-1B."""

    width: int = 128  # channels
    num_heads: int = 4  # a divisor of width
    num_layers: int = 4
    hidden: int = 512  # channels inside the MLP of a block
    dropout: float = 0.1  # rate, on the input and on what each half of a block adds
    max_items: int = 20  # longest history, items

    def __post_init__(self) -> None:
        check_fields(self, zero=("num_layers",))
        check_heads("NezhaConfig", self.width, self.num_heads)

    def build(self, catalog: Catalog) -> Nezha:
        """Makes the backbone; it reads codes alone, so items and features are not used."""
        return Nezha(self, catalog.codebook_sizes)


class Nezha(nn.Module):
    """A causal transformer over codes, an end token and L placeholders; a recurrent cell per level behind it.

    ::

        read      codes of the history, item by item; end; placeholder 0 .. L - 1       one pass
        h_0       the state of the end token, h_{l+1} that of placeholder l
        r_0 = h_0;  logits_l = W_l (r_l + h_{l+1});  r_{l+1} = cell_l(embedding_l(code), r_l)

    So a search asks the transformer once, and the cells of a level, width by width, for every beam: the draft that
    writes the answer, verified by the catalog's trie alone. Speaks ``Autoregressive`` and ``TeacherForced``; training
    asks for the last position of each history (``targets="last"``).

    Source: NEZHA (arXiv:2511.18793; code Applied-Machine-Learning-Lab/WWW2026_NEZHA, commit c32df8f).
    """

    def __init__(self, config: NezhaConfig, codebook_sizes: tuple[int, ...]) -> None:
        super().__init__()
        width, levels = config.width, len(codebook_sizes)
        self.config, self.codebook_sizes = config, codebook_sizes
        offsets = torch.tensor((0, *codebook_sizes)).cumsum(0)
        self.register_buffer("level_offsets", offsets[:-1], persistent=False)
        self.codes = nn.Embedding(int(offsets[-1]), width)
        self.behind = nn.Embedding(1 + levels, width)  # the end token, and the placeholders
        self.positions = nn.Embedding(config.max_items * levels + 1 + levels, width)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            PackedBlock(width, config.num_heads, config.hidden, config.dropout, causal=True, form="llama")
            for _ in range(config.num_layers)
        )
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.written = nn.ModuleList(nn.Embedding(size, width) for size in codebook_sizes[:-1])
        self.cells = nn.ModuleList(nn.RNNCell(width, width) for _ in codebook_sizes[:-1])
        self.heads = nn.ModuleList(nn.Linear(width, size, bias=False) for size in codebook_sizes)
        self.apply(init_weights)

    level_offsets: Tensor

    def states(self, batch: Batch) -> Tensor:
        """``[B, L + 1, D]``: h_0 to h_L.

        Raises:
            InvalidValueError: too long a history, or a batch that passed no layout.
        """
        levels = len(self.codebook_sizes)
        read = self.codes((codes_of("nezha", batch, self.config.max_items) + self.level_offsets).flatten())
        x, offsets = appended(read, batch.items.offsets * levels, self.behind.weight)
        x = self.dropout(x + self.positions(row_positions(offsets)))
        for block in self.blocks:
            x = block(x, offsets)
        last = offsets[1:, None] - levels - 1 + torch.arange(levels + 1, device=offsets.device)
        found: Tensor = self.norm(x[last])
        return found

    def next_state(self, level: int, state: Tensor, codes: Tensor) -> Tensor:
        """``[R, D]``: r of the next level, from r ``[R, D]`` and the codes int64 ``[R]`` of this one."""
        found: Tensor = self.cells[level](self.written[level](codes), state)
        return found

    def level_logits(self, batch: Batch) -> list[Tensor]:
        """Per level, ``[B, K_l]``; every history must have its one target at its last position."""
        targets = codes_of_targets("nezha", batch, last=True)
        h = self.states(batch)
        state, found = h[:, 0], []
        for level, head in enumerate(self.heads):
            found.append(head(state + h[:, level + 1]))
            if level + 1 < len(self.heads):
                state = self.next_state(level, state, targets[:, level])
        return found

    def prefill(self, batch: Batch) -> Session:
        """Reads histories and placeholders; nothing is read after that."""
        h = self.states(batch)
        return _Head(self, h[:, 1:], h[:, :1], 0)


@dataclass(frozen=True)
class _Head(Session):
    """A search over the head.

    Args:
        model: whose.
        behind: h_1 to h_L, ``[B, L, D]``.
        state: r of every beam, ``[B, W, D]``.
        level: of the next code.
    """

    finite: ClassVar[bool] = True

    model: Nezha
    behind: Tensor
    state: Tensor
    level: int

    def scores(self, span: Any = None, *, log_sums: bool = False) -> tuple[Tensor, Tensor | None]:
        """Logits ``[B, W, K_l]``; no sums."""
        return self.model.heads[self.level](self.state + self.behind[:, self.level : self.level + 1]), None

    def extend(self, codes: Tensor, parents: Tensor) -> _Head:
        """Every beam by a code: integers ``[B, W]`` each."""
        before = self.state.gather(1, parents.long().unsqueeze(2).expand(-1, -1, self.state.shape[2]))
        state = self.model.next_state(self.level, before.flatten(0, 1), codes.long().flatten())
        return dataclasses.replace(self, state=state.view_as(before), level=self.level + 1)

    def select(self, users: Tensor) -> _Head:
        """The session of users int64 ``[m]``."""
        users = users.to(self.state.device)
        return dataclasses.replace(self, behind=self.behind[users], state=self.state[users])
