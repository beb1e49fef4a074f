"""Whether semantic IDs are any good: collisions, use of the codebooks, reconstruction, purity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from genrec_fast.checks import shown
from genrec_fast.errors import InvalidTypeError, InvalidValueError, UnsupportedError
from genrec_fast.tokenizers.groups import Groups, check_item_codes, group_items
from genrec_fast.tokenizers.report_figures import decoded_errors, group_errors, prefix_purity, scatter, summed_errors

if TYPE_CHECKING:
    import os

    from genrec_fast.tokenizers.base import Tokenizer

__all__ = ["LevelReport", "Report", "report"]

_LARGEST = 10  # groups whose sizes are told


@dataclass(frozen=True, kw_only=True)
class LevelReport:
    """Figures of one level, and of the prefixes that end there; see ``report``."""

    level: int
    codebook_size: int
    codes_used: int
    entropy: float
    """of the level's codes, bits"""
    perplexity: float
    gini: float
    num_prefixes: int
    """different prefixes of level + 1 codes"""
    prefix_entropy: float
    """of these prefixes, bits"""
    largest_prefix: int
    """items under the most frequent of them"""
    collision_rate: float
    """of these prefixes: (N - num_prefixes) / N"""
    mse: float | None = None
    purity: float | None = None
    chance_purity: float | None = None


@dataclass(frozen=True, kw_only=True)
class Report:
    """Figures of a catalog's semantic IDs; see ``report``. ``str`` gives a table."""

    num_items: int
    num_levels: int
    """levels that say something about an item; a dedup level behind them is none"""
    codebook_sizes: tuple[int, ...]
    collision_rate: float
    """of the whole IDs, dedup level included"""
    collision_rate_before_dedup: float
    """of the first num_levels codes"""
    items_sharing: int
    """items whose first num_levels codes another item has too"""
    largest_groups: tuple[int, ...]
    """sizes of the (at most 10) largest groups of items of equal first num_levels codes, of two items or more"""
    group_sizes: tuple[tuple[int, int], ...]
    """(size, number of groups of that size) over the first num_levels codes, by size"""
    variance: float | None
    """mean squared distance of features from their mean, per element: the error of no code at all"""
    reconstruction: Literal["tokenizer", "codebooks", "group means"] | None
    """what the features are compared with"""
    levels: tuple[LevelReport, ...]
    code_counts: tuple[Tensor, ...] = field(compare=False, repr=False)
    """int64 ``[K_l]`` per level: items of each code"""

    def __str__(self) -> str:
        from genrec_fast.tokenizers.report_text import as_text

        return as_text(self)

    def print(self) -> None:
        """Prints the table to the terminal."""
        from genrec_fast.tokenizers.report_text import print_tables

        print_tables(self)

    def save_picture(self, path: str | os.PathLike[str]) -> None:
        """Draws use of the codes, prefixes, sizes of groups, and what is known of error and purity.

        Args:
            path: ends in .png, .svg or .pdf; written whole or not at all.

        Raises:
            InvalidValueError: another ending.
            UnsupportedError: matplotlib is not installed.
        """
        from genrec_fast.tokenizers.report_picture import draw

        draw(self, path)

    def to_dict(self) -> dict[str, Any]:
        """Everything but ``code_counts``, ready for ``json.dumps``."""
        out: dict[str, Any] = {
            f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("levels", "code_counts")
        }
        out["codebook_sizes"] = list(self.codebook_sizes)
        out["largest_groups"] = list(self.largest_groups)
        out["group_sizes"] = [list(pair) for pair in self.group_sizes]
        out["levels"] = [{f.name: getattr(level, f.name) for f in fields(level)} for level in self.levels]
        return out


