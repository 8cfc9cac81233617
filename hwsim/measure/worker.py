"""``python -m hwsim.measure.worker``: measures what it is told on stdin.

BLAS libraries read their number of threads when they are loaded, so each
number has a process of its own. One order a line as JSON, one answer a line.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from hwsim.measure.cuda.cases import Case, Skip
from hwsim.measure.cuda.runner import Outcome


def case_to_json(case: Case) -> dict[str, Any]:
    """Return a case as plain JSON."""
    return {
        "table": case.table, "op": case.op, "dtype": case.dtype,
        "shape": [list(pair) for pair in case.shape], "kernel": case.kernel,
        "launch": case.launch, "operands": case.operands, "threads": case.threads,
    }  # fmt: skip


def case_from_json(order: dict[str, Any]) -> Case:
    """Return the case of an order."""
    pairs = tuple((str(name), value) for name, value in order["shape"])
    return Case(**{**order, "shape": pairs})


def answer(timer: Any, order: dict[str, Any]) -> dict[str, Any]:
    """Do one order; a case that cannot be measured is an answer too."""
    try:
        if "facts" in order:
            from hwsim.measure.host import blas_facts

            return {"facts": blas_facts()}
        if "live" in order:
            from hwsim.measure.live_run import run_live

            return run_live(order["live"], float(order["left"]))
        outcome: Outcome = timer.measure(
            case_from_json(order["case"]), float(order["left"])
        )
    except Skip as verdict:
        return {"skip": str(verdict)}
    except MemoryError as fault:
        return {"skip": f"out of memory: {fault}"}
    return {"samples": list(outcome.samples), "columns": outcome.columns}


def main() -> None:
    """Answer orders until stdin ends."""
    # What libraries print must not end up among the answers.
    channel = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    from hwsim.measure.cpu_work import Timer

    timer = Timer(int(sys.argv[1]), float(sys.argv[2]))
    for line in sys.stdin:
        channel.write(json.dumps(answer(timer, json.loads(line))) + "\n")
        channel.flush()


if __name__ == "__main__":
    main()
