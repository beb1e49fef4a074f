"""What every tokenizer is: settings, fitted once, giving every item its semantic ID, in one file on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, get_args

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from genrec_fast.base.checks import INT64, check_integers, whole_number
from genrec_fast.base.config import from_json, to_json
from genrec_fast.base.errors import CorruptFileError, GenrecError, InvalidTypeError, InvalidValueError, UnsupportedError
from genrec_fast.base.files import checksum, save_tensors
from genrec_fast.base.jagged import Jagged
from genrec_fast.base.limits import within
from genrec_fast.base.progress import Progress
from genrec_fast.catalog.catalog import Catalog
from genrec_fast.tokenizers.collisions.reassign import Reassign
from genrec_fast.tokenizers.collisions.resolution import Resolution
from genrec_fast.tokenizers.collisions.resolve import resolve
from genrec_fast.tokenizers.report import report as measure
from genrec_fast.tokenizers.stored import check_codes, check_sizes

if TYPE_CHECKING:
    from typing_extensions import Self  # typing has it from Python 3.11 on

FILE_VERSION = 1
_PREFIX = "genrec_fast.tokenizer."
_kinds: dict[str, type[Tokenizer]] = {}  # every class that names a kind, for ``load``


@dataclass(frozen=True, kw_only=True, eq=False)
class Fit:
    """What a tokenizer learns from, checked by ``Tokenizer.fit``."""

    features: Tensor
    """float ``[N, F]`` as the tokenizer's ``_features`` gives them; ``[N, 0]`` where it reads none"""
    num_items: int
    """N"""
    seed: int
    """of all randomness, in [0, 2^63)"""
    histories: Jagged | None
    """item ids per user, of the training split only"""
    categories: Tensor | None
    """int64 ``[N, depth]``, -1 where unknown"""
    progress: Progress
    """does nothing where the caller gave none"""

    def generator(self) -> torch.Generator:
        """A new stream of random numbers from the seed."""
        return torch.Generator().manual_seed(self.seed)


