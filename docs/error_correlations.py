"""How far errors of two predictions go together, from tables of measured rows.

``python docs/error_correlations.py TABLE.csv...`` predicts the rows of matrix
products and decode attention, and stores in ``docs/error_correlations.json``
the correlation of ln(predicted / measured) between rows that differ in one
thing only; ``docs/refresh.py`` shows it in the guide to ``hwsim compare``,
whose two constants a test holds against it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import hwsim
from hwsim.specs.calibration import calibration_for

STORE = Path(__file__).resolve().parent / "error_correlations.json"
LEAST = 40  # pairs of rows that a correlation rests on
APART = 4.0  # rows or sequences of other work, at least so many times as many
# By operator: what makes two rows the same, and which of it is the amount of work.
SHAPES = {
    "linear": (["dtype", "n", "k", "kernel"], "m"),
    "decode": (
        ["dtype", "kv_dtype", "heads", "kv_heads", "head_dim", "seq_kv", "window",
         "kernel"], "batch",
    ),
}  # fmt: skip
NARROW = {"linear": "dtype", "decode": "kv_dtype"}
KINDS = {
    "generation": "the same operators on another device of the generation",
    "work": "the same device, four times the rows or sequences",
    "dtype": "the same device and shape in another precision",
    "elsewhere": "the same operators on a device of another generation",
}
FIDELITIES = ("calibrated", "structured")


def errors(path: str, fidelity: str) -> pd.DataFrame:
    """Return the rows of a table with the logarithm of their errors."""
    told = hwsim.validate([path], fidelity=fidelity).table
    told = told[told["reason"] == ""]
    shapes = pd.read_csv(path, low_memory=False).drop(columns=["device", "dtype", "op"])
    found = told.merge(shapes, left_on="row", right_index=False,
                       right_on=np.arange(1, len(shapes) + 1))  # fmt: skip
    found["error"] = np.log(found["predicted"] / found["measured"])
    return found


def pairs(rows: pd.DataFrame) -> Iterator[tuple[str, str, str, pd.DataFrame]]:
    """Yield what differs, names of both sides, and their errors in two columns."""
    op = rows["op"].iloc[0]
    same, amount = SHAPES[op]
    devices = sorted(rows["device"].unique())
    for a, b in combinations(devices, 2):
        alike = generation(a) == generation(b)
        yield ("generation" if alike else "elsewhere", a, b,
               joined(rows, "device", (a, b), [*same, amount]))  # fmt: skip
    narrow = NARROW[op]
    for device in devices:
        mine = rows[rows["device"] == device]
        for a, b in combinations(sorted(mine[narrow].unique()), 2):
            keys = [key for key in (*same, amount) if key not in (narrow, "kernel")]
            yield (
                "dtype",
                f"{device} {a}",
                f"{device} {b}",
                joined(mine, narrow, (a, b), keys),
            )
        for dtype in sorted(mine["dtype"].unique()):
            part = mine[mine["dtype"] == dtype]
            yield "work", f"{device} {dtype}", "more of it", more(part, same, amount)


def generation(device: str) -> str:
    """Return whose parameters a device has."""
    return calibration_for(hwsim.load_device(device), "structured").id


def joined(
    rows: pd.DataFrame, column: str, ends: Sequence[str], keys: Sequence[str]
) -> pd.DataFrame:
    """Return errors of rows that agree in all keys, one column for each end."""
    sides = [
        rows[rows[column] == end].groupby(list(keys), dropna=False)["error"].mean()
        for end in ends
    ]
    return pd.concat(sides, axis=1, join="inner").dropna()


def more(rows: pd.DataFrame, same: Sequence[str], amount: str) -> pd.DataFrame:
    """Return errors of each row and of the nearest one with that much more work."""
    found = []
    for _, group in rows.groupby(list(same), dropna=False):
        ordered = group.sort_values(amount)
        sizes = ordered[amount].to_numpy(dtype=float)
        values = ordered["error"].to_numpy()
        ends = np.searchsorted(sizes, APART * sizes)
        found += [(values[i], values[j]) for i, j in enumerate(ends) if j < len(sizes)]
    return pd.DataFrame(found, columns=["a", "b"])


def measure(paths: Sequence[str]) -> list[dict[str, Any]]:
    """Return the correlation of every pair of sides with enough rows."""
    found = []
    for path in paths:
        for fidelity in FIDELITIES:
            rows = errors(path, fidelity)
            for kind, a, b, both in pairs(rows):
                if len(both) >= LEAST:
                    value = float(np.corrcoef(both.to_numpy().T)[0, 1])
                    found.append({
                        "op": rows["op"].iloc[0], "fidelity": fidelity, "kind": kind,
                        "a": a, "b": b, "rows": len(both),
                        "correlation": round(value, 3),
                    })  # fmt: skip
    return found


def table() -> str:
    """Return the stored correlations, lowest to highest of each kind."""
    known = json.loads(STORE.read_text("utf-8"))["correlations"]
    lines = [
        "| Errors of | | Pairs | Lowest | Median | Highest |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for kind, words in KINDS.items():
        for fidelity in FIDELITIES:
            values = [c["correlation"] for c in known
                      if (c["kind"], c["fidelity"]) == (kind, fidelity)]  # fmt: skip
            if values:
                figures = (min(values), float(np.median(values)), max(values))
                shown = " | ".join(f"{v:.2f}" for v in figures)
                lines.append(f"| {words} | {fidelity} | {len(values)} | {shown} |")
    return "\n".join(lines) + "\n"


PARTS = {"error_correlations": table}

if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit("usage: python docs/error_correlations.py TABLE.csv...")
    stored = {
        "source": "SGLang and vLLM kernels of ai-dynamo/aiconfigurator, commit "
        "095f58a, Apache-2.0: A100, H100, H200, B200, L40S",
        "tables": [Path(path).name for path in sys.argv[1:]],
        "correlations": measure(sys.argv[1:]),
    }
    STORE.write_text(json.dumps(stored, indent=1) + "\n", "utf-8")
    print(table())
