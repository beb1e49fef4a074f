"""Codes that share the rows out evenly: optimal transport, and a limit of rows per code."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from genrec_fast.base.checks import FLOAT32, check_dense, real_number, shown, whole_number
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError

Balance = Literal["sinkhorn", "capacity"]

_ELEMENTS = 1 << 22  # of a block's table of costs: 16 MiB of float32
_KEPT = 1 << 26  # a table of this many costs is kept from sweep to sweep: 256 MiB
_CHUNK = 1 << 17  # costs worked on at once: 512 KiB, which stay in cache from one step to the next
_LARGEST = 2.0**123  # of a row's squared length: float32 ends at 2^128, a squared distance is up to four times it
_FEWEST = 64  # rows at least, for the products' sake
_SAMPLE_PER_CODE = 64  # rows per code that the first sweeps see
_COOLING = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003)  # epsilons of the first sweeps, down to the one asked for
_SHARP = 0.001  # epsilon of "capacity": below it the prices hardly move any more
_SWEEPS = 8  # per epsilon
_MOST_CODES = 1024  # with a table of moves: K x K float32
_STEPS = 32  # at least this many chains while many rows are above the limit
_HOPS = 16  # of a chain, at most: without loops 2 to 5 are usual (K = 256), with one the search would go on to K
_LEAST_GAIN = 1e-6  # of the largest move's cost: less is rounding
_CLOSE = 0.01  # shares of rows within 1 % of what they should be: near enough


def balanced_assignment(
    x: Tensor,
    centroids: Tensor,
    *,
    method: Balance = "capacity",
    capacity: int | None = None,
    epsilon: float = 0.003,
    sweeps: int = 50,
    prices: Tensor | None = None,
) -> Tensor:
    """A code per row: near its row, and with about or at most as many rows as every other code.

    ::

        "sinkhorn": plan[n, k] = exp((price[k] - |x[n] - c[k]|^2) / epsilon) / norm[n], prices such that every code has
                    N / K rows of the plan; label = the likeliest code
        "capacity": minimise sum |x[n] - c[label[n]]|^2, no code with more than ``capacity`` rows

    Args:
        x: float ``[N, D]``.
        centroids: float ``[K, D]``.
        method: "sinkhorn" (codes of about equal size; equal rows get equal labels) or "capacity" (a limit that holds).
        capacity: rows per code, ``ceil(N / K)`` where ``None``; at least that. Only with "capacity".
        epsilon: of "sinkhorn", in halves of the range of the squared distances (LC-Rec's scale): smaller is nearer to
            the cheapest plan of equal shares and slower.
        sweeps: of "sinkhorn" over all rows, at most; fewer once every code's share is within 1 % of 1 / K.
        prices: float64 ``[K]``, in units of squared distances: where to begin (those of a call before); changed in
            place to where the call ended.

    Returns:
        int32 ``[N]``.

    Raises:
        InvalidTypeError: an argument of another kind.
        InvalidValueError: a wrong shape or range, a value that is not finite, or a capacity that cannot hold N rows.

    Notes:
        The plan is never held: a sweep computes it again by blocks of rows, in float32. Memory beside the arguments:
        ``O(N + K)``, the table of ``N K`` squared distances where there are up to 64M of them (256 MiB; it is then made
        once), and 48 MiB, with "capacity" and K up to 1024 also ``K x K``. Cost: ``N K D`` products (per sweep, where
        no table is kept) and ``N K`` exponentials per sweep, 16 to 24 sweeps with "capacity". The last rows above the
        limit then move along cheapest chains of codes, one by one where few (64) are left: for K up to 1024 the cost is
        then the smallest possible up to the prices' precision, unless a chain would be longer than 16 codes; else it is
        near that.
        Equal inputs give equal labels. Ties go to the lower code.

    Source:
        Cuturi, "Sinkhorn distances", 2013; Zheng et al., "LC-Rec", arXiv:2311.09049; Deng et al., "OneRec",
        arXiv:2502.18965, algorithm 1; the chains: Ahuja, Magnanti and Orlin, "Network flows", 1993, section 9.7.

    Example:
        >>> import torch
        >>> from genrec_fast.tokenizers import balanced_assignment
        >>> x = torch.tensor([[0.0], [1.0], [2.0], [9.0]])
        >>> balanced_assignment(x, torch.tensor([[1.0], [9.0]])).tolist()
        [0, 0, 1, 1]
    """
    _check(x, centroids, method, capacity, sweeps, prices)
    epsilon = check_epsilon("balanced_assignment", epsilon)
    rows, codes = len(x), len(centroids)
    room = -(-rows // codes) if capacity is None else capacity
    if rows == 0:
        return torch.zeros(0, dtype=torch.int32)
    if prices is None:
        prices, known = torch.zeros(codes, dtype=torch.float64), False
    else:
        known = bool((prices != 0).any())
    problem = _Problem(x.detach(), centroids.detach())
    scale = problem.half_range()
    target = 1.0 / codes if method == "sinkhorn" else room / rows
    final = epsilon if method == "sinkhorn" else _SHARP
    if scale > 0 and codes > 1:
        limit = method == "capacity"
        if not known:
            sample = problem.sample()
            for warm in (warm for warm in _COOLING if warm > final):
                sample.settle(prices, warm * scale, target, limit, _SWEEPS)
        for warm in (warm for warm in _COOLING[-2:] if warm > final):
            problem.settle(prices, warm * scale, target, limit, _SWEEPS)
        problem.settle(prices, final * scale, target, limit, sweeps if method == "sinkhorn" else _SWEEPS)
    labels = problem.cheapest(prices)
    if method == "capacity":
        excess = int((labels.bincount(minlength=codes) - room).clamp(min=0).sum())
        if excess > max(1024, rows // 20):  # many equal rows: the plan tells them apart, the prices cannot
            labels = problem.drawn(prices, max(final * scale, 1e-30))
        even_out(problem.x, problem.centroids, labels, room, prices, problem.table)
    return labels.to(torch.int32)


class _Problem:
    """Rows and centroids, moved to the centroids' mean: differences of squared distances keep their digits."""

    def __init__(self, x: Tensor, centroids: Tensor) -> None:
        self.x = x
        self.centroids = centroids.float()
        self.centre = self.centroids.mean(0)
        self.moved = self.centroids - self.centre
        self.norms = self.moved.square().sum(1)
        self.table: Tensor | None = None
        if len(x) * len(centroids) <= _KEPT:
            self.table = torch.empty(len(x), len(centroids))
            for first, rows in self._rows(_ELEMENTS):
                torch.addmm(self.norms, rows, self.moved.T, alpha=-2, out=self.table[first : first + len(rows)])

    def sample(self) -> _Problem:
        """The same with a part of the rows, drawn always alike."""
        few = max(1 << 14, _SAMPLE_PER_CODE * len(self.centroids))
        if few >= len(self.x):
            return self
        chosen = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(0))[:few].sort().values
        return _Problem(self.x[chosen], self.centroids)

    def costs(self) -> Iterator[tuple[int, Tensor]]:
        """First row, and float32 ``[m, K]``: squared distances less |row|^2 of the rows from there on."""
        codes = len(self.centroids)
        if self.table is not None:
            size = max(1, _CHUNK // codes)
            yield from zip(range(0, len(self.x), size), self.table.split(size), strict=True)
        else:
            for first, rows in self._rows(max(_CHUNK, _FEWEST * codes)):
                yield first, torch.addmm(self.norms, rows, self.moved.T, alpha=-2)

    def half_range(self) -> float:
        """Half of what lies between the smallest and the largest squared distance (of the sample)."""
        low, high = float("inf"), 0.0
        sample = self.sample()
        for first, costs in sample.costs():
            rows = sample.x[first : first + len(costs)].float() - sample.centre
            least, most = costs.aminmax(dim=1)
            lengths = rows.square().sum(1)
            low, high = min(low, float((least + lengths).min())), max(high, float((most + lengths).max()))
        return (high - max(low, 0.0)) / 2

    def settle(self, prices: Tensor, epsilon: float, target: float, limit: bool, sweeps: int) -> None:
        """Sinkhorn sweeps on the prices, until every share of rows is (with ``limit``: is at most) the target."""
        wanted = target * len(self.x)
        for _ in range(sweeps):
            shares = torch.zeros_like(prices)
            for _, costs in self.costs():
                shares += _plan(costs, prices, epsilon).sum(0)
            change = epsilon * (wanted / shares.clamp(min=1e-30)).log()
            if limit:  # a code below its limit needs no higher price than 0
                change = torch.minimum(change, -prices)
            prices += change
            if float(change.abs().max()) <= epsilon * _CLOSE:
                break

    def cheapest(self, prices: Tensor) -> Tensor:
        """int64 ``[N]``: the code of the lowest squared distance less price."""
        labels = torch.empty(len(self.x), dtype=torch.int64)
        for first, costs in self.costs():
            labels[first : first + len(costs)] = (costs - prices.float()).argmin(1)
        return labels

    def drawn(self, prices: Tensor, epsilon: float) -> Tensor:
        """int64 ``[N]``: codes drawn from the plan, evenly (by steps of the golden ratio), so that shares are kept."""
        labels = torch.empty(len(self.x), dtype=torch.int64)
        for first, costs in self.costs():
            points = torch.arange(first + 1, first + 1 + len(costs), dtype=torch.float64) * 0.6180339887498949 % 1.0
            sums = _plan(costs, prices, epsilon).cumsum(1)
            at = torch.searchsorted(sums, points.float()[:, None] * sums[:, -1:], right=True)
            labels[first : first + len(costs)] = at[:, 0].clamp_(max=len(self.centroids) - 1)
        return labels

    def _rows(self, elements: int) -> Iterator[tuple[int, Tensor]]:
        """First row and float32 rows, as many as have this many costs."""
        size = max(1, elements // len(self.centroids))
        for first in range(0, len(self.x), size):
            yield first, self.x[first : first + size].float() - self.centre


def _plan(costs: Tensor, prices: Tensor, epsilon: float) -> Tensor:
    return torch.sub((prices / epsilon).float(), costs, alpha=min(1 / epsilon, FLOAT32)).softmax(1)


def even_out(
    x: Tensor, centroids: Tensor, labels: Tensor, room: int, prices: Tensor, table: Tensor | None = None
) -> None:
    """Changes ``labels`` until no code has more than ``room`` rows, at the least cost of squared distances.

    The labels must be the cheapest for some prices, for then each cheapest chain keeps them the cheapest of all with
    their numbers of rows (successive shortest paths). While more than 64 rows are above the limit, a chain moves
    several at once, which is near the cheapest only.

    Args:
        x: float ``[N, D]``.
        centroids: float32 ``[K, D]``.
        labels: int64 ``[N]``, changed in place.
        room: rows per code, ``room * K >= N``.
        prices: float64 ``[K]``; beyond 1024 codes rows go straight to the cheapest code with room, less price.
        table: float32 ``[N, K]`` squared distances, each row less a number of its own; ``None``: computed where needed.
    """
    if len(centroids) > _MOST_CODES:
        _spill(x, centroids, labels, room, prices)
        return
    counts = labels.bincount(minlength=len(centroids))
    if int((counts - room).clamp(min=0).sum()) == 0:
        return
    costs = _Costs(x, centroids, table)
    moves = torch.stack([_cheapest_moves(costs, labels, code) for code in range(len(centroids))])
    finite = moves[moves.isfinite()]
    least = _LEAST_GAIN * float(finite.abs().max()) if len(finite) else 0.0
    while (excess := int((counts - room).clamp(min=0).sum())) > 0:
        chain = _cheapest_chain(moves, counts > room, counts < room, least)
        amount = min(max(1, excess // _STEPS), int(counts[chain[0]]) - room, room - int(counts[chain[-1]]))
        amount = min(amount, *(int(counts[code]) for code in chain[: len(chain) - 1]))
        movers = [_movers(costs, labels, source, target, amount) for source, target in itertools.pairwise(chain)]
        for rows, target in zip(movers, chain[1:], strict=True):
            labels[rows] = target
        counts[chain[0]] -= amount
        counts[chain[-1]] += amount
        for code in set(chain):
            moves[code] = _cheapest_moves(costs, labels, code)


class _Costs(NamedTuple):
    x: Tensor
    centroids: Tensor
    table: Tensor | None

    def differences(self, rows: Tensor, code: int, codes: list[int] | slice = slice(None)) -> Tensor:
        """float32 ``[m, codes]``: what each of these rows of ``code`` would pay more at each of ``codes``."""
        if self.table is not None:
            return self.table[rows][:, codes] - self.table[rows, code][:, None]
        others = self.centroids[codes] - self.centroids[code]
        own = self.x[rows].float() - self.centroids[code]  # |x - c|^2 - |own|^2 = |c - own|^2 - 2 (x - own)(c - own)
        return torch.addmm(others.square().sum(1), own, others.T, alpha=-2)


def _blocks(labels: Tensor, code: int, codes: int) -> list[Tensor]:
    return list((labels == code).nonzero()[:, 0].split(max(1, _ELEMENTS // codes)))


def _cheapest_moves(costs: _Costs, labels: Tensor, code: int) -> Tensor:
    """float32 ``[K]``: the least that a row of ``code`` pays more at each other code; infinite without rows."""
    least = torch.full((len(costs.centroids),), torch.inf)
    for rows in _blocks(labels, code, len(least)):
        if len(rows):
            least = torch.minimum(least, costs.differences(rows, code).amin(0))
    least[code] = torch.inf
    return least


def _movers(costs: _Costs, labels: Tensor, source: int, target: int, amount: int) -> Tensor:
    """int64 ``[amount]``: the rows of ``source`` that pay least at ``target``; the first among equals."""
    blocks = _blocks(labels, source, 2)
    more = [costs.differences(rows, source, [target])[:, 0] for rows in blocks]
    return torch.cat(blocks)[torch.cat(more).argsort(stable=True)[:amount]]


def _cheapest_chain(moves: Tensor, full: Tensor, free: Tensor, least: float) -> list[int]:
    """Codes from a full one to a free one; where moves of many rows have left a loop that gains, it is cut out."""
    cost = torch.where(full, 0.0, torch.inf)
    hops: list[tuple[Tensor, Tensor]] = []  # costs before a hop, and the codes that it made cheaper
    while len(hops) < min(len(moves), _HOPS):
        shorter = (cost[:, None] + moves).amin(0)
        better = shorter < cost - least
        if not bool(better.any()):
            break
        hops.append((cost, better))
        cost = torch.where(better, shorter, cost)
    node = int(torch.where(free, cost, torch.inf).argmin())
    chain = [node]
    for before, better in reversed(hops):
        if bool(better[node]):
            node = int((before + moves[:, node]).argmin())
            if node in chain:
                del chain[chain.index(node) :]
            chain.append(node)
    return chain[::-1]


def _spill(x: Tensor, centroids: Tensor, labels: Tensor, room: int, prices: Tensor) -> None:
    """Rounds: each full code sends its excess rows, cheapest move first, to codes that take as many as they can."""
    codes = len(centroids)
    centre = centroids.mean(0)
    moved = centroids - centre
    table = moved.square().sum(1) - prices.float()
    while True:
        counts = labels.bincount(minlength=codes)
        full = counts > room
        if not bool(full.any()):
            return
        bias = torch.where(counts < room, table, torch.inf)
        asking = full[labels].nonzero()[:, 0]
        goal, regret = torch.empty_like(asking), torch.empty(len(asking))
        for part in torch.arange(len(asking)).split(max(1, _ELEMENTS // codes)):
            rows = x[asking[part]].float() - centre
            low = torch.addmm(bias, rows, moved.T, alpha=-2).min(1)
            own = labels[asking[part]]
            goal[part] = low.indices
            regret[part] = low.values - (table[own] - 2 * (rows * moved[own]).sum(1))
        order = regret.argsort(stable=True)
        order = order[_rank(labels[asking[order]]) < (counts - room)[labels[asking[order]]]]
        order = order[_rank(goal[order]) < (room - counts)[goal[order]]]
        labels[asking[order]] = goal[order]


def _rank(keys: Tensor) -> Tensor:
    """int64: how many equal keys stand before each."""
    order = keys.argsort(stable=True)
    first = torch.searchsorted(keys[order], keys[order])
    ranks = torch.empty_like(keys)
    ranks[order] = torch.arange(len(keys)) - first
    return ranks


def check_epsilon(op: str, epsilon: Any) -> float:
    """A temperature as a share of the costs' range: below 1e-30 their quotient leaves float32.

    Raises:
        InvalidTypeError: no number.
        InvalidValueError: outside [1e-30, 1e30].
    """
    number = real_number(op, "epsilon", epsilon)
    if not 1e-30 <= number <= 1e30:
        raise InvalidValueError(f"{op}: epsilon must be in [1e-30, 1e30], got {number}")
    return number


def check_balance(op: str, balance: Any) -> None:
    """Raises unless ``balance`` is ``None``, "sinkhorn" or "capacity".

    Raises:
        InvalidValueError: it is not.
    """
    if balance not in (None, "sinkhorn", "capacity"):
        raise InvalidValueError(f"{op}: balance must be None, 'sinkhorn' or 'capacity', got {balance!r}")


def _check(x: Any, centroids: Any, method: Any, capacity: Any, sweeps: int, prices: Tensor | None) -> None:
    op = "balanced_assignment"
    for name, value in (("x", x), ("centroids", centroids)):
        if not isinstance(value, Tensor) or not value.is_floating_point():
            got = str(value.dtype) if isinstance(value, Tensor) else type(value).__name__
            raise InvalidTypeError(f"{op}: {name} must be a float tensor, got {got}")
        check_dense(op, name, value)
    for name, value in (("centroids", centroids), ("x", x)):
        if value.dim() != 2 or value.shape[1] != centroids.shape[1] or value.shape[1] < 1:
            raise InvalidValueError(f"{op}: {name} must be a matrix, as wide as the other, got {list(value.shape)}")
        for first, block in enumerate(value.split(1 << 16)):
            finite = block.isfinite().all(1)
            if not bool(finite.all()):
                row = (first << 16) + int((~finite).nonzero()[0])
                raise InvalidValueError(f"{op}: {name} must be finite, got NaN or infinity in row {row}")
            largest = float(block.abs().amax()) if len(block) else 0.0
            if largest**2 * value.shape[1] > _LARGEST:
                raise InvalidValueError(
                    f"{op}: {name} must have distances whose squares float32 holds, got {largest:g}"
                )
    rows, codes = len(x), len(centroids)
    if codes < 1:
        raise InvalidValueError(f"{op}: centroids must have at least 1 row, got 0")
    if not isinstance(method, str) or method not in ("sinkhorn", "capacity"):
        raise InvalidValueError(f"{op}: method must be 'sinkhorn' or 'capacity', got {shown(method)}")
    if capacity is not None and (method != "capacity" or whole_number(op, "capacity", capacity) * codes < rows):
        rule = f"at least {-(-rows // codes)} for {rows} rows" if method == "capacity" else "None with 'sinkhorn'"
        raise InvalidValueError(f"{op}: capacity must be {rule}, got {shown(capacity)}")
    whole_number(op, "sweeps", sweeps)
    if prices is not None:
        check_dense(op, "prices", prices)
    if prices is not None and (prices.dtype != torch.float64 or prices.shape != (codes,)):
        raise InvalidValueError(f"{op}: prices must be float64 [{codes}], got {prices.dtype} {list(prices.shape)}")
