"""Valid arguments made hostile: another layout of the same values, other values, other things altogether.

Every change has a meaning. SAME: the values are those of the valid call, so the answer must be the valid call's (or a
typed error). OTHER: if there is an answer, it is the twin's for the changed arguments. REFUSE: there must be no answer.
WILD: something was altered behind a check's back; the process survives, and that is all.
"""

from __future__ import annotations

import copy
import dataclasses
import sys
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .case import Rng

SAME, OTHER, REFUSE, WILD = "same", "other", "refuse", "wild"
_ORDER = (SAME, OTHER, REFUSE, WILD)
# What making a hostile value itself may raise: torch refuses many combinations of kind, dtype and shape.
CANNOT = (
    RuntimeError,
    TypeError,
    ValueError,
    NotImplementedError,
    IndexError,
    OverflowError,
    AttributeError,
    MemoryError,
)

Change = tuple[Any, str, str]  # value, how, meaning


class Sub(Tensor):
    """A subclass that changes nothing."""


class Odd:
    """Answers to nothing."""

    def __index__(self) -> int:
        raise TypeError("an index that fails")


class Seven:
    """A whole number by protocol alone."""

    def __index__(self) -> int:
        return 7


INTEGERS = (
    *(
        -1,
        0,
        1,
        2,
        3,
        5,
        255,
        256,
        257,
        65535,
        65536,
        65537,
        2**24,
        2**30,
        2**31 - 1,
        2**31,
        2**31 + 1,
        2**32,
        2**32 + 1,
    ),
    *(
        2**40,
        2**62,
        2**63 - 1,
        2**63,
        2**64 - 1,
        2**64,
        2**70,
        -2,
        -(2**31),
        -(2**31) - 1,
        -(2**32),
        -(2**63),
        -(2**63) - 1,
    ),
    *(-(2**70), sys.maxsize, -sys.maxsize, 10**400),
)
FLOATS = (
    *(float("nan"), float("inf"), float("-inf"), 0.0, -0.0, 1.0, -1.0, 1e308, -1e308, 5e-324, 1e-45, 1e39, 0.5, 2.0),
    *(10**400, 2**70, True, Fraction(1, 3), Decimal("0.5"), np.float32(0.5), np.float64("nan"), 3),
)
ELEMENTS = (
    *(
        float("nan"),
        float("inf"),
        float("-inf"),
        0.0,
        -0.0,
        3.4e38,
        -3.4e38,
        1e-45,
        1e-38,
        1e30,
        65504.0,
        1e308,
        -1.0,
        1.0,
    ),
)
WHOLES = (
    -1,
    0,
    1,
    2,
    3,
    2**31 - 1,
    2**31,
    -(2**31),
    2**32,
    2**63 - 1,
    -(2**63),
    127,
    128,
    255,
    256,
    65535,
    65536,
    -2,
    2**62,
)
DTYPES = (
    *(torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool, torch.complex64, torch.complex128),
    torch.float8_e4m3fn,
)


_THINGS: tuple[Callable[[], Any], ...] = (
    *(
        lambda: None,
        lambda: "x",
        str,
        lambda: b"x",
        lambda: 1.5,
        lambda: 3,
        lambda: True,
        list,
        tuple,
        dict,
        object,
        Odd,
    ),
    *(lambda: int, lambda: len, lambda: [None], lambda: ["a", 1], lambda: [[]], lambda: np.zeros(3), Seven),
    *(
        lambda: np.zeros((2, 2), dtype=object),
        lambda: np.float64(2),
        lambda: np.array(["a", "b"]),
        lambda: torch.zeros(2),
    ),
    *(
        lambda: torch.zeros(()),
        lambda: torch.tensor([1, 2]),
        lambda: torch.zeros(0),
        lambda: iter([1]),
        lambda: range(3),
    ),
    *(lambda: {1, 2}, lambda: torch.float32, lambda: torch.device("cpu"), lambda: 1j, lambda: Ellipsis),
    *(lambda: torch.zeros(2, device="meta"), lambda: torch.nn.Linear(1, 1), lambda: [torch.zeros(2)]),
    *(lambda: slice(None), lambda: memoryview(b"abcd")),
)


def bag(rng: Rng) -> Change:
    """A thing that belongs nowhere."""
    value = rng.choice(_THINGS)()
    return value, f"a {type(value).__name__}", OTHER


# ---- tensors of the same values


