"""Errors on tables of published figures that do not ship: stored, then shown.

``python docs/refresh_published.py KIND RESULT.json`` (``inference`` or ``serving``)
stores the summary of what ``hwsim validate --published TABLE.csv --json`` wrote in
``docs/published_errors.json``; ``docs/refresh.py`` shows it from there.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hwsim.analysis.validation.published import validate_published
from hwsim.report import format as fmt

PUBLISHED = Path(__file__).resolve().parent.parent / "workloads" / "published"
BLIND = {
    "blind_first": "blind-training.csv", "blind_first_2": "blind-training-2.csv",
    "blind_first_3": "blind-training-3.csv", "blind_first_4": "blind-training-4.csv",
    "blind_first_5": "blind-training-5.csv",
}  # fmt: skip
BLIND_INFERENCE = {
    "blind_inference_first": "blind-inference.csv",
    "blind_inference_first_2": "blind-inference-2.csv",
}
STORE = Path(__file__).resolve().parent / "published_errors.json"
KEYS = (
    "rows", "median_ape", "mape", "p90_ape", "bias", "coverage_90", "interval_width",
)  # fmt: skip
HEAD = (
    "Rows", "Median error", "Mean", "90th pct", "Median, signed", "In 90 % interval",
    "Its width",
)  # fmt: skip
METRICS = {
    "ttft": "time to first token", "tpot": "time per token", "latency": "latency",
    "throughput": "throughput",
}  # fmt: skip


def stored_kind(kind: str) -> dict[str, Any]:
    """Return what is stored of a kind of table."""
    known: dict[str, Any] = json.loads(STORE.read_text("utf-8"))[kind]
    return known


def rounded(errors: dict[str, Any]) -> dict[str, Any]:
    """Return the errors of a group, as they are stored."""
    values = {key: errors[key] for key in KEYS}
    return {
        k: v if v is None or k == "rows" else round(v, 4) for k, v in values.items()
    }


def store(kind: str, result: dict[str, Any]) -> None:
    """Store the summary of a validation under a kind of table."""
    known = json.loads(STORE.read_text("utf-8")) if STORE.is_file() else {}
    known[kind] = {
        "all": rounded(result),
        "total_rows": result["total_rows"],
        "unanswered": result["unanswered_reasons"],
        **{
            f"by_{key}": {n: rounded(e) for n, e in result[f"by_{key}"].items()}
            for key in ("source", "metric", "op")
        },
    }
    if kind == "serving":
        from refresh_serving import groups

        known[kind] |= groups(result["table"])
    STORE.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", "utf-8")


def _row(name: str, errors: dict[str, Any]) -> str:
    cells = [
        name, str(errors["rows"]), fmt.percent(errors["median_ape"], 1),
        fmt.percent(errors["mape"], 1), fmt.percent(errors["p90_ape"], 1),
        fmt.signed_percent(errors["bias"], 1), fmt.percent(errors["coverage_90"], 0),
        fmt.percent(errors["interval_width"], 0),
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def table(kind: str, key: str, names: dict[str, str] | None = None) -> str:
    """Return a table of stored errors by source, metric or work."""
    found = stored_kind(kind)
    rows = [_row("all", found["all"])]
    rows += [_row((names or {}).get(n, n), e) for n, e in found[f"by_{key}"].items()]
    head = f"|  | {' | '.join(HEAD)} |\n| --- |{' ---: |' * len(HEAD)}\n"
    return head + "\n".join(rows) + "\n"


def _look(errors: Mapping[str, Any] | None) -> list[str]:
    if errors is None:
        return ["no answer"] * 3
    typical = [fmt.percent(errors[k], 0) for k in ("median_ape", "mape")]
    return [*typical, fmt.signed_percent(errors["bias"], 0)]


def blind(checks: Mapping[str, str]) -> str:
    """Return errors on the runs of blind checks, at first look and now."""
    stored = json.loads(STORE.read_text("utf-8"))
    rows = []
    for kind, file in checks.items():
        first = stored[kind]
        result = validate_published(PUBLISHED / file)
        now = {"all": result.summary, **result.by("source")}
        looks = {"all": first["all"], **first["by_source"]}
        looks |= {name: None for name in now if name not in looks}
        for name, found in looks.items():
            answered = now[name].to_dict() if name in now else None
            counted = found or answered or {}
            cells = [f"all of {file}" if name == "all" else name, str(counted["rows"])]
            rows.append(f"| {' | '.join(cells + _look(found) + _look(answered))} |")
    head = ["Rows", *(f"{n}, {when}" for when in ("first look", "now")
            for n in ("median", "mean", "signed"))]  # fmt: skip
    lines = [f"|  | {' | '.join(head)} |", f"| --- |{' ---: |' * len(head)}", *rows]
    return "\n".join(lines) + "\n"


def _from_to(kinds: Mapping[str, str], key: str) -> str:
    shares = [stored_kind(kind)["all"][key] for kind in kinds]
    return f"{fmt.percent(min(shares), 0)} to {fmt.percent(max(shares), 0)}"


def short() -> str:
    """Return errors on tables in sight, and at first look of those that were not."""
    lines = ["|  | Rows | Median error | Mean |", "| --- | ---: | ---: | ---: |"]
    for name, kind, checks in (
        ("training", "training", BLIND), ("inference", "inference", BLIND_INFERENCE),
    ):  # fmt: skip
        seen = stored_kind(kind)["all"]
        errors = [fmt.percent(seen[key], 0) for key in ("median_ape", "mape")]
        lines.append(f"| {name}, in sight | {seen['rows']} | {' | '.join(errors)} |")
        rows = sum(stored_kind(check)["all"]["rows"] for check in checks)
        errors = [_from_to(checks, key) for key in ("median_ape", "mape")]
        told = f"{name}, first look at {len(checks)} other tables"
        lines.append(f"| {told} | {rows} | {' | '.join(errors)} |")
    return "\n".join(lines) + "\n"


def first_look() -> str:
    """Return the same of tables out of sight, in a sentence."""
    told = [
        f"{name} {_from_to(checks, 'median_ape')} in the median"
        for name, checks in (("training", BLIND), ("inference", BLIND_INFERENCE))
    ]
    count = len(BLIND) + len(BLIND_INFERENCE)
    return (
        f"At first look on {count} tables written down before anything was\n"
        f"predicted for them, errors were larger: {told[0]},\n{told[1]}.\n"
    )


def unanswered(kind: str, what: str = "row") -> str:
    """Return why rows, or figures of them, have no prediction."""
    found = stored_kind(kind)
    left = fmt.plural(sum(found["unanswered"].values()), what)
    text = f"{left} of {found['total_rows']} without an answer:\n\n"
    return text + "".join(
        f"- {count}: {why}\n" for why, count in found["unanswered"].items()
    )


PARTS = {
    "short": short,
    "first_look": first_look,
    "blind": lambda: blind(BLIND),
    "blind_inference": lambda: blind(BLIND_INFERENCE),
    "training_sources": lambda: table("training", "source"),
    "training_unanswered": lambda: unanswered("training"),
    "inference_sources": lambda: table("inference", "source"),
    "inference_metrics": lambda: table("inference", "metric", METRICS),
    "inference_unanswered": lambda: unanswered("inference"),
    "serving_unanswered": lambda: unanswered("serving", "figure"),
}

if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit("usage: python docs/refresh_published.py KIND RESULT.json")
    store(sys.argv[1], json.loads(Path(sys.argv[2]).read_text("utf-8")))
