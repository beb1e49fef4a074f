"""One call, made again by itself."""

from __future__ import annotations

import sys
import traceback

from .case import TARGETS
from .compare import described
from .engine import confine
from .worker import Fault, Worker, quiet


def again(seed: int, name: str, number: str) -> int:
    """Prints the call before it is made, then what came of it; 1 where that is a fault."""
    quiet()
    confine()
    call, faults = int(number), []
    target = TARGETS[name]

    def report(fault: Fault) -> None:
        faults.append(fault)

    worker = Worker(seed, [0] * 4, report)
    case = worker.case(target, call // target.calls)
    args, how, meaning = worker.arguments(target, case, call)
    print(f"{name}, changed: {how} ({meaning})")
    for key, value in args.items():
        print(f"  {key} = {described(value)}")
    sys.stdout.flush()
    try:
        found = case.call(**args)
    except Exception:  # noqa: BLE001 - it is printed
        traceback.print_exc(file=sys.stdout)
    else:
        print(f"gives {described(found)}")
    sys.stdout.flush()
    worker.run_case(name, call // target.calls, only=call)
    for fault in faults:
        print(f"{fault.kind}: {fault.what}")
    if not faults:
        print("no fault")
    return 1 if faults else 0
