"""A transformer's weights as one flat block of bytes, laid out as the products read them.

The block says what it is (an int64 header, csrc/ops/transformer/transformer_layout.cpp reads it), so it can be saved,
mapped into memory and checked. Behind the stacks it carries named tensors (embeddings, tables) and a note, in JSON.
"""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genrec_fast.base.checks import choice, require_tensors, shown, whole_number
from genrec_fast.base.errors import CorruptFileError, InvalidTypeError, InvalidValueError
from genrec_fast.ops._registry import core
from genrec_fast.ops._tensors import MAX_INT8_DEPTH, readable
from genrec_fast.ops.transformer_spec import ACTIVATIONS, TransformerSpec

__all__ = ["PRECISIONS", "PackedStack", "pack_stacks", "require_stack", "unpack_stacks", "unpack_weights"]

PRECISIONS = ("float32", "bfloat16", "int8")  # by their number in csrc/ops/transformer/transformer.h
_MAGIC = 0x776665636572 << 8 | 1
_GROUP = {"float32": 1, "bfloat16": 2, "int8": 4}  # products that a lane adds at a time
_DTYPE = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}
_SIZES = (
    *("width", "num_layers", "num_heads", "num_kv_heads", "head_width", "ff_width", "head_size", "cross_width"),
    *("rotary_width", "window"),
)
MAX_STACKS = 64  # of one block, as csrc/ops/transformer/transformer_layout.cpp reads it
_ORDER = (
    *("before_attention", "qkv", "q_norm", "k_norm", "attended", "before_cross", "cross_q", "cross_kv"),
    *("cross_attended", "before_feed_forward", "gate", "up", "down"),
)


class PackedStack(NamedTuple):
    """One stack of a packed block."""

    weights: Tensor
    """uint8 ``[bytes]``: the whole block"""
    number: int
    """of the stack in its block"""
    spec: TransformerSpec


def require_stack(op: str, stack: Any) -> None:
    """Raises unless the stack is one by its kinds; C++ reads the block itself, whatever ``spec`` says of it.

    Raises:
        InvalidTypeError: not a ``PackedStack``, or of other parts than one.
        InvalidValueError: a block that is not contiguous, or a number that no block has.
    """
    if not isinstance(stack, PackedStack) or not isinstance(stack.spec, TransformerSpec):
        raise InvalidTypeError(f"{op}: stack must be a PackedStack (unpack_stacks gives them), got {shown(stack)}")
    block: Any = stack.weights
    require_tensors(op, None, weights=block)
    if block.dtype != torch.uint8 or block.dim() != 1:
        raise InvalidTypeError(f"{op}: weights must be uint8 [bytes], got {block.dtype} {list(block.shape)}")
    if not block.is_contiguous():
        raise InvalidValueError(f"{op}: weights must be contiguous, got strides {list(block.stride())}")
    whole_number(op, "stack", stack.number, 0, MAX_STACKS - 1)
    for name in _SIZES:
        if type(getattr(stack.spec, name)) is not int:
            raise InvalidTypeError(
                f"{op}: {name} of the stack's spec must be an int, got {stack.spec.__dict__[name]!r:.40}"
            )


class _Block:
    """Parts at multiples of 64 bytes behind a header that is written last."""

    def __init__(self, header_words: int) -> None:
        self.parts: list[tuple[int, Tensor]] = []
        self.bytes = (8 * header_words + 63) // 64 * 64

    def add(self, tensor: Tensor | None) -> int:
        if tensor is None:
            return 0
        flat = readable(tensor.detach().cpu()).view(-1).view(torch.uint8)
        offset = self.bytes
        self.parts.append((offset, flat))
        self.bytes += (flat.numel() + 63) // 64 * 64
        return offset

    def joined(self, header: Sequence[int]) -> Tensor:
        out = torch.empty(self.bytes, dtype=torch.uint8)
        core.ask_huge_pages(out)  # what every token reads from end to end
        out.zero_()
        out[: 8 * len(header)] = torch.tensor(header, dtype=torch.int64).view(torch.uint8)
        for offset, flat in self.parts:
            out[offset : offset + flat.numel()] = flat
        return out


def _padded(x: Tensor, size: int) -> Tensor:
    """``x`` with zeros behind its last row, up to a multiple of ``size`` rows."""
    missing = -x.shape[0] % size
    return torch.cat([x, x.new_zeros(missing, *x.shape[1:])]) if missing else x


