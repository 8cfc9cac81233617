"""Generated parts of ``docs/accuracy.md``: errors stored in the repository.

Kernel errors come from the calibration files beside the devices, errors on
whole runs from predicting the published rows that ship. Nothing else is read.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import hwsim
from hwsim.analysis.live.fit import fit_operators
from hwsim.analysis.published.runs import ComparedRow, PublishedComparison
from hwsim.analysis.published.totals import compare_totals
from hwsim.analysis.training.knowledge import CLASSES
from hwsim.analysis.validation.microbench import microbenchmarks
from hwsim.report import format as fmt
from hwsim.specs.calibration import (
    calibration_path,
    load_calibration_file,
    load_intervals,
)
from hwsim.specs.calibration_file import CalibrationFile, Errors
from hwsim.specs.catalogs import DEVICES, load_device
from hwsim.specs.measurement.read import builtin_measurements, read_measurements

TASKS = {
    "train": "training step", "forward": "encoder pass", "prefill": "prompt pass",
    "decode": "decode step", "generate": "whole request",
}  # fmt: skip
FAMILIES = {
    "gemm": "matrix products", "attention_prefill": "prefill attention",
    "attention_decode": "decode attention", "elementwise": "elementwise, norms",
    "moe": "mixture of experts", "collective": "collectives",
}  # fmt: skip
# Why the worst rows are off, as far as we know; by the row's id.
REASONS = {
    "ft-t5-small-v100-b1": "a model of 60 M parameters is all launches; the encoder "
    "and decoder lengths are inferred",
    "ft-t5-base-a100-b1": "launch-bound; the encoder and decoder lengths are inferred",
    "ft-t5-3b-a100-b1": "the encoder and decoder lengths are inferred",
    "ft-gpt-350m-b1": "launch-bound at batch 1: the host's time per token in that "
    "release is longer than the stack file's",
    "ft-gpt-20b-tp8-b16": "small all-reduces of each token, in a release older than "
    "the measured ones",
    "ft-gpt-6.7b-b64": "kernels of 2022 at batch 64, slower than the measured ones",
    "ipex-8488c-llama-2-7b-b8": "the processor and the output length are inferred",
    "megatron-core-h100-1.7b": "recomputation is not stated and taken as off; small "
    "model on 48 devices",
    "ft-bert-t4-b1": "a T4 lowers its clock under load, batch 1",
}
WORST = 5
_UNKNOWN = "not known"


@functools.cache
def comparison() -> PublishedComparison:
    """Return the published runs beside their predictions; made once."""
    return hwsim.compare_published()


@functools.cache
def calibrations() -> tuple[CalibrationFile, ...]:
    """Return the calibrations that ship, by device."""
    found = (calibration_path(load_device(name)) for name in sorted(DEVICES))
    return tuple(load_calibration_file(path) for path in found if path is not None)


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    lines = [f"| {' | '.join(line)} |" for line in (head, rule, *rows)]
    return "\n".join(lines) + "\n"


def published_by(key: str, names: dict[str, str] | None = None) -> str:
    """Return the errors on published runs, grouped by a key of the rows."""
    whole = comparison()
    rows = []
    for name, part in [("all", whole.summary()), *whole.by(key).items()]:
        label = (names or {}).get(name, name)
        rows.append([
            label, str(int(part["rows"])), fmt.percent(part["median_ape"], 0),
            fmt.percent(part["mape"], 0), fmt.signed_percent(part["bias"], 0),
            fmt.percent(part["worst_ape"], 0),
        ])  # fmt: skip
    head = ("", "Rows", "Median error", "Mean", "Median, signed", "Worst")
    text = markdown(head, rows)
    missing = len(whole.unanswered)
    if missing:
        reasons = Counter(row.reason for row in whole.unanswered)
        text += f"\n{fmt.plural(missing, 'further row')} without an answer:\n\n"
        text += "".join(f"- {count}: {why}\n" for why, count in reasons.most_common())
    return text


def worst() -> str:
    """Return the rows that are furthest off, with the likely reason."""

    def size(row: ComparedRow) -> float:
        return abs(row.error or 0.0)

    rows = [
        [row.row.id, TASKS[row.row.task], row.row.system,
         fmt.signed_percent(row.error, 0), REASONS.get(row.row.id, _UNKNOWN)]
        for row in sorted(comparison().answered, key=size, reverse=True)[:WORST]
    ]  # fmt: skip
    return markdown(("Row", "Task", "System", "Error", "Likely reason"), rows, left=5)


def _errors(errors: Errors | None) -> list[str]:
    if errors is None:
        return ["–", "–", "–"]
    figures = (errors.median_ape, errors.mape, errors.p90_ape)
    return [fmt.percent(figure, 1) for figure in figures]


def kernels() -> str:
    """Return the held-out errors of each calibrated device and family."""
    rows = []
    for family, label in FAMILIES.items():
        for file in calibrations():
            fit = file.families.get(family)
            if fit is None:
                continue
            physics = fit.physics_held_out or fit.held_out
            rows.append([
                label, file.device, str(sum(data.rows for data in fit.data)),
                *_errors(fit.held_out), fmt.percent(physics and physics.median_ape, 1),
                fmt.percent(fit.interval.coverage, 0),
                fmt.percent(fit.interval.width, 0),
            ])  # fmt: skip
    head = ("Family", "Device", "Rows", "Median", "Mean", "90th pct",
            "Median, physics alone", "In 90 % interval", "Its width")  # fmt: skip
    return markdown(head, rows, left=2)


def groups() -> str:
    """Return held-out errors by dtype or operator."""
    rows = []
    for family, label in FAMILIES.items():
        for file in calibrations():
            fit = file.families.get(family)
            if fit is None or len(fit.by_group) < 2:
                continue
            for name, errors in fit.by_group.items():
                rows.append(
                    [label, file.device, name, str(errors.rows), *_errors(errors)]
                )
    head = ("Family", "Device", "Part", "Rows", "Median", "Mean", "90th pct")
    return markdown(head, rows, left=3)


def splits() -> str:
    """Return what a block of rows is in each family, and where rows come from."""
    rows = []
    for family, label in FAMILIES.items():
        fits = [f.families[family] for f in calibrations() if family in f.families]
        if not fits:
            continue
        blocks = ", ".join(dict.fromkeys(fit.split for fit in fits))
        sources = sorted({s for fit in fits for data in fit.data for s in data.sources})
        rows.append([label, blocks, ", ".join(sources)])
    return markdown(("Family", "Held out together", "Measured by"), rows, left=3)


def _factor(log: float) -> str:
    return f"×{math.exp(log):.2f}"


def elsewhere() -> str:
    """Return how far devices are off that the fit never saw."""
    file = load_intervals()
    rows = []
    said = {"generation": "its generation was measured", "kind": "only its kind was"}
    for origin, what in said.items():
        for family, label in FAMILIES.items():
            table = file.tables[origin].get(family)  # type: ignore[call-overload]
            if table is not None:
                every = table.regimes["every"]
                rows.append([what, label, str(every.rows), _factor(every.low),
                             _factor(every.high)])  # fmt: skip
    head = ("Device without measurements of its own", "Family", "Rows",
            "5 % of times are below", "5 % are above")  # fmt: skip
    text = markdown(head, rows, left=2) + "\n"
    text += "".join(f"- {note}\n" for note in file.notes)
    return text


def whole_runs() -> str:
    """Return what intervals of whole runs cover."""
    names = {
        "infer": "inference", "every": "all published runs",
        "serve": "services",
    }  # fmt: skip
    known = load_intervals()
    points = {f"serving points, {task}": end for task, end in known.serving.items()}
    rows = [
        [names.get(task, task), str(end.rows), str(end.sources),
         fmt.percent(end.coverage, 0), fmt.percent(end.width, 0)]
        for task, end in (known.end_to_end | points).items()
        if task != "train"
    ]  # fmt: skip
    head = ("Work", "Rows", "Sources", "In 90 % interval", "Its width")
    return markdown(head, rows)


def classes() -> str:
    """Return what intervals of training cover, by what is known, by table."""
    known = load_intervals().training
    assert known is not None
    rows = [
        [name, CLASSES[name], str(term.rows), str(term.sources),
         fmt.percent(term.coverage, 0), fmt.percent(term.width, 0)]
        for name, term in known.terms.items()
    ]  # fmt: skip
    head = ("Class", "What is known", "Rows", "Documents", "In 90 % interval",
            "Its width")  # fmt: skip
    left = [
        [table.table, str(table.rows), fmt.percent(table.coverage, 0),
         fmt.percent(table.width, 0)]
        for table in known.tables
    ]  # fmt: skip
    tables = markdown(("Table left out", *head[2:3], *head[4:]), left)
    stacks = [f"- {kind}: {', '.join(names)}" for kind, names in known.checked.items()]
    return (
        f"{markdown(head, rows, left=2)}\n{tables}\n"
        f"Stacks that {known.documents} documents or more bear out:\n\n"
        + "\n".join(stacks) + "\n"
    )  # fmt: skip


def totals() -> str:
    """Return published totals of whole training runs beside predictions."""
    rows = [
        [c.published.name, _amount(c.published.value), _amount(c.predicted),
         fmt.signed_percent(c.error, 0)]
        for c in compare_totals()
    ]  # fmt: skip
    return markdown(("Run and figure", "Published", "Predicted", "Error"), rows)


def factors() -> str:
    """Return what published totals are made of, beside predictions."""
    names = {
        "tokens_per_s": "tokens/s of a device", "device_hours": "device hours",
        "power_w": "W a device, host in it", "pue": "PUE",
    }  # fmt: skip
    rows = [
        [c.published.name, names[f.name], _amount(f.published), _amount(f.predicted),
         fmt.signed_percent(f.error, 0)]
        for c in compare_totals() for f in c.factors
    ]  # fmt: skip
    head = ("Run and figure", "Factor", "Published", "Predicted", "Error")
    return markdown(head, rows, left=2)


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def host() -> str:
    """Return held-out errors of the operators behind the live check."""
    rows = []
    by_device: dict[str, list[str]] = {}
    for path in builtin_measurements():
        if path.parent.parent.parent.name == "cpu":
            by_device.setdefault(path.parent.parent.name, []).append(str(path))
    for device, paths in by_device.items():
        spreads = fit_operators(read_measurements(paths)).spreads()
        values = {n: s for n, s in spreads.items() if "products" not in n}
        for name, spread in spreads.items():
            if name not in values:
                rows.append([device, name, str(len(spread.logs)),
                             fmt.percent(spread.median_ape, 0),
                             fmt.percent(spread.mape, 0)])  # fmt: skip
        medians = [s.median_ape for s in values.values()]
        rows.append([
            device, f"elementwise, norms, optimizer ({len(values)} operators)",
            str(sum(len(s.logs) for s in values.values())),
            fmt.percent(statistics.median(medians), 0),
            fmt.percent(statistics.fmean(s.mape for s in values.values()), 0),
        ])  # fmt: skip
    return markdown(("Processor", "Operators", "Rows", "Median", "Mean"), rows, left=2)


def micro() -> str:
    """Return errors on published microbenchmarks."""
    rows = []
    for name, found in microbenchmarks().items():
        sizes = [abs(found.error), abs(found.default_error)]
        rows.append([
            name, str(len(found.error)), str(len(found.devices)),
            *(fmt.percent(float(value), 0) for size in sizes
              for value in (statistics.median(size), size.mean())),
        ])  # fmt: skip
    head = ("Category", "Rows", "Devices", "Median, by generation", "Mean",
            "Median, default", "Mean")  # fmt: skip
    return markdown(head, rows)


def summary() -> str:
    """Return the short table for the README."""
    rows = []
    for family, label in FAMILIES.items():
        fits = [f.families[family] for f in calibrations() if family in f.families]
        held = [fit.held_out for fit in fits if fit.held_out is not None]
        if not held:
            continue
        medians = [errors.median_ape for errors in held]
        covered = [fit.interval.coverage for fit in fits]
        rows.append([
            label, str(len(fits)), str(sum(errors.rows for errors in held)),
            _range(medians), _range([errors.mape for errors in held]),
            _range(covered, 0), _range([fit.interval.width for fit in fits], 0),
        ])  # fmt: skip
    head = ("kernels never fitted", "devices", "rows", "median error", "mean",
            "in 90 % interval", "its width")  # fmt: skip
    return markdown(head, rows)


def _range(shares: Sequence[float], digits: int = 1) -> str:
    low, high = fmt.percent(min(shares), digits), fmt.percent(max(shares), digits)
    return low if low == high else f"{low} to {high}"


PARTS: dict[str, Callable[[], str]] = {
    "accuracy": summary,
    "accuracy_tasks": lambda: published_by("task", TASKS),
    "accuracy_sources": lambda: published_by("source"),
    "accuracy_worst": worst,
    "accuracy_kernels": kernels,
    "accuracy_groups": groups,
    "accuracy_splits": splits,
    "accuracy_elsewhere": elsewhere,
    "accuracy_runs": whole_runs,
    "training_classes": classes,
    "accuracy_totals": totals,
    "accuracy_factors": factors,
    "accuracy_host": host,
    "accuracy_micro": micro,
}