def report(
    item_codes: Tensor,
    features: Tensor | None = None,
    labels: Tensor | None = None,
    *,
    codebook_sizes: Sequence[int] | None = None,
    tokenizer: Tokenizer | None = None,
    codebooks: Sequence[Tensor] | None = None,
    num_levels: int | None = None,
) -> Report:
    """Measures the semantic IDs of a catalog.

    With n_k the number of items of code k at a level of K codes, p_k = n_k / N, and groups g of items of equal
    prefixes of t codes::

        collision_rate = (N - different prefixes) / N     entropy = -sum_k p_k log2 p_k    perplexity = 2^entropy
        gini = sum_j (2 j - K - 1) n_(j) / (K N)          n_(1) <= ... <= n_(K), unused codes included
        mse = mean_i |x_i - y_i|^2 / F                    y_i by ``reconstruction``, for each t
        purity = sum_g max_c |{i in g: label_i = c}| / N  over items of known label, for each t

    gini is 0 where all codes are used alike and (K - 1) / K where all items have one code. Purity grows with the
    number of groups whatever they mean (a group of one is pure): ``chance_purity`` is the purity of the same groups
    with the labels shuffled, and what counts is the distance from it.

    y_i is what the first t codes decode to: ``tokenizer.decode``; or the sum of ``codebooks``' vectors; or, without
    either (or with a tokenizer that cannot decode), the mean of the features in item i's prefix group: the least
    error that any decoder of these IDs could have. ``mse`` is in units of the features squared; beside
    ``variance`` it says which part is left. A tokenizer that scales features before it codes them is compared with
    the scaled ones (``Tokenizer.targets``).

    Args:
        item_codes: integer ``[N, L]``.
        features: float ``[N, F]``, finite.
        labels: integer ``[N]``: a category per item; -1: unknown.
        codebook_sizes: L sizes; without them the tokenizer's, else the codebooks', else the largest code plus one.
        tokenizer: a fitted one, to decode with.
        codebooks: float ``[K_l, F]`` per level; in place of a tokenizer.
        num_levels: levels that code features; those behind (a dedup level) get no mse and no purity. Without it: the
            levels of the codebooks, or of the tokenizer's own codes, or L.

    Raises:
        InvalidTypeError: a wrong dtype.
        InvalidValueError: a wrong shape, a code outside its codebook, a feature that is not finite (naming the row),
            no known label, or tokenizer and codebooks together.

    Notes:
        One sort of the items, then sums over neighbours: O(N log N + N L F). A million items of 4 levels take
        under a second, with 64 features about five. Deterministic.

    Source: collision rate and codebook use as reported since TIGER (arXiv:2305.05065); Gini and purity by their
        definitions in statistics (Manning et al., Introduction to Information Retrieval, 16.3); the chance level is
        ours.

    Example:
        >>> import torch
        >>> from genrec_fast.tokenizers import report
        >>> found = report(torch.tensor([[0, 1], [0, 1], [1, 0], [0, 0]]), codebook_sizes=(2, 2))
        >>> found.collision_rate, found.largest_groups, found.levels[0].gini
        (0.25, (2,), 0.25)
    """
    check_item_codes("report", item_codes)
    if tokenizer is not None and codebooks is not None:
        raise InvalidValueError("report: tokenizer and codebooks must not be given together, got both")
    codes = item_codes.detach().to("cpu", torch.int64)
    count, total = codes.shape
    vectors = None if features is None else _features(features, count)
    books = None if codebooks is None else _codebooks(codebooks, total, vectors)
    levels = _levels(total, num_levels, books, tokenizer, vectors)
    sizes = _sizes(codes, codebook_sizes, books, tokenizer)
    check_item_codes("report", item_codes, sizes)
    groups = group_items(codes)
    code_counts = tuple(torch.bincount(column, minlength=size) for column, size in zip(codes.T, sizes, strict=True))

    errors: list[float] = []
    variance, how = None, None
    if vectors is not None:
        target = vectors if tokenizer is None else _targets(tokenizer, vectors)
        variance, how = scatter(target), "group means"
        try:
            if books is not None:
                errors, how = summed_errors(target, codes, books[:levels]), "codebooks"
            elif tokenizer is not None:
                errors, how = decoded_errors(target, codes, tokenizer, levels), "tokenizer"
        except UnsupportedError:  # reads no features
            how = "group means"
        if not errors:
            errors = group_errors(target, groups, levels)
    purity: list[tuple[float, float]] = []
    if labels is not None:
        purity = prefix_purity(groups, _labels(labels, count), levels)

    rows = []
    for level, (size, used) in enumerate(zip(sizes, code_counts, strict=True)):
        counts = groups.counts(level + 1)
        bits = _entropy(used)
        rows.append(
            LevelReport(
                level=level,
                codebook_size=size,
                codes_used=int((used > 0).sum()),
                entropy=bits,
                perplexity=2**bits,
                gini=_gini(used),
                num_prefixes=counts.numel(),
                prefix_entropy=_entropy(counts),
                largest_prefix=int(counts.max()),
                collision_rate=(count - counts.numel()) / count,
                mse=errors[level] if level < len(errors) else None,
                purity=purity[level][0] if level < len(purity) else None,
                chance_purity=purity[level][1] if level < len(purity) else None,
            )
        )
    return Report(
        num_items=count,
        num_levels=levels,
        codebook_sizes=sizes,
        collision_rate=rows[-1].collision_rate,
        collision_rate_before_dedup=rows[levels - 1].collision_rate,
        variance=variance,
        reconstruction=how,  # type: ignore[arg-type]
        levels=tuple(rows),
        code_counts=code_counts,
        **_shared(groups, levels),
    )


def _shared(groups: Groups, levels: int) -> dict[str, Any]:
    counts = groups.counts(levels)
    shared = counts[counts > 1]
    sizes, numbers = torch.unique(counts, return_counts=True)
    return {
        "items_sharing": int(shared.sum()),
        "largest_groups": tuple(torch.topk(shared, min(_LARGEST, shared.numel())).values.tolist()),
        "group_sizes": tuple(zip(sizes.tolist(), numbers.tolist(), strict=True)),
    }


def _entropy(counts: Tensor) -> float:
    shares = counts[counts > 0].double() / int(counts.sum())
    return max(0.0, float(-(shares * shares.log2()).sum()))