class Tokenizer:
    """Gives every item of a catalog its semantic ID.

    A member sets ``kind`` and ``config_type`` and writes ``_fit``, which learns and calls ``_keep`` with the codes of
    the catalog; what it has learned beyond these goes through ``_learned`` and ``_restore``. One that reads features
    sets ``reads_features`` and writes ``encode`` and ``decode``.
    """

    kind: ClassVar[str]
    config_type: ClassVar[type]
    reads_features: ClassVar[bool] = False

    def __init_subclass__(cls, **settings: Any) -> None:
        super().__init_subclass__(**settings)
        if "kind" in vars(cls):
            _kinds[cls.kind] = cls

    def __init__(self, config: Any, feature_dim: int | None) -> None:
        self.config = config
        self.feature_dim = feature_dim
        self._item_codes: Tensor | None = None
        self._codebook_sizes: tuple[int, ...] = ()
        self.resolution: Resolution | None = None
        """what ``dedup`` did, where the tokenizer has that setting"""

    @property
    def item_codes(self) -> Tensor:
        """int32 ``[N, L]``, the dedup level included."""
        if self._item_codes is None:
            raise InvalidValueError(f"{self.kind}: item_codes must come from fit or load, got neither")
        return self._item_codes

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Of all levels, the dedup level included."""
        if self._item_codes is None:
            raise InvalidValueError(f"{self.kind}: codebook_sizes must come from fit or load, got neither")
        return self._codebook_sizes

    def fit(
        self,
        features: Tensor | None = None,
        *,
        num_items: int | None = None,
        seed: int = 0,
        histories: Jagged | None = None,
        categories: Tensor | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Learns the codes of a catalog; the same seed gives the same codes.

        Args:
            features: float ``[N, F]``; ``None`` for tokenizers that read none.
            num_items: N; may be left out where features or a file say it.
            seed: of all randomness, at least 0.
            histories: item ids in ``[0, N)`` per user, of the training split only, so that semantic IDs do not
                leak the answers of an evaluation. Only tokenizers that learn from interactions read them.
            categories: int64 ``[N, depth]``, tags of each item from coarse to fine, -1 where unknown. Only regularisers
                that learn from tags read them.
            progress: called as it learns.

        Raises:
            InvalidTypeError: an argument of another kind.
            InvalidValueError: an argument out of range, fewer vectors than codes where codes start on vectors, or a
                value that is not finite (naming its row).
        """
        seed = whole_number(self.kind, "seed", seed, 0, INT64[1])
        vectors = self._features(features) if self.reads_features else None
        count = self._count(features, num_items)
        self._fit(
            Fit(
                features=torch.empty(count, 0) if vectors is None else vectors,
                num_items=count,
                seed=seed,
                histories=histories,
                categories=categories,
                progress=_unheard if progress is None else progress,
            )
        )

    def _fit(self, fit: Fit) -> None:
        """Learns, and calls ``_keep``."""
        raise NotImplementedError

    def encode(self, features: Tensor) -> Tensor:
        """Codes of any vectors: float ``[m, F]`` -> int32 ``[m, levels]``, without a dedup level.

        Raises:
            UnsupportedError: this tokenizer reads no features.
        """
        raise UnsupportedError(f"{self.kind}: encode needs a tokenizer of feature vectors, such as rqkmeans")

    def decode(self, codes: Tensor) -> Tensor:
        """Vectors of codes: integer ``[m, levels]`` -> float32 ``[m, F]``; a dedup level is not read.

        Raises:
            UnsupportedError: this tokenizer reads no features.
        """
        raise UnsupportedError(f"{self.kind}: decode needs a tokenizer of feature vectors, such as rqkmeans")

    def targets(self, features: Tensor) -> Tensor:
        """What ``decode`` approximates: float ``[m, F]`` -> float32 ``[m, F]``, scaled as the tokenizer scales them."""
        return self._vectors(features)

    def report(self) -> dict[str, Any]:
        """The figures of ``tokenizers.report`` that need no features, and the share of codes in use per level."""
        found = measure(self.item_codes, tokenizer=self)
        return {
            **found.to_dict(),
            "codebook_sizes": self.codebook_sizes,
            "codebook_use": [level.codes_used / level.codebook_size for level in found.levels],
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes settings, codes and all that was learned to one safetensors file, whole or not at all."""
        tensors = {"item_codes": self.item_codes.contiguous(), **self._learned()}
        metadata = {
            "kind": f"{_PREFIX}{self.kind}",
            "version": str(FILE_VERSION),
            "config": json.dumps(to_json(self.config, "save", full_names=True)),
            "feature_dim": json.dumps(self.feature_dim),
            "codebook_sizes": json.dumps(self.codebook_sizes),
        }
        if self.resolution is not None:
            metadata["resolution"] = json.dumps(to_json(self.resolution, "save"))
        metadata["checksum"] = checksum(metadata, tensors)
        save_tensors(path, tensors, metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Reads a file of ``save``.

        Raises:
            CorruptFileError: cut short, altered, of another version, or of another kind of tokenizer.
            FileNotFoundError: no such file.
        """
        metadata, tensors = _read(cls.kind, path)
        for name, wanted in (("kind", f"{_PREFIX}{cls.kind}"), ("version", str(FILE_VERSION))):
            if metadata.get(name) != wanted:
                raise CorruptFileError(f"{cls.kind}: {name} in {path} must be {wanted}, got {metadata.get(name)}")
        stored = metadata.pop("checksum", None)
        if stored != (computed := checksum(metadata, tensors)):
            raise CorruptFileError(f"{cls.kind}: checksum of {path} must be {stored}, got {computed}")
        try:
            with within(tensors, Path(path).stat().st_size, f"{cls.kind}: {path}"):
                # settings that came later have their defaults
                config = from_json(cls.config_type, json.loads(metadata["config"]), "load", defaults=True)
                feature_dim = json.loads(metadata["feature_dim"])
                if feature_dim is not None and type(feature_dim) is not int:
                    raise InvalidValueError(f"load: feature_dim must be an int, got {feature_dim!r:.40}")
                config.build(_catalog_of(feature_dim))  # checks the two together
                tokenizer = cls(config, feature_dim)
                tokenizer._codebook_sizes = check_sizes(json.loads(metadata["codebook_sizes"]))
                trained = getattr(config, "sizes", getattr(config, "codebook_sizes", None))
                tokenizer._item_codes = check_codes(tensors, tokenizer._codebook_sizes, trained)
                del tensors["item_codes"]
                if "resolution" in metadata:
                    tokenizer.resolution = from_json(Resolution, json.loads(metadata["resolution"]), "load")
                tokenizer._restore(tensors)
        except (GenrecError, AttributeError, KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
            # whole, but not what this version writes; torch raises RuntimeError for shapes that do not fit
            raise CorruptFileError(f"{cls.kind}: {path} must hold what save wrote, got: {error!r:.200}") from error
        return tokenizer

    def _learned(self) -> dict[str, Tensor]:
        """What ``save`` keeps in addition to the codes."""
        return {}

    def _restore(self, tensors: dict[str, Tensor]) -> None:
        """Restores what ``_learned`` gave."""

    def _keep(
        self,
        codes: Tensor,
        sizes: tuple[int, ...],
        *,
        vectors: Tensor | None = None,
        codebooks: Sequence[Tensor] | None = None,
    ) -> None:
        """Keeps the codes of the catalog, equal ones told apart as ``config.dedup`` says; see ``resolve``."""
        self._item_codes, self._codebook_sizes, self.resolution = resolve(
            codes, sizes, self.config.dedup, vectors=vectors, codebooks=codebooks
        )

    @property
    def _reassigns(self) -> bool:
        """Whether ``_keep`` needs vectors and codebooks."""
        return self.config.dedup in get_args(Reassign)

    def _count(self, features: Tensor | None, num_items: int | None) -> int:
        """N, from either argument."""
        if features is not None and (not isinstance(features, Tensor) or features.dim() == 0):
            raise InvalidTypeError(f"{self.kind}: features must be a tensor [N, F], got {type(features).__name__}")
        if num_items is not None:
            num_items = whole_number(self.kind, "num_items", num_items)
        count = num_items if features is None else features.shape[0]
        if count is None or count < 1:
            raise InvalidValueError(f"{self.kind}: num_items must be at least 1, got {count}")
        if num_items is not None and count != num_items:
            raise InvalidValueError(f"{self.kind}: features must have a row for each of {num_items} items, got {count}")
        return count

    def _check_enough(self, count: int) -> None:
        """For tokenizers whose codes start on vectors: each code needs one."""
        if count < (most := max(self.config.codebook_sizes)):
            raise InvalidValueError(
                f"{self.kind}: features must have at least {most} rows, one per code of a level, got {count}; "
                "codebook_sizes (--tokenizer.codebook-sizes) may be smaller"
            )

    def _features(self, features: Tensor | None) -> Tensor:
        """The features that ``fit`` was given, checked, as ``_fit`` takes them."""
        return self._vectors(features)

    def _columns(self, codes: Tensor, sizes: tuple[int, ...]) -> list[Tensor]:
        """Checked codes of one or more levels of ``sizes``, int64 ``[m]`` each; further levels are left out.

        Raises:
            InvalidTypeError: codes are not integers.
            InvalidValueError: a wrong shape, or a code outside its codebook.
        """
        codes = check_integers(self.kind, "codes", codes, "[m, t]")
        most = max(len(self._codebook_sizes), len(sizes))
        if codes.dim() != 2 or not 1 <= codes.shape[1] <= most:
            raise InvalidValueError(f"{self.kind}: codes must be [m, 1 to {most}], got {list(codes.shape)}")
        columns = list(codes.detach().cpu().long().unbind(1))[: len(sizes)]
        for level, (column, size) in enumerate(zip(columns, sizes, strict=False)):
            wrong = ((column < 0) | (column >= size)).nonzero()
            if wrong.numel():
                row = int(wrong[0])
                raise InvalidValueError(
                    f"{self.kind}: codes of level {level} must be in [0, {size}), got {int(column[row])} in row {row}"
                )
        return columns

    def _vectors(self, features: Tensor | None) -> Tensor:
        """Checked float32 ``[m, F]``."""
        if not isinstance(features, Tensor) or not features.is_floating_point():
            got = str(features.dtype) if isinstance(features, Tensor) else type(features).__name__
            raise InvalidTypeError(f"{self.kind}: features must be a float tensor [N, F], got {got}")
        if features.dim() != 2 or features.shape[1] != self.feature_dim:
            raise InvalidValueError(
                f"{self.kind}: features must be [N, {self.feature_dim}], got {list(features.shape)}"
            )
        if features.is_meta or features.layout != torch.strided:
            got = f"{features.layout} on {features.device}"
            raise InvalidTypeError(f"{self.kind}: features must be a dense tensor with data, got {got}")
        vectors = features.detach().to("cpu", torch.float32)
        finite = vectors.isfinite().all(1)
        if not bool(finite.all()):
            row = int((~finite).nonzero()[0])
            raise InvalidValueError(f"{self.kind}: features must be finite, got NaN or infinity in row {row}")
        return vectors


def width_of(op: str, kind: str, catalog: Catalog) -> int:
    """F of a catalog's features, for a tokenizer that reads them.

    Raises:
        InvalidValueError: it has none.
    """
    if catalog.feature_dim is None or catalog.feature_dim < 1:
        rule = f"feature_dim must be at least 1 ({kind} reads feature vectors)"
        raise InvalidValueError(f"{op}: {rule}, got {catalog.feature_dim}")
    return catalog.feature_dim


def load(path: str | os.PathLike[str]) -> Tokenizer:
    """Reads a file of any tokenizer's ``save``; the file says which.

    Tokenizers of your own count as soon as their module is imported.

    Raises:
        CorruptFileError: no tokenizer file, cut short, altered, of another version, or of a kind that is not known.
        FileNotFoundError: no such file.

    Example:
        >>> import tempfile, pathlib
        >>> from genrec_fast import tokenizers
        >>> tokenizer = tokenizers.RandomConfig(codebook_sizes=(4, 4)).build()
        >>> tokenizer.fit(num_items=9)
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "random.safetensors"
        >>> tokenizer.save(path)
        >>> type(tokenizers.load(path)).__name__
        'Random'
    """
    metadata, _ = _read("load", path, tensors=False)
    kind = metadata.get("kind", "")
    found = _kinds.get(kind.removeprefix(_PREFIX)) if kind.startswith(_PREFIX) else None
    if found is None:
        known = ", ".join(sorted(_kinds))
        raise CorruptFileError(f"load: kind in {path} must be {_PREFIX} and one of {known}, got {kind or None}")
    return found.load(path)


def _read(op: str, path: str | os.PathLike[str], *, tensors: bool = True) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a safetensors file."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{op}: path must name a file, got {path}")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            names = list(file.keys()) if tensors else []
            return file.metadata() or {}, {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise CorruptFileError(f"{op}: {path} must be a whole tokenizer file, got: {error}") from error


def _catalog_of(feature_dim: int | None) -> Catalog:
    """A catalog of which nothing is known but the width of its features."""
    return Catalog(num_items=1, features=None if feature_dim is None else torch.zeros(1, feature_dim))


def _unheard(what: str, done: int, total: int, figures: dict[str, float]) -> None:
    """Stands in where the caller gave no ``progress``."""