def _strided(rng: Rng, x: Tensor) -> Tensor:
    room = x.new_zeros([2 * s + 1 for s in x.shape])
    view = room[tuple(slice(1, 2 * s + 1, 2) for s in x.shape)]
    view.copy_(x)
    return view


def _turned(rng: Rng, x: Tensor) -> Tensor:
    if x.dim() < 2:
        raise ValueError("one dimension")
    return x.transpose(0, -1).contiguous().transpose(0, -1)


def _behind(rng: Rng, x: Tensor) -> Tensor:
    flat = x.new_zeros(x.numel() + 3)
    flat[3:].copy_(x.reshape(-1))
    return flat[3:].view(x.shape)


def _negated(rng: Rng, x: Tensor) -> Tensor:
    if not x.is_floating_point():
        raise ValueError("torch negates views of floats alone (z.conj().imag)")
    return torch._neg_view(-x)


def _imaginary(rng: Rng, x: Tensor) -> Tensor:
    return torch.complex(torch.zeros_like(x), -x).conj().imag


def _misaligned(rng: Rng, x: Tensor) -> Tensor:
    raw = x.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    shift = rng.choice((1, 2, 3, 4))
    return torch.frombuffer(bytearray(shift) + bytearray(raw), dtype=x.dtype, offset=shift).view(x.shape)


def _far(rng: Rng, x: Tensor) -> Tensor:
    if 1 not in x.shape:
        raise ValueError("no dimension of one")
    far = rng.choice((2**40, 2**62, 7, 0))
    return x.contiguous().as_strided(
        x.shape, [far if n == 1 else s for n, s in zip(x.shape, x.contiguous().stride(), strict=True)]
    )


def _inference(rng: Rng, x: Tensor) -> Tensor:
    with torch.inference_mode():
        return x.clone()


def _shared(rng: Rng, x: Tensor) -> Tensor:
    return torch.from_numpy(x.numpy().copy())


_SAME_TENSORS: tuple[tuple[str, Callable[[Rng, Tensor], Any]], ...] = (
    ("strided", _strided),
    ("strided", _strided),
    ("transposed in memory", _turned),
    ("behind the storage's begin", _behind),
    ("negative bit", _negated),
    ("negative bit", _negated),
    ("imaginary part of a conjugate", _imaginary),
    ("misaligned", _misaligned),
    ("misaligned", _misaligned),
    ("strides of a dimension of one", _far),
    ("requires grad", lambda rng, x: x.clone().requires_grad_()),
    ("a parameter", lambda rng, x: torch.nn.Parameter(x.clone(), requires_grad=x.is_floating_point())),
    ("a subclass", lambda rng, x: x.clone().as_subclass(Sub)),
    ("made in inference mode", _inference),
    ("numpy's memory", _shared),
)


# ---- other tensors


def _dtype(rng: Rng, x: Tensor) -> Change:
    kind = rng.choice(DTYPES)
    if kind == x.dtype:
        raise ValueError("the same")
    return x.to(kind), f"dtype {str(kind).removeprefix('torch.')}", OTHER


def _element(rng: Rng, x: Tensor) -> Change:
    if not x.numel():
        raise ValueError("empty")
    x = x.clone(memory_format=torch.contiguous_format)
    flat = x.view(-1)
    times = 1 if rng.flip(0.7) else rng.randint(1, x.numel())
    value: Any = None
    for _ in range(times):
        if x.dtype == torch.bool:
            value = rng.flip()
        elif x.is_floating_point():
            value = rng.choice(ELEMENTS)
        else:
            limits = torch.iinfo(x.dtype)
            value = rng.choice(WHOLES) if rng.flip(0.7) else int(flat[rng.randrange(x.numel())]) + rng.randint(-2, 2)
            value = min(max(value, limits.min), limits.max)
        flat[rng.randrange(x.numel())] = value
    return x, "other elements", OTHER


def _fill(rng: Rng, x: Tensor) -> Change:
    if x.is_floating_point():
        value: Any = rng.choice(ELEMENTS)
    elif x.dtype == torch.bool:
        value = rng.flip()
    else:
        limits = torch.iinfo(x.dtype)
        value = min(max(rng.choice(WHOLES), limits.min), limits.max)
    return torch.full_like(x, value, memory_format=torch.contiguous_format), f"all {value}", OTHER