def _gini(counts: Tensor) -> float:
    size = counts.numel()
    weights = 2 * torch.arange(1, size + 1) - size - 1
    total = int((weights * counts.sort().values).sum())  # in integers: exact
    return total / (size * int(counts.sum()))


def _sizes(
    codes: Tensor, given: Sequence[int] | None, books: list[Tensor] | None, tokenizer: Tokenizer | None
) -> tuple[int, ...]:
    total = codes.shape[1]
    if given is not None:
        if not isinstance(given, (list, tuple)):
            raise InvalidTypeError(f"report: codebook_sizes must be a list of integers, got {type(given).__name__}")
        sizes = tuple(given)
        whole = all(isinstance(size, int) and not isinstance(size, bool) and 1 <= size <= 1 << 26 for size in sizes)
        if len(sizes) != total or not whole:
            raise InvalidValueError(f"report: codebook_sizes must be {total} integers in [1, 2^26], got {shown(sizes)}")
        return sizes
    largest = tuple((codes.amax(0) + 1).tolist())
    if tokenizer is not None and len(tokenizer.codebook_sizes) >= total:
        return tuple(tokenizer.codebook_sizes)[:total]
    if tokenizer is not None:
        return (*tokenizer.codebook_sizes, *largest[len(tokenizer.codebook_sizes) :])
    if books is not None:
        return (*(book.shape[0] for book in books), *largest[len(books) :])
    return largest


def _levels(
    total: int,
    given: int | None,
    books: list[Tensor] | None,
    tokenizer: Tokenizer | None,
    vectors: Tensor | None,
) -> int:
    if given is not None:
        most = total if books is None else len(books)
        if isinstance(given, bool) or not isinstance(given, int) or not 1 <= given <= most:
            raise InvalidValueError(f"report: num_levels must be in [1, {most}], got {given!r}")
        return given
    if books is not None:
        return len(books)
    if tokenizer is None:
        return total
    sizes = getattr(tokenizer.config, "codebook_sizes", None)
    if isinstance(sizes, tuple):
        return min(total, len(sizes))
    if vectors is not None:
        try:
            return min(total, tokenizer.encode(vectors[:1]).shape[1])
        except UnsupportedError:  # reads no features
            return total
    return total


def _targets(tokenizer: Tokenizer, vectors: Tensor) -> Tensor:
    return tokenizer.targets(vectors) if tokenizer.feature_dim == vectors.shape[1] else vectors


def _features(features: Tensor, count: int) -> Tensor:
    if not isinstance(features, Tensor) or not features.is_floating_point():
        got = features.dtype if isinstance(features, Tensor) else type(features).__name__
        raise InvalidTypeError(f"report: features must be a float tensor [N, F], got {got}")
    if features.dim() != 2 or features.shape[0] != count or features.shape[1] == 0:
        raise InvalidValueError(f"report: features must be [{count}, F], got {list(features.shape)}")
    vectors = features.detach().to("cpu", torch.float32)
    finite = vectors.isfinite().all(1)
    if not bool(finite.all()):
        row = int((~finite).nonzero()[0])
        raise InvalidValueError(f"report: features must be finite, got NaN or infinity in row {row}")
    return vectors


def _codebooks(codebooks: Sequence[Tensor], total: int, vectors: Tensor | None) -> list[Tensor]:
    if not isinstance(codebooks, (list, tuple)):
        raise InvalidTypeError(f"report: codebooks must be a list of tensors, got {type(codebooks).__name__}")
    if not 1 <= len(codebooks) <= total:
        raise InvalidValueError(f"report: codebooks must be 1 to {total}, one per level, got {len(codebooks)}")
    for level, book in enumerate(codebooks):
        if not isinstance(book, Tensor) or not book.is_floating_point():
            got = book.dtype if isinstance(book, Tensor) else type(book).__name__
            raise InvalidTypeError(f"report: codebooks must be float tensors [K, F], got {got} at level {level}")
        width = "F" if vectors is None else vectors.shape[1]
        if book.dim() != 2 or book.shape[0] == 0 or (vectors is not None and book.shape[1] != vectors.shape[1]):
            raise InvalidValueError(f"report: codebooks must be [K, {width}], got {list(book.shape)} at level {level}")
        if not bool(book.isfinite().all()):
            raise InvalidValueError(f"report: codebooks must be finite, got NaN or infinity at level {level}")
    return [book.detach().to("cpu", torch.float64) for book in codebooks]


def _labels(labels: Tensor, count: int) -> Tensor:
    integers = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64)
    if not isinstance(labels, Tensor) or labels.dtype not in integers:
        got = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise InvalidTypeError(f"report: labels must be an integer tensor [N], got {got}")
    if labels.dim() != 1 or labels.shape[0] != count:
        raise InvalidValueError(f"report: labels must be [{count}], got {list(labels.shape)}")
    values = labels.detach().to("cpu", torch.int64)
    if int(values.min()) < -1:
        raise InvalidValueError(f"report: labels must be at least -1 (unknown), got {int(values.min())}")
    if int(values.max()) < 0:
        raise InvalidValueError("report: labels must be known for at least one item, got -1 for all")
    return values
