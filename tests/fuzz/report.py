"""What a run has found, as text."""

from __future__ import annotations

from .engine import Outcome


def text(outcome: Outcome, seed: int, command: str = "python -m tests.fuzz") -> str:
    """A table of targets, then the faults by kind, each with the command that makes it again."""
    lines = [f"{'target':28} {'calls':>9} {'refused':>9} {'equal':>9} {'unjudged':>9} {'per s CPU':>9}"]
    for name in sorted(outcome.counts):
        count = outcome.counts[name]
        rate = count.calls / count.seconds if count.seconds else 0.0
        lines.append(
            f"{name:28} {count.calls:>9,} {count.refused:>9,} {count.equal:>9,} {count.unjudged:>9,} {rate:>9,.0f}"
        )
    rate = outcome.calls / max(outcome.seconds, 1e-9)
    lines.append(f"{outcome.calls:,} calls in {outcome.seconds:.0f} s, {rate:,.0f} a second")
    groups = sorted(outcome.groups.values(), key=lambda g: (g.first.kind, g.first.place, -g.times))
    for group in groups:
        fault = group.first
        lines += ["", f"{fault.kind.upper()} x{group.times}: {fault.place}", f"  {fault.what}"]
        lines += [f"  after: {', '.join(f'{how} ({times})' for how, times in group.hows.items())}"]
        if fault.shown:
            lines.append("  " + fault.shown[:900].replace("\n", "\n  "))
        lines.append(f"  again: {command} --seed {seed} --call {fault.target}:{fault.call}")
    kinds: dict[str, int] = {}
    for group in groups:
        kinds[group.first.kind] = kinds.get(group.first.kind, 0) + group.times
    lines += [
        "",
        f"{sum(kinds.values())} faults in {len(groups)} groups" + "".join(f"; {k} {n}" for k, n in kinds.items()),
    ]
    return "\n".join(lines)