def _panels(weight: Tensor, precision: str, panel: int) -> Tensor:
    """Element (j, d) at ``((d // G) * panel + j % panel) * G + d % G`` of panel ``j // panel``."""
    group = _GROUP[precision]
    weight = _padded(weight, panel)
    weight = torch.nn.functional.pad(weight, (0, -weight.shape[1] % group))
    return weight.view(-1, panel, weight.shape[1] // group, group).permute(0, 2, 1, 3).contiguous()


def _quantized(weight: Tensor) -> tuple[Tensor, Tensor]:
    """int8 ``[out, in]`` and float32 scales ``[out]``: weight is about int8 * scale."""
    scale = weight.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / 127
    return (weight / scale[:, None]).round().clamp(-127, 127).to(torch.int8), scale


def _rounded(weight: Tensor, precision: str) -> Tensor:
    return weight.to(_DTYPE[precision]) if precision == "bfloat16" else weight


def pack_stacks(
    stacks: Sequence[tuple[TransformerSpec, Mapping[str, Tensor]]],
    precision: str = "float32",
    tensors: Mapping[str, Tensor] | None = None,
    note: Mapping[str, Any] | None = None,
) -> Tensor:
    """Stacks and what belongs to them as one block.

    Args:
        stacks: spec and float weights by name: "last_norm.weight", "head.weight", "layers.3.qkv.bias", ...; matrices
            are ``[out, in]`` as in ``nn.Linear``; biases, and "q_norm"/"k_norm" without ``qk_norm``, are optional.
        precision: "float32"; "bfloat16": half the size, products of rounded numbers; "int8": a scale per output
            channel, rows rounded to 8 bits as they come. Norms, biases and embeddings stay float32. On an instruction
            set without bfloat16 products the rounded weights are kept as float32.
        tensors: kept beside them by name, as they are.
        note: kept beside them, JSON.

    Returns:
        uint8 ``[bytes]``, for this machine's instruction set (panels of ``core.transformer_panel_width()`` columns).

    Raises:
        InvalidValueError: a weight is missing, has the wrong shape, is not finite, or the precision is unknown.
    """
    op = "pack_weights"
    choice(op, "dtype", precision, PRECISIONS)
    if not 1 <= len(stacks) <= MAX_STACKS:
        raise InvalidValueError(f"{op}: stacks must be 1 to {MAX_STACKS}, got {len(stacks)}")
    checked: list[tuple[TransformerSpec, dict[str, Tensor]]] = []
    for spec, weights in stacks:
        if not isinstance(spec, TransformerSpec) or not isinstance(weights, Mapping):
            raise InvalidTypeError(
                f"{op}: stacks must be of a TransformerSpec and its weights, got {shown(spec)} and {shown(weights)}"
            )
        # Checked again: frozen is a promise that object.__setattr__ breaks.
        checked.append((dataclasses.replace(spec), dict(weights)))
    require_tensors(op, None, **dict(tensors or {}))
    panel, has_bfloat16 = core.transformer_sizes()
    stored = "float32" if precision == "bfloat16" and not has_bfloat16 else precision
    num_words = 8 + len(stacks) + sum(len(_SIZES) + 5 + 6 + spec.num_layers * 40 for spec, _ in checked)
    block = _Block(num_words)
    starts: list[int] = []
    body: list[int] = []
    for spec, weights in checked:
        starts.append(8 + len(stacks) + len(body))
        body += _stack_words(op, spec, weights, block, panel, precision, stored)
    directory: dict[str, Any] = {"note": dict(note or {}), "tensors": {}}
    for name, tensor in (tensors or {}).items():
        kind = str(tensor.dtype).removeprefix("torch.")
        directory["tensors"][name] = [block.add(tensor), kind, list(tensor.shape)]
    text = json.dumps(directory).encode()
    at = block.add(torch.frombuffer(bytearray(text), dtype=torch.uint8))
    fixed = [_MAGIC, block.bytes, num_words, panel, PRECISIONS.index(stored), len(stacks)]
    return block.joined([*fixed, *starts, at, len(text), *body])


def _stack_words(
    op: str,
    spec: TransformerSpec,
    weights: dict[str, Tensor],
    block: _Block,
    panel: int,
    precision: str,
    stored: str,
) -> list[int]:
    numbers = [_bits(spec.epsilon), _bits(spec.score_scale)]
    words = [getattr(spec, name) for name in _SIZES]
    words += [ACTIVATIONS.index(spec.activation), int(spec.norm == "layer"), int(spec.causal), *numbers]

    def take(name: str, shape: tuple[int, ...], needed: bool) -> Tensor | None:
        found = weights.pop(name, None)
        if found is None:
            if needed:
                raise InvalidValueError(f"{op}: weights must hold {name} {list(shape)}, got none")
            return None
        if isinstance(found, Tensor):
            require_tensors(op, None, **{name: found})
        if not isinstance(found, Tensor) or not found.is_floating_point():
            raise InvalidTypeError(f"{op}: {name} must be a float tensor, got {getattr(found, 'dtype', type(found))}")
        if tuple(found.shape) != shape:
            raise InvalidValueError(f"{op}: {name} must be {list(shape)}, got {list(found.shape)}")
        found = found.detach().cpu().float()
        if not bool(torch.isfinite(found).all()):
            raise InvalidValueError(f"{op}: {name} must be finite, got NaN or infinite weights")
        return found

    def vector(name: str, size: int, needed: bool) -> int:
        found = take(name, (size,), needed)
        return block.add(None if found is None else _padded(found, panel))

    def norm(name: str, needed: bool) -> list[int]:
        return [vector(f"{name}.weight", spec.width, needed), vector(f"{name}.bias", spec.width, False)]

    def linear(name: str, rows: int, columns: int, needed: bool) -> list[int]:
        weight = take(f"{name}.weight", (rows, columns), needed)
        bias = vector(f"{name}.bias", rows, False)
        if weight is None:
            return [0, bias, 0, 0]
        if precision == "int8" and columns > MAX_INT8_DEPTH:
            raise InvalidValueError(
                f"{op}: {name} must have at most {MAX_INT8_DEPTH} columns in int8, whose sums are of 32 bits, "
                f"got {columns}"
            )
        if precision != "int8":
            return [block.add(_panels(_rounded(weight, precision).to(_DTYPE[stored]), stored, panel)), bias, 0, 0]
        whole, scale = _quantized(weight)
        sums = _padded(whole.sum(1, dtype=torch.int32), panel)
        return [block.add(_panels(whole, "int8", panel)), bias, block.add(_padded(scale, panel)), block.add(sums)]

    words += norm("last_norm", False)
    words += linear("head", spec.head_size, spec.width, spec.head_size > 0)
    linears = spec.linears()
    for layer in range(spec.num_layers):
        for name in _ORDER:
            place = f"layers.{layer}.{name}"
            if name.startswith("before"):
                words += norm(place, name != "before_cross" or spec.cross_width > 0)
            elif name in ("q_norm", "k_norm"):
                words.append(vector(f"{place}.weight", spec.head_width, spec.qk_norm))
            else:
                words += linear(place, *linears[name])
    if weights:
        raise InvalidValueError(f"{op}: weights must be the stack's, but it has no {next(iter(weights))}")
    return words


def _bits(number: float) -> int:
    return int(struct.unpack("<q", struct.pack("<d", number))[0])


def _number(bits: int) -> float:
    return float(struct.unpack("<d", struct.pack("<q", bits))[0])


class _Reader:
    def __init__(self, weights: Tensor) -> None:
        require_tensors("pack_weights", None, weights=weights)
        if weights.dtype != torch.uint8 or weights.dim() != 1 or not weights.is_contiguous():
            raise InvalidTypeError(f"pack_weights: a block must be uint8 [bytes], got {weights.dtype}")
        if weights.storage_offset() % 8 or weights.data_ptr() % 8:
            raise InvalidValueError("pack_weights: a block must lie at a multiple of 8 bytes: clone() it")
        self.weights = weights
        head = self._words(0, 6)
        if head[0] != _MAGIC or head[1] != weights.numel() or not 8 <= head[2] <= weights.numel() // 8:
            raise CorruptFileError("pack_weights: a block must come from pack_weights whole, this one does not")
        self.words = self._words(0, head[2])
        self.panel, self.count = self.words[3], self.words[5]
        if not (0 <= self.words[4] < len(PRECISIONS) and 1 <= self.count <= MAX_STACKS and self.panel > 0):
            raise CorruptFileError("pack_weights: a block's header is altered")
        self.precision = PRECISIONS[self.words[4]]

    def _words(self, first: int, last: int) -> list[int]:
        if 8 * last > self.weights.numel():
            raise CorruptFileError("pack_weights: a block must come from pack_weights whole, this one is cut short")
        found: list[int] = self.weights[8 * first : 8 * last].cpu().view(torch.int64).tolist()
        return found

    def part(self, offset: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        size = torch.tensor([], dtype=dtype).element_size()
        for side in shape:
            size *= side
        if not 0 < offset <= self.weights.numel() - size:
            raise CorruptFileError("pack_weights: a block's part runs past its end")
        return self.weights[offset : offset + size].view(dtype).view(*shape)

    def directory(self) -> dict[str, Any]:
        at, length = self.words[6 + self.count], self.words[7 + self.count]
        try:
            found: dict[str, Any] = json.loads(bytes(self.part(at, (length,), torch.uint8).tolist()))
        except ValueError as error:
            raise CorruptFileError(f"pack_weights: a block's directory is altered ({error})") from error
        return found

    def spec(self, index: int) -> TransformerSpec:
        at = self.words[6 + index]
        sizes = dict(zip(_SIZES, self.words[at:], strict=False))
        activation, layer_norm, causal = self.words[at + len(_SIZES) : at + len(_SIZES) + 3]
        epsilon, scale = (_number(bits) for bits in self.words[at + len(_SIZES) + 3 : at + len(_SIZES) + 5])
        first = self.words[at + len(_SIZES) + 11 :]
        return TransformerSpec(
            **sizes,
            activation=ACTIVATIONS[activation],
            gated=first[28] != 0,
            norm="layer" if layer_norm else "rms",
            qk_norm=first[6] != 0,
            causal=bool(causal),
            epsilon=epsilon,
            score_scale=scale,
        )


def unpack_stacks(weights: Tensor) -> tuple[list[PackedStack], dict[str, Tensor], dict[str, Any]]:
    """The stacks of a block, its named tensors (views, nothing is copied) and its note.

    Raises:
        InvalidTypeError: not a uint8 vector.
        CorruptFileError: not a whole block of ``pack_stacks``.
    """
    reader = _Reader(weights)
    try:
        return _unpacked(reader, weights)
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
        if isinstance(error, CorruptFileError):
            raise
        raise CorruptFileError(f"pack_weights: a block's header is altered ({error!r:.100})") from error


def _unpacked(reader: _Reader, weights: Tensor) -> tuple[list[PackedStack], dict[str, Tensor], dict[str, Any]]:
    stacks = [PackedStack(weights, index, reader.spec(index)) for index in range(reader.count)]
    directory = reader.directory()
    tensors = {
        name: reader.part(offset, shape, getattr(torch, kind))
        for name, (offset, kind, shape) in directory["tensors"].items()
    }
    return stacks, tensors, directory["note"]


def unpack_weights(stack: PackedStack) -> dict[str, Tensor]:
    """The weights as ``pack_stacks`` was given them, in float32, as rounded as the block holds them."""
    reader, spec = _Reader(stack.weights), stack.spec
    words = iter(reader.words[reader.words[6 + stack.number] + len(_SIZES) + 5 :])
    out: dict[str, Tensor] = {}

    def vector(name: str, size: int) -> None:
        if offset := next(words):
            out[name] = reader.part(offset, (size,), torch.float32)

    def linear(name: str, rows: int, columns: int) -> None:
        offset = next(words)
        vector(f"{name}.bias", rows)
        scales, _ = next(words), next(words)
        if not offset:
            return
        group, panel = _GROUP[reader.precision], reader.panel
        shape = (-(-rows // panel), -(-columns // group), panel, group)
        panels = reader.part(offset, shape, _DTYPE[reader.precision]).permute(0, 2, 1, 3).float()
        weight = panels.reshape(shape[0] * panel, shape[1] * group)[:rows, :columns]
        if reader.precision == "int8":
            weight = weight * reader.part(scales, (rows, 1), torch.float32)
        out[f"{name}.weight"] = weight

    for name in ("last_norm.weight", "last_norm.bias"):
        vector(name, spec.width)
    linear("head", spec.head_size, spec.width)
    linears = spec.linears()
    for layer in range(spec.num_layers):
        for name in _ORDER:
            place = f"layers.{layer}.{name}"
            if name.startswith("before"):
                vector(f"{place}.weight", spec.width)
                vector(f"{place}.bias", spec.width)
            elif name in ("q_norm", "k_norm"):
                vector(f"{place}.weight", spec.head_width)
            else:
                linear(place, *linears[name][:2])
    return out