def _shape(rng: Rng, x: Tensor) -> Change:
    ways: tuple[Callable[[], tuple[Any, str]], ...] = (
        lambda: (x.unsqueeze(rng.randint(0, x.dim())), "one more dimension"),
        lambda: (x.select(rng.randrange(x.dim()), 0), "one dimension fewer"),
        lambda: (x.flatten(), "flat"),
        lambda: (x.narrow(d := rng.randrange(x.dim()), 0, max(x.shape[d] - 1, 0)), "cut by one"),
        lambda: (x.narrow(rng.randrange(x.dim()), 0, 0), "of no size"),
        lambda: (torch.cat([x, x.narrow(d := rng.randrange(x.dim()), 0, 1)], d), "grown by one"),
        lambda: (torch.cat([x, x], rng.randrange(x.dim())), "twice"),
        lambda: (x.transpose(0, -1), "transposed"),
        lambda: (x.flip(0), "turned around"),
        lambda: (x.new_zeros(()), "0-d"),
        lambda: (x.new_zeros(0), "empty"),
        lambda: (x.new_zeros((1,) * rng.randint(1, 7)), "of ones"),
        lambda: (x.new_zeros((0,) * x.dim()), "all sizes 0"),
        lambda: (x.new_zeros((2**62, 0)) if rng.flip() else x.new_zeros((0, 2**62)), "0 times 2^62"),
    )
    value, how = rng.choice(ways)()
    return value, how, OTHER


def _expanded(rng: Rng, x: Tensor) -> Change:
    d = rng.randrange(x.dim())
    size = rng.choice((x.shape[d], x.shape[d], 2**10, 2**31, 2**33, 2**40))
    return (
        x.narrow(d, 0, 1).expand([size if i == d else s for i, s in enumerate(x.shape)]),
        f"expanded to {size}",
        OTHER,
    )


def _overlapping(rng: Rng, x: Tensor) -> Change:
    return x.contiguous().as_strided(x.shape, [rng.choice((0, 1)) for _ in x.shape]), "overlapping", OTHER


def _layout(rng: Rng, x: Tensor) -> Change:
    ways: tuple[tuple[str, Callable[[], Any]], ...] = (
        ("on meta", lambda: x.to("meta")),
        ("on meta", lambda: x.to("meta")),
        ("sparse", x.to_sparse),
        ("sparse csr", x.to_sparse_csr),
        ("mkldnn", x.to_mkldnn),
        ("nested", lambda: torch.nested.nested_tensor([x, x])),
        ("nested", lambda: torch.nested.as_nested_tensor([x])),
        ("nested jagged", lambda: torch.nested.nested_tensor([x, x], layout=torch.jagged)),
        ("quantized", lambda: torch.quantize_per_tensor(x.float(), 0.1, 0, torch.qint8)),
        ("complex conjugate", lambda: x.to(torch.complex64).conj()),
        ("a list", x.tolist),
        ("a numpy array", lambda: x.numpy().copy()),
        ("a tuple of tensors", lambda: tuple(x)),
    )
    how, make = rng.choice(ways)
    return make(), how, OTHER


def _emptied(rng: Rng, x: Tensor) -> Change:
    if not x.numel():
        raise ValueError("empty")
    x = x.clone()
    x.untyped_storage().resize_(0)
    return x, "storage let go", WILD


def tensor(rng: Rng, x: Tensor) -> Change:
    """A changed tensor."""
    draw = rng.random()
    if draw < 0.40:
        how, make = rng.choice(_SAME_TENSORS)
        return make(rng, x), how, SAME
    if draw < 0.53:
        return _element(rng, x)
    if draw < 0.57:
        return _fill(rng, x)
    if draw < 0.67:
        return _dtype(rng, x)
    if draw < 0.80:
        return _shape(rng, x)
    if draw < 0.83:
        return _expanded(rng, x)
    if draw < 0.86:
        return _overlapping(rng, x)
    if draw < 0.863:
        return _emptied(rng, x)
    if draw < 0.97:
        return _layout(rng, x)
    return bag(rng)


# ---- numbers and words


_INTEGERS: tuple[tuple[Callable[[int], Any], str, str], ...] = (
    (np.int64, "numpy int64", SAME),
    (torch.tensor, "0-d tensor", SAME),
    (lambda v: True, "True", REFUSE),
    (lambda v: False, "False", REFUSE),
    (float, "float", REFUSE),
    (lambda v: v + 0.5, "half", REFUSE),
    (lambda v: float("nan"), "nan", REFUSE),
    (str, "str", REFUSE),
    (lambda v: None, "None", OTHER),
    (lambda v: [v], "list", REFUSE),
    (lambda v: torch.tensor([v, v]), "two in a tensor", OTHER),  # among tensors of offsets, [0, 0] is one row
    (lambda v: torch.tensor(float(v)), "float in a tensor", REFUSE),
    (lambda v: np.array([v]), "numpy array", REFUSE),
    (lambda v: np.bool_(True), "numpy bool", REFUSE),
    (lambda v: torch.tensor(True), "bool in a tensor", REFUSE),
    (lambda v: Odd(), "an index that fails", REFUSE),
    (Fraction, "Fraction", REFUSE),
    (lambda v: torch.tensor(v, device="meta"), "0-d on meta", REFUSE),
    (lambda v: 1j, "complex", REFUSE),
    (lambda v: Seven(), "an index of 7", OTHER),
)


