"""Errors on the table of published serving points, which does not ship.

``hwsim validate --published serving.csv --json > RESULT.json`` and then ``python
docs/refresh_published.py serving RESULT.json`` store its errors in groups;
``docs/refresh.py`` shows them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from refresh_published import rounded, stored_kind

from hwsim.analysis.validation.metrics import summarise
from hwsim.report import format as fmt

METRICS = ("ttft", "tpot", "throughput")
TARGETS = {
    ("aggregated", "ttft"): 0.25, ("aggregated", "tpot"): 0.10,
    ("aggregated", "throughput"): 0.12, ("disaggregated", "tpot"): 0.15,
}  # fmt: skip
_NAMES = {
    "ttft": "time to first token", "tpot": "time per token", "throughput": "throughput"
}  # fmt: skip
_RECIPES = {
    "one": "one published recipe fits", "several": "several fit",
    "none": "none fits: servers assumed",
}  # fmt: skip


def groups(records: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return errors by mode, by deployment and by how sure the recipe is."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for record in records:
        mode = record["op"].removeprefix("serve ")
        own = {"modes": mode, "deployments": _deployment(record, mode)}
        if mode == "disaggregated":
            own["recipes"] = _recipe(record["assumed"])
        for kind, name in own.items():
            found.setdefault(kind, {}).setdefault(name, []).append(record)
    return {
        kind: {name: _errors(rows) for name, rows in sorted(named.items())}
        for kind, named in found.items()
    }


def _deployment(record: dict[str, Any], mode: str) -> str:
    model = record["model"].split("/")[-1]
    backend = record["source"].split(" ")[0]
    return " | ".join((model, record["device"], backend, mode))


def _recipe(assumed: str) -> str:
    if "recipe: " not in assumed:
        return "none"
    return "several" if "or, as likely" in assumed else "one"


def _errors(records: list[dict[str, Any]]) -> dict[str, Any]:
    whole = {record["row"] for record in records}
    answered = {record["row"] for record in records if not record["reason"]}
    shown: dict[str, Any] = {"rows": len(whole), "answered": len(answered)}
    for metric in METRICS:
        columns = {
            name: np.array(
                [r[name] if r[name] is not None else np.nan for r in records
                 if r["metric"] == metric], dtype=np.float64,
            )
            for name in ("predicted", "measured", "lower", "upper")
        }  # fmt: skip
        shown[metric] = rounded(summarise(**columns).to_dict())
    return shown


def totals() -> str:
    """Return all rows by mode, with what is aimed at."""
    rows = [
        "|  | Rows | Answered | Median error | Aim | Median, signed | 90th pct "
        "| In 90 % interval |",
        "| --- |" + " ---: |" * 7,
    ]
    for mode, errors in stored_kind("serving")["modes"].items():
        for metric in METRICS:
            own, aim = errors[metric], TARGETS.get((mode, metric))
            cells = [
                f"{mode}, {_NAMES[metric]}", str(errors["rows"]),
                fmt.percent(errors["answered"] / errors["rows"], 1),
                fmt.percent(own["median_ape"], 1),
                "" if aim is None else fmt.percent(aim),
                fmt.signed_percent(own["bias"], 1), fmt.percent(own["p90_ape"]),
                fmt.percent(own["coverage_90"]),
            ]  # fmt: skip
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def deployments() -> str:
    """Return errors by model, device, backend and mode."""
    head = "| Model | Device | Backend | Mode | Rows | Answered | TTFT | TPOT "
    rows = [
        head + "| Throughput | In 90 % interval |",
        "|" + " --- |" * 4 + " ---: |" * 6,
    ]
    for name, errors in stored_kind("serving")["deployments"].items():
        rows.append(f"| {name} | {_cells(errors)} |")
    return "\n".join(rows) + "\n"


def recipes() -> str:
    """Return errors of disaggregated rows by how many recipes fit."""
    rows = [
        "| Recipes | Rows | Answered | TTFT | TPOT | Throughput | In 90 % interval |",
        "| --- |" + " ---: |" * 6,
    ]
    known = stored_kind("serving")["recipes"]
    rows += [f"| {_RECIPES[n]} | {_cells(known[n])} |" for n in _RECIPES if n in known]
    return "\n".join(rows) + "\n"


def _cells(errors: dict[str, Any]) -> str:
    shown = [str(errors["rows"]), str(errors["answered"])]
    for metric in METRICS:
        own = errors[metric]
        shown.append(
            f"{fmt.percent(own['median_ape'])} ({fmt.signed_percent(own['bias'])})"
            if own["rows"]
            else "–"
        )
    held = [errors[m]["coverage_90"] for m in METRICS if errors[m]["rows"]]
    shown.append(fmt.percent(float(np.mean(held))) if held else "–")
    return " | ".join(shown)


PARTS = {
    "serving_totals": totals,
    "serving_deployments": deployments,
    "serving_recipes": recipes,
}
