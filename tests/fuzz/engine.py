"""Runs workers in child processes, survives their deaths, and adds up what they found."""

from __future__ import annotations

import contextlib
import faulthandler
import itertools
import json
import mmap
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from .case import PACKAGE, TARGETS
from .worker import PHASES, Count, Fault, Worker, quiet

EXAMPLES = 2  # of each group of faults, per child
DEATHS = 300  # of one target: then it is left out, and the run goes on
WAIT = 12  # times the patience: then a call that does not even work hangs
MEMORY = 1 << 30  # beyond what the process holds at its start


def sanitized() -> bool:
    """Whether the process runs under AddressSanitizer, which maps terabytes and reports deaths itself."""
    return "asan" in os.environ.get("LD_PRELOAD", "")


def confine() -> None:
    """Bounds the memory of this process, and lets it say where it dies."""
    if not sanitized():
        faulthandler.enable()
        used = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


@dataclass
class Group:
    """Faults of one kind at one place."""

    first: Fault
    times: int = 0
    hows: dict[str, int] = field(default_factory=dict)


@dataclass
class Outcome:
    """Of a whole run."""

    counts: dict[str, Count] = field(default_factory=dict)
    groups: dict[tuple[str, ...], Group] = field(default_factory=dict)
    deaths: dict[str, int] = field(default_factory=dict)
    calls: int = 0
    seconds: float = 0.0

    def add(self, fault: Fault) -> None:
        group = self.groups.setdefault(fault.group, Group(fault))
        group.times += 1
        if fault.how in group.hows or len(group.hows) < 6:
            group.hows[fault.how] = group.hows.get(fault.how, 0) + 1