def integer(rng: Rng, value: int) -> Change:
    """A changed whole number."""
    draw = rng.random()
    if draw < 0.6:
        found: Any = rng.choice(INTEGERS) if rng.flip(0.75) else value + rng.randint(-3, 3)
        return found, f"{found}" if abs(found) < 2**80 else "10^400", SAME if found == value else OTHER
    make, how, meaning = rng.choice(_INTEGERS)
    return make(value), how, meaning


_NUMBERS: tuple[tuple[Callable[[float], Any], str, str], ...] = (
    (str, "str", REFUSE),
    (lambda v: None, "None", OTHER),
    (lambda v: 1j, "complex", REFUSE),
    (lambda v: [v], "list", REFUSE),
    (lambda v: torch.tensor([v, v]), "two in a tensor", OTHER),  # as attn_scale, one of each query
    (torch.tensor, "0-d tensor", OTHER),
    (lambda v: torch.tensor(v, device="meta"), "0-d on meta", OTHER),
    (lambda v: np.array([v, v]), "numpy array", REFUSE),
    (lambda v: b"1", "bytes", REFUSE),
    (lambda v: object(), "an object", REFUSE),
)


def number(rng: Rng, value: float) -> Change:
    """A changed real number."""
    draw = rng.random()
    if draw < 0.6:
        found: Any = rng.choice(FLOATS)
        return found, f"{found!r:.12}", OTHER
    make, how, meaning = rng.choice(_NUMBERS)
    return make(value), how, meaning


_TRUTHS: tuple[tuple[Callable[[bool], Any], str, str], ...] = (
    (lambda v: not v, "the other", OTHER),
    (lambda v: not v, "the other", OTHER),
    (np.bool_, "numpy bool", SAME),
    (int, "0 or 1", OTHER),
    (lambda v: "x", "str", REFUSE),
    (lambda v: "", "empty str", REFUSE),
    (lambda v: None, "None", REFUSE),
    (lambda v: 2, "2", REFUSE),
    (lambda v: float("nan"), "nan", REFUSE),
    (lambda v: [], "list", REFUSE),
    (lambda v: torch.tensor([True, False]), "two in a tensor", REFUSE),
    (lambda v: torch.zeros(0), "empty tensor", REFUSE),
    (lambda v: torch.tensor(v, device="meta"), "on meta", REFUSE),
    (lambda v: np.array([True, False]), "numpy array", REFUSE),
    (lambda v: object(), "an object", REFUSE),
)


def truth(rng: Rng, value: bool) -> Change:
    """Something else than a bool."""
    make, how, meaning = rng.choice(_TRUTHS)
    return make(value), how, meaning


_WORDS: tuple[tuple[Callable[[str], Any], str, str], ...] = (
    (lambda v: "", "empty", OTHER),
    (lambda v: "x", "x", OTHER),
    (lambda v: v.upper(), "upper case", OTHER),
    (lambda v: v + " ", "a blank more", OTHER),
    (lambda v: "\0", "zero byte", OTHER),
    (lambda v: "\ud800", "half a character", OTHER),
    (lambda v: v * 1000, "long", OTHER),
    (lambda v: v.encode(), "bytes", OTHER),
    (lambda v: None, "None", OTHER),
    (lambda v: 1, "1", OTHER),
    (lambda v: [v], "list", OTHER),
    (lambda v: {v: 1}, "dict", OTHER),
    (lambda v: np.array([v, v]), "numpy array", OTHER),
    (np.str_, "numpy str", SAME),
    (lambda v: torch.zeros(2), "tensor", OTHER),
)


def word(rng: Rng, value: str) -> Change:
    """Another string, or none."""
    make, how, meaning = rng.choice(_WORDS)
    return make(value), how, meaning


# ---- things that hold things


def altered(owner: Any, name: str, value: Any) -> Any:
    """A copy of a dataclass with one field changed behind its checks."""
    new = object.__new__(type(owner))
    new.__dict__.update(owner.__dict__)
    new.__dict__[name] = value
    return new


