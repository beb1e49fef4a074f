"""Makes calls and judges their outcomes, one after the other, in the process it is called in."""

from __future__ import annotations

import time
import traceback
import warnings
import zlib
from collections.abc import Callable, Iterator, MutableSequence
from dataclasses import dataclass, field
from typing import Any

from genrec_fast.base.errors import GenrecError

from .case import PACKAGE, TARGETS, Case, Rng, Target, Unasked
from .compare import described, fingerprint, plain
from .mutate import REFUSE, SAME, WILD, mutated

MAKING, CALLING, JUDGING = 0, 1, 2
PHASES = ("making the case", "in the call", "in the twin")


@dataclass
class Count:
    """Of one target."""

    calls: int = 0
    refused: int = 0
    equal: int = 0
    unjudged: int = 0
    seconds: float = 0.0


@dataclass
class Fault:
    """What went wrong in one call, and where the like of it belongs."""

    target: str
    call: int
    kind: str
    what: str
    place: str
    how: str
    shown: str = ""

    @property
    def group(self) -> tuple[str, str, str]:
        return (self.kind, self.place, self.what.split(":")[0])


@dataclass
class Worker:
    """Runs the calls of a seed.

    Call n of a target is change n of its case number ``n // calls``: both follow from the seed, the target's name and
    n alone, so any call can be made again by itself.
    """

    seed: int
    mark: MutableSequence[int]
    report: Callable[[Fault], None]
    counts: dict[str, Count] = field(default_factory=dict)
    _rng: Rng = field(default_factory=Rng)

    def start(self, name: str, number: int) -> Rng:
        return self._rng.start(zlib.crc32(f"{self.seed} {name} {number}".encode()) << 20 | number & 0xFFFFF)

    def case(self, target: Target, number: int) -> Case:
        return target.make(self.start(target.name + " case", number))

    def arguments(self, target: Target, case: Case, call: int) -> tuple[dict[str, Any], str, str]:
        """The first call of a case is the valid one."""
        if call % target.calls == 0:
            return case.args, "valid", SAME
        rng = self.start(target.name, call)
        if case.vary is not None:
            return case.vary(rng, case.args)
        return mutated(rng, case.args, case.opaque, case.fixed, target.gentle)

    def run_case(self, name: str, number: int, first: int = 0, only: int | None = None) -> None:
        """The calls of one case, from the ``first``."""
        target = TARGETS[name]
        count = self.counts.setdefault(name, Count())
        begin = time.process_time()
        self.mark[1] = number * target.calls + first
        self.mark[2] = MAKING
        try:
            case = self.case(target, number)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
            self._fault(target, number * target.calls, "a valid case could not be made", error, "valid")
            return
        before = fingerprint(case.args)
        state = _Right(case)
        for step in range(first, target.calls):
            call = number * target.calls + step
            if only is not None and call != only:
                continue
            self.mark[1] = call
            self.mark[2] = MAKING
            args, how, meaning = self.arguments(target, case, call)
            self._call(target, case, state, call, args, how, meaning, count)
        if fingerprint(case.args) != before:
            self.report(
                Fault(name, number * target.calls, "arguments written to", "the caller's tensors changed", name, "some")
            )
        count.seconds += time.process_time() - begin

    def _call(
        self, target: Target, case: Case, state: _Right, call: int, args: Any, how: str, meaning: str, count: Count
    ) -> None:
        self.mark[0] += 1
        self.mark[2] = CALLING
        count.calls += 1
        try:
            found = case.call(**args)
        except GenrecError as error:
            count.refused += 1
            if how == "valid" and not case.refuses:
                self._fault(target, call, "valid call refused", error, how, args)
            return
        except case.allows:
            count.refused += 1
            return
        except Exception as error:  # noqa: BLE001 - any other error is the finding
            self._fault(target, call, "foreign error", error, how, args)
            return
        self.mark[2] = JUDGING
        if meaning == REFUSE:
            self._say(target, call, "accepted", "must be refused", _general(how), how, args)
            return
        used_up = any(isinstance(value, Iterator) for value in args.values())
        if meaning == WILD or case.oracle is None or used_up:
            count.unjudged += 1
            return
        try:
            if meaning == SAME:
                complaint = case.judge(found, state.right(), case.args)
            else:
                given = {name: plain(value) for name, value in args.items()}
                complaint = case.judge(found, case.oracle(**given), given)
                if complaint is None and case.also is not None:
                    complaint = case.also(**given)
        except Exception as error:  # noqa: BLE001 - the twin has no answer where the function gave one
            if isinstance(error, MemoryError | Unasked) or any(
                word in str(error) for word in ("allocate", "symbolic", "Stride calculation overflowed")
            ):  # not for such sizes
                count.unjudged += 1
                return
            self._say(target, call, "accepted", f"{type(error).__name__}: {error}"[:200], _general(how), how, args)
            return
        if complaint is None:
            count.equal += 1
        else:
            self._say(target, call, "difference", complaint, _general(how), how, args)

    def _fault(self, target: Target, call: int, kind: str, error: BaseException, how: str, args: Any = None) -> None:
        self._say(target, call, kind, f"{type(error).__name__}: {error}"[:300], _place(error), how, args)

    def _say(self, target: Target, call: int, kind: str, what: str, place: str, how: str, args: Any) -> None:
        shown = "" if args is None else ", ".join(f"{name}={described(value)}" for name, value in args.items())
        self.report(Fault(target.name, call, kind, what, f"{target.name} at {place}", how, shown[:3000]))


class _Right:
    """The valid call's answer by the twin, made when it is first asked for."""

    def __init__(self, case: Case) -> None:
        self.case, self.made, self.value = case, False, None

    def right(self) -> Any:
        if not self.made:
            assert self.case.oracle is not None
            self.value, self.made = self.case.oracle(**{n: plain(v) for n, v in self.case.args.items()}), True
        return self.value


def _general(how: str) -> str:
    """The arguments that were changed."""
    return " and ".join(part.split()[0] for part in how.split("; "))


def _place(error: BaseException) -> str:
    """The innermost line of this library, and of what it called."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if f.filename.startswith(PACKAGE)]
    text = [f"{f.filename.removeprefix(PACKAGE)}:{f.lineno}" for f in ours[-1:]]
    if not ours or frames[-1] is not ours[-1]:
        text.append(f"{'/'.join(frames[-1].filename.split('/')[-2:])}:{frames[-1].lineno}")
    return " > ".join(text)


def quiet() -> None:
    """torch warns about prototypes of the kinds of tensors that are made here."""
    warnings.simplefilter("ignore")
