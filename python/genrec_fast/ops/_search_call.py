"""What the searches over a network and a trie share: checks, arguments, and the way to their kernels."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from genrec_fast.base.checks import require_tensors, shown
from genrec_fast.base.errors import InvalidTypeError, InvalidValueError
from genrec_fast.ops._registry import core
from genrec_fast.ops.transformer_pack import PackedStack
from genrec_fast.ops.trie_filter import CatalogTrie, TrieFilter

PROMPTS = "Tensor weights, Tensor hidden, Tensor scores, Tensor offsets, Tensor cache"
CATALOG = (
    "Tensor? rotary, Tensor? distance, Tensor? cross, Tensor? cross_offsets, Tensor? first_table,"
    " Tensor[] code_tokens, Tensor embedding, Tensor? positions, Tensor[] tokens, Tensor[] child_bases,"
    " Tensor[] child_deltas, Tensor? bits, Tensor? ranks, Tensor? excluded, Tensor? excluded_offsets,"
    " float embedding_scale, int stack"
)
_ALWAYS = ("hidden", "scores", "offsets", "cache", "embedding")


def check_search(
    op: str,
    stack: PackedStack,
    trie: CatalogTrie,
    code_tokens: Sequence[Tensor],
    chain: Sequence[Tensor],
    given: Mapping[str, Tensor | None],
) -> None:
    """Kinds, devices, dtypes and shapes of ``transformer_search``'s tensors by their names; ``None``: not given.

    Raises:
        InvalidTypeError: a dtype or a shape.
        InvalidValueError: a device, or tensors that do not go together.
    """
    required: dict[str, Any] = {n: tensor for n, tensor in given.items() if tensor is not None or n in _ALWAYS}
    required |= {f"chain[{level}]": part for level, part in enumerate(chain)}
    required |= {f"code_tokens[{level}]": table for level, table in enumerate(code_tokens)}
    require_tensors(op, stack.weights.device, **required)
    if trie.tokens[0].device != stack.weights.device:
        raise InvalidValueError(
            f"{op}: trie must be on {stack.weights.device} like the stack, got one on {trie.tokens[0].device}"
        )
    users, sizes, spec = required["offsets"].numel() - 1, trie.codebook_sizes, stack.spec
    embedding = required["embedding"]
    vocabulary = embedding.shape[0] if embedding.dim() else 0
    shapes = {
        "hidden": [users, spec.width],
        "scores": [users],
        "embedding": [vocabulary, spec.width],
        "first_table": [vocabulary, spec.mixed],
        "rotary": [-1, spec.rotary_width],
        "distance": [spec.num_heads, -1],
        "positions": [-1, spec.width],
        "cache": [-1],
        "cross": [-1],
    }
    distance = given.get("distance")
    if distance is not None and distance.dim() == 2 and distance.shape[1] % 2 == 0:
        raise InvalidValueError(f"{op}: distance must be [H, 2M - 1], got {list(distance.shape)}")
    for name, shape in shapes.items():
        if (tensor := given.get(name)) is not None:
            free = tensor.shape[shape.index(-1)] if -1 in shape and tensor.dim() == len(shape) else 0
            _check_floats(op, name, tensor, [free if size < 0 else size for size in shape])
    for number, part in enumerate(chain):
        _check_floats(op, f"chain[{number}]", part, [spec.num_layers, users, spec.kept])
    for name in ("offsets", "cross_offsets"):
        ends = given.get(name)
        if ends is not None and (ends.dtype != torch.int64 or ends.shape != (users + 1,)):
            raise InvalidTypeError(f"{op}: {name} must be int64 [{users + 1}], got {described(ends)}")
    if (given.get("cross") is None) != (given.get("cross_offsets") is None):
        raise InvalidValueError(f"{op}: cross and cross_offsets must be given together, got one of them")
    if len(code_tokens) != len(sizes):
        raise InvalidValueError(
            f"{op}: code_tokens must have {len(sizes)} levels like the trie, got {len(code_tokens)}"
        )
    for level, (table, size) in enumerate(zip(code_tokens, sizes, strict=True)):
        if table.dtype != torch.int64 or table.shape != (size,):
            raise InvalidTypeError(f"{op}: code_tokens[{level}] must be int64 [{size}], got {described(table)}")


def masks_of(op: str, trie: CatalogTrie, keep: TrieFilter | None, users: int) -> tuple[Tensor | None, ...]:
    """What a kernel reads of a filter.

    Raises:
        InvalidTypeError: it is none.
        InvalidValueError: it is of another trie, or for other users.
    """
    if keep is None:
        return (None, None, None, None)
    if not isinstance(keep, TrieFilter):
        raise InvalidTypeError(f"{op}: keep must be a TrieFilter (gf.ops.trie_filter), got {shown(keep)}")
    keep.require_trie(trie)
    if keep.num_users not in (None, users):
        raise InvalidValueError(f"{op}: keep must be for {users} users, got one for {keep.num_users}")
    return (keep.bits, keep.ranks, keep.excluded, keep.excluded_offsets)


def kernel(
    op: str, arguments: str, outputs: Callable[..., Any], found: Sequence[str], unread: Sequence[str] = ()
) -> Callable[..., Any]:
    """What allocates a search's outputs and runs it on the CPU, for ``define``.

    Args:
        op: its name.
        arguments: of the op, in torch's notation; the compiled search takes them by these names.
        outputs: makes them, of the arguments that it names.
        found: their names.
        unread: arguments that the compiled search does not take, as its outputs tell them.
    """
    names = tuple(argument.split()[-1] for argument in arguments.split(", "))
    wanted = [(names.index(name), name) for name in inspect.signature(outputs).parameters]
    search = getattr(core, op)

    def cpu(*values: Any) -> Any:
        out = outputs(**{name: values[place] for place, name in wanted})
        given = dict(zip(names, values, strict=True))
        for name in unread:
            del given[name]
        search(**given, **dict(zip(found, out, strict=True)), num_threads=torch.get_num_threads())
        return out

    return cpu


def described(tensor: Tensor) -> str:
    """Dtype and shape in words."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _check_floats(op: str, name: str, tensor: Tensor, shape: list[int]) -> None:
    if tensor.dtype != torch.float32 or list(tensor.shape) != shape:
        raise InvalidTypeError(f"{op}: {name} must be float32 {shape}, got {described(tensor)}")