def sequence(rng: Rng, value: Any, opaque: bool) -> Change:
    """Another length, order or kind, or one element changed."""
    kind = type(value)
    if len(value) and rng.flip(0.65):
        place = rng.randrange(len(value))
        changed, how, meaning = change(rng, value[place])
        return kind([*value[:place], changed, *value[place + 1 :]]), f"[i] {how}", meaning
    ways: tuple[tuple[Callable[[], Any], str, str], ...] = (
        (lambda: kind(value[:-1]), "one fewer", OTHER),
        (lambda: kind([*value, value[-1]]), "one more", OTHER),
        (lambda: kind([]), "none", OTHER),
        (lambda: kind([*value] * 9), "nine times", OTHER),
        (lambda: kind(reversed(value)), "turned around", OTHER),
        (lambda: (*value,), "a tuple", SAME),
        (lambda: [*value], "a list", SAME),
        (lambda: (x for x in value), "a generator", SAME),
        (lambda: dict(enumerate(value)), "a dict", OTHER),
        (lambda: value[0], "its first", OTHER),
        (lambda: kind([*value, None]), "with None", OTHER),
        (lambda: np.array(value, dtype=object), "numpy objects", OTHER),
        (lambda: kind([value]), "in another", OTHER),
    )
    make, how, meaning = rng.choice(ways)
    return make(), how, meaning


def fields(rng: Rng, value: Any) -> Change:
    """One field of a named tuple or dataclass changed."""
    names = value._fields if isinstance(value, tuple) else [f.name for f in dataclasses.fields(value)]
    name = rng.choice(names)
    changed, how, meaning = change(rng, getattr(value, name))
    kind = type(value).__name__
    if isinstance(value, tuple):
        made = value._replace(**{name: changed})
    elif kind in CHECKED or rng.gentle:
        made = dataclasses.replace(value, **{name: changed})
    else:
        made = altered(value, name, changed)
    if kind == "PackedStack" and name != "weights":
        meaning = WILD if name == "number" else SAME  # what a spec says stands in the block: it changes no answer
    elif kind in UNJUDGED and meaning != SAME:
        meaning = WILD
    return made, f"{name} {how}", meaning


CHECKED = {"RelativeTimeBias", "T5Bias", "ALiBi"}  # without checks of their own: the op makes them
UNJUDGED = {"Trie", "TrieFilter", "TrieParts", "PackedStack", "Jagged", "TransformerSpec", "Batch"}


def trie_moved(rng: Rng, value: Any) -> Change:
    """A trie on another device, or made of a state that was altered."""
    if rng.flip(0.4):
        return value.to("meta"), "on meta", OTHER
    state = copy.deepcopy(value.__getstate__())
    name = rng.choice(sorted(state))
    state[name], how, _ = change(rng, state[name])
    made = object.__new__(type(value))
    made.__dict__.update(value.__dict__)
    made.__dict__.update(state)
    return made, f"state: {name} {how}", WILD


def change(rng: Rng, value: Any) -> Change:
    """A hostile value in the place of a valid one."""
    if rng.random() < 0.04:
        return bag(rng)
    if isinstance(value, Tensor):
        return tensor(rng, value)
    if isinstance(value, bool):
        return truth(rng, value)
    if isinstance(value, int):
        return integer(rng, value)
    if isinstance(value, float):
        return number(rng, value)
    if isinstance(value, str):
        return word(rng, value)
    if value is None:
        return bag(rng) if rng.flip() else (rng.choice((0, 1, -1, 0.5, 2**63, "all", True)), "a number", OTHER)
    if type(value).__name__ == "Trie" and rng.flip(0.3):
        return trie_moved(rng, value)
    if (isinstance(value, tuple) and hasattr(value, "_fields")) or (
        dataclasses.is_dataclass(value) and not isinstance(value, type)
    ):
        return fields(rng, value)
    if isinstance(value, list | tuple):
        return sequence(rng, value, False)
    if isinstance(value, np.ndarray):
        return array(rng, value)
    if isinstance(value, dict):
        return mapping(rng, value)
    return bag(rng)


