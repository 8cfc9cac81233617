"""Make the terms of prediction intervals anew, from tables of published runs.

``python docs/refresh_intervals.py TABLE.csv...`` predicts tables of published
training, those that ship (``workloads/published/blind-training*.csv``) beside the
ones that are named, leaves out whole documents and whole tables in turn, writes
``devices/generations/intervals.json``, and prints what intervals cover. Some
minutes. ``--inference`` and ``--serving`` name tables for the terms of these.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hwsim.analysis.fitting.calibrate import dump_calibration
from hwsim.analysis.fitting.intervals import with_terms
from hwsim.report import format as fmt
from hwsim.specs.calibration import load_intervals
from hwsim.specs.calibration_file import TrainingKnowledge

ROOT = Path(__file__).resolve().parent.parent
STORE = ROOT / "devices" / "generations" / "intervals.json"
SHIPPED = sorted((ROOT / "workloads" / "published").glob("blind-training*.csv"))


def told(known: TrainingKnowledge) -> str:
    """Return what intervals of training cover, by class and by table left out."""
    lines = [
        f"{name}: {term.rows} rows of {term.sources} documents, half width "
        f"{term.high:.3f}, covers {fmt.percent(term.coverage)}, "
        f"width {fmt.percent(term.width, 0)}"
        for name, term in known.terms.items()
    ]
    lines += [
        f"{table.table} left out: {table.rows} rows, covers "
        f"{fmt.percent(table.coverage)}, width {fmt.percent(table.width, 0)}"
        for table in known.tables
    ]
    return "\n".join(lines)


def main() -> int:
    """Predict the tables, store the terms; return the exit code."""
    asked = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    asked.add_argument("training", nargs="+", type=Path, metavar="TABLE.csv")
    asked.add_argument("--inference", nargs="+", type=Path, default=[])
    asked.add_argument("--serving", nargs="+", type=Path, default=[])
    given = asked.parse_args()
    named = [path for path in given.training if path.resolve() not in SHIPPED]
    file = with_terms(
        load_intervals(), training=[*named, *SHIPPED], published=given.inference,
        serving=given.serving, progress=lambda text: print(text, file=sys.stderr),
    )  # fmt: skip
    STORE.write_text(dump_calibration(file), encoding="utf-8")
    if file.training is not None:
        print(told(file.training))
    return 0


if __name__ == "__main__":
    sys.exit(main())
