"""Whether semantic IDs are any good: collisions, use of the codebooks, reconstruction, purity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from genrec_fast.base.checks import check_integers, numbers, whole_number
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError, UnsupportedError
from genrec_fast.tokenizers.codes import check_item_codes
from genrec_fast.tokenizers.collisions.groups import Groups, group_items
from genrec_fast.tokenizers.report.held_out import chance_held_out_errors, held_out_errors, prefixes_of, shuffled
from genrec_fast.tokenizers.report.page import LevelReport, Report
from genrec_fast.tokenizers.report.structure import Structure, structure
from genrec_fast.tokenizers.report.sums import (
    Decodes,
    decoded_errors,
    entropy,
    gini,
    group_errors,
    prefix_purity,
    scatter,
    summed_errors,
)
from genrec_fast.tokenizers.report.verdict import Evidence, judge

_LARGEST = 10  # groups whose sizes are listed


def report(
    item_codes: Tensor,
    features: Tensor | None = None,
    labels: Tensor | None = None,
    *,
    codebook_sizes: Sequence[int] | None = None,
    tokenizer: Decodes | None = None,
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

    gini is 0 where all codes are used alike and (K - 1) / K where all items have one code. Purity grows with the number
    of groups whatever they mean (a group of one is pure): ``chance_purity`` is the purity of the same groups with the
    labels shuffled (the highest of 20), and what counts is the distance from it. Likewise ``chance_mse`` is the error
    of the same IDs shuffled among the items (groups of one have no error, whatever they mean), and
    ``chance_collision_rate`` that of levels shuffled each by itself. All shuffles have fixed seeds.

    ``held_out_mse`` is the error of an item's features as predicted from the *other* items by its codes
    (``held_out.held_out_errors``): random IDs do not get below ``held_out_variance``, the error without codes, and
    stand beside it (``chance_held_out_mse``: the least error of up to 20 shuffles; fewer where items are so many that
    shuffles hardly differ). The codes are as they were given, learned with the item or published: what is held out is
    what they mean.

    Codes that are fitted to features explain some of their variance whatever these are, most of it where columns are
    few, and of noise, too. So ``structure`` compares the features themselves with noise of the same columns
    (``structure.structure``, 500 items). What codes explain counts only where the features are more than noise.

    ``verdict`` is "useless" where codes tell nothing (less than 3 % more of the features' variance held out than by
    chance, or of the way from chance to pure categories), features are noise, or the collision rate is .9; "weak" where
    codes tell less than 10 %, features are perhaps noise, the collision rate is .4 (before a dedup level: .9) or a
    level has collapsed; else "usable". Without features and labels it is "unknown", or as collisions say. ``because``
    says why.

    y_i is what the first t codes decode to: ``tokenizer.decode``; or the sum of ``codebooks``' vectors; or, without
    either (or with a tokenizer that cannot decode), the mean of the features in item i's prefix group: the least
    error that any decoder of these IDs could have. ``mse`` is in units of the features squared; its share of
    ``variance`` is what the codes leave unexplained. A tokenizer that scales features before it codes them is compared
    with the scaled ones (``Tokenizer.targets``).

    Args:
        item_codes: integer ``[N, L]``.
        features: float ``[N, F]``, finite.
        labels: integer ``[N]``: a category per item; -1: unknown.
        codebook_sizes: L sizes; without them the tokenizer's, else the codebooks', else the largest code plus one.
        tokenizer: a fitted one, to decode with.
        codebooks: float ``[K_l, F]`` per level; in place of a tokenizer.
        num_levels: levels that code features; a dedup level gets no mse and no purity. Without it: the
            levels of the codebooks, or of the tokenizer's own codes, or L.

    Raises:
        InvalidTypeError: a wrong dtype.
        InvalidValueError: a wrong shape, a code outside its codebook, a feature that is not finite (naming the row),
            no known label, or tokenizer and codebooks together.

    Notes:
        One sort of the items, then sums over neighbours: O(N log N + N L F). A million items of 4 levels take
        under two seconds, with 64 features about twenty. Deterministic.

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

    by_chance = shuffled(count)
    apart = torch.stack([column[shuffled(count, seed)] for seed, column in enumerate(codes.T)], 1)
    chance_groups = group_items(apart)
    errors: list[float] = []
    chance_errors: list[float] = []
    held_out: list[float] = []
    chance_held_out: list[float] = []
    variance, how, nothing, found = None, None, None, None
    if vectors is not None:
        target = vectors if tokenizer is None else _targets(tokenizer, vectors)
        variance, how = scatter(target), "group means"
        try:
            if books is not None:
                errors, how = summed_errors(target, codes, books[:levels]), "codebooks"
                chance_errors = summed_errors(target, codes[by_chance], books[:levels])
            elif tokenizer is not None:
                errors, how = decoded_errors(target, codes, tokenizer, levels), "tokenizer"
                chance_errors = decoded_errors(target, codes[by_chance], tokenizer, levels)
        except UnsupportedError:  # reads no features
            how = "group means"
        if not errors:
            errors = group_errors(target, groups, levels)
            chance_errors = group_errors(target[by_chance.argsort()], groups, levels)
        prefixes = prefixes_of(groups, levels)
        nothing, held_out = held_out_errors(target, codes, prefixes)
        chance_held_out = chance_held_out_errors(target, codes, prefixes)
        found = structure(target)
    purity: list[tuple[float, float]] = []
    if labels is not None:
        purity = prefix_purity(groups, _labels(labels, count), levels)

    rows = []
    for level, (size, used) in enumerate(zip(sizes, code_counts, strict=True)):
        counts = groups.counts(level + 1)
        bits = entropy(used)
        rows.append(
            LevelReport(
                level=level,
                codebook_size=size,
                codes_used=int((used > 0).sum()),
                entropy=bits,
                perplexity=2**bits,
                gini=gini(used),
                num_prefixes=counts.numel(),
                prefix_entropy=entropy(counts),
                largest_prefix=int(counts.max()),
                collision_rate=(count - counts.numel()) / count,
                chance_collision_rate=(count - chance_groups.starts(level + 1).numel()) / count,
                mse=errors[level] if level < len(errors) else None,
                chance_mse=chance_errors[level] if level < len(chance_errors) else None,
                held_out_mse=held_out[level] if level < len(held_out) else None,
                chance_held_out_mse=chance_held_out[level] if level < len(chance_held_out) else None,
                purity=purity[level][0] if level < len(purity) else None,
                chance_purity=purity[level][1] if level < len(purity) else None,
            )
        )
    verdict, because = judge(_evidence(rows, levels, count, nothing, found))
    return Report(
        num_items=count,
        num_levels=levels,
        codebook_sizes=sizes,
        collision_rate=rows[-1].collision_rate,
        collision_rate_before_dedup=rows[levels - 1].collision_rate,
        variance=variance,
        reconstruction=how,  # type: ignore[arg-type]
        levels=tuple(rows),
        held_out_variance=nothing,
        structure=found,
        verdict=verdict,
        because=because,
        code_counts=code_counts,
        **_shared(groups, levels),
    )


def _evidence(
    rows: list[LevelReport], num_levels: int, count: int, nothing: float | None, found: Structure | None
) -> Evidence:
    """What the verdict goes by; ``nothing``: the held-out error without codes."""
    levels = rows[:num_levels]

    def explained(errors: list[float | None]) -> float | None:
        known = [error for error in errors if error is not None]
        return None if not known or nothing is None else 1 - min(known) / nothing if nothing else 0.0

    pure = [
        (level.purity - level.chance_purity) / (1 - level.chance_purity)
        for level in levels
        if level.purity is not None and level.chance_purity is not None and level.chance_purity < 1
    ]
    use = [(level.level, level.perplexity, min(level.codebook_size, count)) for level in levels]
    return Evidence(
        explained=explained([level.held_out_mse for level in levels]),
        by_chance=explained([level.chance_held_out_mse for level in levels]),
        structure=None if found is None else found.found,
        features=None if found is None else str(found),
        purity=max(pure) if pure else None,
        collision_rate=rows[-1].collision_rate,
        before_dedup=levels[-1].collision_rate,
        collapsed=min(use, key=lambda level: (level[1] - 1) / max(1, level[2] - 1)) if count > 1 else None,
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


def _sizes(
    codes: Tensor, given: Sequence[int] | None, books: list[Tensor] | None, tokenizer: Decodes | None
) -> tuple[int, ...]:
    total = codes.shape[1]
    if given is not None:
        sizes = tuple(numbers("report", "codebook_sizes", given, 1, 1 << 26))
        if len(sizes) != total:
            raise InvalidValueError(f"report: codebook_sizes must be {total}, one per level, got {len(sizes)}")
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
    tokenizer: Decodes | None,
    vectors: Tensor | None,
) -> int:
    if given is not None:
        return whole_number("report", "num_levels", given, most=total if books is None else len(books))
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


def _targets(tokenizer: Decodes, vectors: Tensor) -> Tensor:
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
    labels = check_integers("report", "labels", labels, "[N]")
    if labels.dim() != 1 or labels.shape[0] != count:
        raise InvalidValueError(f"report: labels must be [{count}], got {list(labels.shape)}")
    values = labels.detach().to("cpu", torch.int64)
    if int(values.min()) < -1:
        raise InvalidValueError(f"report: labels must be at least -1 (unknown), got {int(values.min())}")
    if int(values.max()) < 0:
        raise InvalidValueError("report: labels must be known for at least one item, got -1 for all")
    return values