def array(rng: Rng, value: np.ndarray[Any, Any]) -> Change:
    """Another layout, dtype, byte order or shape of an array."""
    ways: tuple[tuple[Callable[[], Any], str, str], ...] = (
        (lambda: np.array(value, order="F"), "Fortran order", SAME),
        (lambda: value.astype(value.dtype.newbyteorder()), "other byte order", SAME),
        (lambda: value[::-1], "turned around", OTHER),
        (lambda: value[..., ::-1], "levels turned around", OTHER),
        (lambda: value.astype(np.float64), "float64", OTHER),
        (lambda: value.astype(object), "objects", OTHER),
        (lambda: value.astype(bool), "bool", OTHER),
        (lambda: value.astype(str), "strings", OTHER),
        (lambda: value.astype("timedelta64[s]"), "times", OTHER),
        (lambda: np.ma.masked_array(value), "masked", OTHER),
        (lambda: value.astype(np.uint64), "uint64", OTHER),
        (lambda: value.astype(np.int8), "int8", OTHER),
        (lambda: value[:0], "none", OTHER),
        (lambda: np.broadcast_to(value[:1], (2**40, *value.shape[1:])), "2^40 rows of one", OTHER),
        (lambda: np.broadcast_to(value[:1], (9, *value.shape[1:])), "one row nine times", OTHER),
        (lambda: value.reshape(-1), "flat", OTHER),
        (lambda: value + 2**33, "large", OTHER),
        (lambda: value - 1, "one less", OTHER),
        (
            lambda: np.frombuffer(b"\0" + value.tobytes(), np.uint8)[1:].view(value.dtype).reshape(value.shape),
            "misaligned",
            SAME,
        ),
    )
    make, how, meaning = rng.choice(ways)
    return make(), how, meaning


def mapping(rng: Rng, value: dict[Any, Any]) -> Change:
    """An entry changed, gone, or added."""
    if value and rng.flip(0.7):
        name = rng.choice(sorted(value, key=str))
        changed, how, meaning = change(rng, value[name])
        return {**value, name: changed}, f"{name} {how}", meaning
    if value and rng.flip():
        name = rng.choice(sorted(value, key=str))
        return {k: v for k, v in value.items() if k != name}, f"without {name}", OTHER
    return {**value, "unknown": 1}, "with an unknown name", OTHER


# What no hand writes by mistake: left out of the arguments of functions that are plain Python.
_RARE = (
    *(
        "nested",
        "sparse",
        "mkldnn",
        "quantized",
        "storage let go",
        "expanded to 2147",
        "expanded to 8589",
        "expanded to 1099",
    ),
    *(
        "complex",
        "0 times",
        "an object",
        "Fraction",
        "on meta",
        "bytes",
        "float8",
        "an index that fails",
        "an index of 7",
    ),
    *("uint16", "uint32", "uint64", "numpy objects", "a generator", "in another", "half a character", "zero byte"),
    *("a subclass", "made in inference", "2^40", "nine times", "masked", "strings", "dict", "two in a tensor"),
    *("numpy array", "empty tensor"),
)
_THINGS_BY_HAND = {"a NoneType", "a str", "a int", "a float", "a bool", "a list"}
_OTHER_THINGS = {f"a {type(make()).__name__}" for make in _THINGS} - _THINGS_BY_HAND


def _is_enormous(value: Any) -> bool:
    """A legal size that no memory holds: who asks for it gets what the machine says."""
    return isinstance(value, int) and 1 << 20 <= value < 1 << 62


def _is_rare(how: str) -> bool:
    return any(how.endswith(thing) for thing in _OTHER_THINGS) or any(word in how for word in _RARE)


def mutated(
    rng: Rng, args: dict[str, Any], opaque: frozenset[str], fixed: frozenset[str], gentle: bool = False
) -> tuple[dict[str, Any], str, str]:
    """Arguments with one of them changed, sometimes more: what was done, and what it means."""
    out, hows, meaning = dict(args), [], SAME
    rng.gentle = gentle
    names = [name for name in args if name not in fixed]
    for _ in range(1 if rng.flip(0.8) else rng.randint(2, 3)):
        for _ in range(4 if names else 0):  # some changes are impossible for some values
            name = rng.choice(names)
            try:
                value, how, kind = change(rng, out[name])
            except CANNOT:
                continue
            if gentle and (_is_rare(how) or _is_enormous(value)):
                continue
            if name in opaque and kind in (OTHER, REFUSE):
                kind = WILD
            out[name] = value
            hows.append(f"{name} {how}")
            meaning = max(meaning, kind, key=_ORDER.index)
            names.remove(name)
            break
    if meaning == OTHER and any("generator" in how for how in hows):
        meaning = WILD  # the call has used it up: no twin can read it again
    return out, "; ".join(hows) or "nothing", meaning