@dataclass
class Engine:
    """One seed, some targets, one child at a time.

    Args:
        seed: of all draws.
        names: the targets.
        patience: seconds after which a call that does not end is a hang.
        progress: whether a line is printed every few seconds.
    """

    seed: int
    names: list[str]
    patience: float = 10.0
    progress: bool = True
    out: Outcome = field(default_factory=Outcome)

    def schedule(self) -> Iterator[tuple[str, int]]:
        """Cases without end: (target, number), the same for every run of a seed and set of names."""
        rng, numbers = random.Random(self.seed), dict.fromkeys(self.names, 0)
        for name in sorted(self.names):  # everything once, then by share
            yield name, 0
            numbers[name] = 1
        shares = list(itertools.accumulate(TARGETS[name].share for name in self.names))
        while True:
            name = rng.choices(self.names, cum_weights=shares)[0]
            yield name, numbers[name]
            numbers[name] += 1

    def run(self, seconds: float, cases: int | None = None) -> Outcome:
        """Calls for ``seconds``, or ``cases`` of them."""
        begin, done, first = time.monotonic(), 0, 0
        deadline = begin + seconds
        while time.monotonic() < deadline and (cases is None or done < cases):
            try:
                died = self._child(deadline, done, first, cases)
            except KeyboardInterrupt:  # what was found until now is told
                break
            if died is None:
                break
            done, first = died
        self.out.seconds = time.monotonic() - begin
        return self.out

    def _work(self, deadline: float, skip: int, first: int, cases: int | None, mark: Any, pipe: int) -> None:
        """In the child: cases from number ``skip`` on, beginning with call ``first`` of it."""
        quiet()
        torch.set_num_threads(1)
        confine()
        seen: dict[tuple[str, ...], int] = {}

        def report(fault: Fault) -> None:
            times = seen[fault.group] = seen.get(fault.group, 0) + 1
            if times > EXAMPLES:
                fault.shown = ""
            _write(pipe, {"fault": asdict(fault)})

        worker = Worker(self.seed, mark, report)
        told = time.monotonic()
        for at, (name, number) in enumerate(self.schedule()):
            if at < skip:
                continue
            if cases is not None and at >= cases:
                break
            mark[3] = at
            if self.out.deaths.get(name, 0) < DEATHS:
                worker.run_case(name, number, first)
            first = 0
            now = time.monotonic()
            if now - told > 0.3 or now > deadline:
                _write(pipe, {"counts": {n: asdict(c) for n, c in worker.counts.items()}})
                worker.counts.clear()
                told = now
            if now > deadline:
                break
        _write(pipe, {"counts": {n: asdict(c) for n, c in worker.counts.items()}, "end": True})

    def _child(self, deadline: float, skip: int, first: int, cases: int | None) -> tuple[int, int] | None:
        """One child; ``None`` when it came to its end, else where the next one begins."""
        shared = mmap.mmap(-1, 4096)
        mark = memoryview(shared).cast("q")  # calls made, call, phase, place in the schedule
        names = self.schedule()
        with tempfile.TemporaryFile() as errors:
            reader, writer = os.pipe()
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    os.close(reader)
                    os.dup2(errors.fileno(), 2)
                    self._work(deadline, skip, first, cases, mark, writer)
                    status = 0
                except BaseException:  # noqa: BLE001 - the child ends here, whatever happens
                    import traceback

                    traceback.print_exc()
                finally:
                    sys.stderr.flush()
                    os._exit(status)
            os.close(writer)
            try:
                status, hung = self._watch(child, reader, mark)
            except KeyboardInterrupt:
                os.kill(child, signal.SIGKILL)
                raise
            self.out.calls += mark[0]
            at, call, phase = mark[3], mark[1], mark[2]
            errors.seek(0)
            said = errors.read().decode(errors="replace")
        if status == 0:
            return None
        name, _ = next(itertools.islice(names, at, None))
        step = call % TARGETS[name].calls + 1
        whole = step == 1 and phase == 0  # the case itself cannot be made
        going_on = (at + 1, 0) if whole or step >= TARGETS[name].calls else (at, step)
        if not hung and "allocator is out of memory" in said:
            return going_on  # a sanitizer's `new` ends the process where else there is a std::bad_alloc: a refusal
        self.out.deaths[name] = self.out.deaths.get(name, 0) + 1
        kind = "hang" if hung else f"death ({_signal(status)})"
        fault = Fault(
            name, call, kind, f"{kind}: {PHASES[phase]}", f"{name} at {_origin(said)}", self._explained(name, call)
        )
        fault.shown = said.strip()[:2500]
        self.out.add(fault)
        return going_on

    def _explained(self, name: str, call: int) -> str:
        """What was changed in a call that killed its process: found in another process, which does not make it."""
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            signal.alarm(30)
            try:
                quiet()
                worker, target = Worker(self.seed, [0] * 4, print), TARGETS[name]
                case = worker.case(target, call // target.calls)
                os.write(writer, worker.arguments(target, case, call)[1].encode()[:2000])
            finally:
                os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as file:
            how = file.read().decode(errors="replace")
        os.waitpid(child, 0)
        return how or "the case itself"

    def _watch(self, child: int, reader: int, mark: Any) -> tuple[int, bool]:
        """Reads what a child says until it ends; kills it where it hangs."""
        os.set_blocking(reader, False)
        rest, last, told, hung = b"", -1, time.monotonic(), False
        since, worked = time.monotonic(), 0.0
        while True:
            ended, status = os.waitpid(child, os.WNOHANG)
            with contextlib.suppress(BlockingIOError):
                while chunk := os.read(reader, 1 << 20):
                    rest += chunk
            *lines, rest = rest.split(b"\n")
            for line in lines:
                self._hear(json.loads(line))
            if ended:
                os.close(reader)
                return status, hung
            now, at = time.monotonic(), mark[1] * 4 + mark[2] + (mark[0] << 20)
            if at != last:
                last, since, worked = at, now, _worked(child)
            elif now - since > self.patience:
                # On a machine that is shared a call may wait long for its turn: what counts is what it works.
                busy = _worked(child) - worked
                if not hung and (busy > self.patience or now - since > WAIT * self.patience):
                    hung, since = True, now
                    os.kill(child, signal.SIGABRT)  # faulthandler prints where it is
                elif hung:
                    os.kill(child, signal.SIGKILL)
            if self.progress and now - told > 5:
                told = now
                held = _resident(child) >> 20
                print(
                    f"  {self.out.calls + mark[0]:>10,} calls, {len(self.out.groups)} kinds of faults, {held} MB",
                    flush=True,
                )
            time.sleep(0.02)

    def _hear(self, message: dict[str, Any]) -> None:
        if "fault" in message:
            self.out.add(Fault(**message["fault"]))
        for name, counts in message.get("counts", {}).items():
            mine = self.out.counts.setdefault(name, Count())
            for key, value in counts.items():
                setattr(mine, key, getattr(mine, key) + value)


def _write(pipe: int, message: dict[str, Any]) -> None:
    raw = json.dumps(message).encode() + b"\n"
    while raw:
        raw = raw[os.write(pipe, raw) :]


def _worked(child: int) -> float:
    """Seconds of processor time that a child has used."""
    with contextlib.suppress(FileNotFoundError, IndexError):
        fields = Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _resident(child: int) -> int:
    """Bytes of memory that a child holds, 0 where it has gone."""
    with contextlib.suppress(FileNotFoundError, IndexError):
        return int(Path(f"/proc/{child}/statm").read_text().split()[1]) * mmap.PAGESIZE
    return 0


def _signal(status: int) -> str:
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return f"exit {os.WEXITSTATUS(status)}"


def _origin(said: str) -> str:
    """The line that a sanitizer or faulthandler names first."""
    for line in said.splitlines():
        if "runtime error:" in line:
            return line.split(" runtime error:")[0].split("/")[-1]
        if line.strip().startswith("#") and "csrc/" in line:
            return line.split("csrc/")[-1].split()[0]
    for line in said.splitlines():
        if 'File "' in line and (PACKAGE in line or "fuzz/targets" in line):
            return line.strip().removeprefix("File ").replace('"', "").removeprefix(PACKAGE)
    return "an unknown place"
