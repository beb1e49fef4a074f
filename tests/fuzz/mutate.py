"""Valid arguments made hostile: another layout of the same values, other values, other things altogether.

Every change has a meaning (``hostile``), and the engine judges the call's answer by it.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .case import Rng
from .hostile import FLOATS, INTEGERS, NOT_BY_HAND, OTHER, REFUSE, SAME, WILD, Change, Odd, Seven, bag, one_of
from .hostile_tensors import changed_tensor

_ORDER = (SAME, OTHER, REFUSE, WILD)
# What making a hostile value itself may raise: torch refuses many combinations of kind, dtype and shape.
CANNOT = (
    *(RuntimeError, TypeError, ValueError, NotImplementedError, IndexError, OverflowError, AttributeError),
    MemoryError,
)


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
    return one_of(rng, _INTEGERS, value)


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
    return one_of(rng, _NUMBERS, value)


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
    return one_of(rng, _TRUTHS, value)


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
    return one_of(rng, _WORDS, value)


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
    return one_of(rng, ways)


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
        return changed_tensor(rng, value)
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
    return one_of(rng, ways)


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
    *("nested", "sparse", "mkldnn", "quantized", "storage let go", "expanded to 2147", "expanded to 8589"),
    *("expanded to 1099", "complex", "0 times", "an object", "Fraction", "on meta", "bytes", "float8"),
    *("an index that fails", "an index of 7", "uint16", "uint32", "uint64", "numpy objects", "a generator"),
    *("in another", "half a character", "zero byte", "a subclass", "made in inference", "2^40", "nine times"),
    *("masked", "strings", "dict", "two in a tensor", "numpy array", "empty tensor"),
)


def _is_enormous(value: Any) -> bool:
    """A legal size that no memory holds: who asks for it gets what the machine says."""
    return isinstance(value, int) and 1 << 20 <= value < 1 << 62


def _is_rare(how: str) -> bool:
    return any(how.endswith(thing) for thing in NOT_BY_HAND) or any(word in how for word in _RARE)


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
