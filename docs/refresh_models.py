"""Generated parts of ``docs/models``: parameters, their sources, measured errors.

Parameters and their meaning come from the types and the generation files,
errors from the calibrations beside the devices and from the published rows.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import hwsim
from hwsim.analysis.published.runs import published_result
from hwsim.analysis.published.totals import compare_totals
from hwsim.analysis.validation.microbench import microbenchmarks
from hwsim.report import format as fmt
from hwsim.specs.base import Spec, iter_figures
from hwsim.specs.calibration import GENERATIONS, Calibration
from hwsim.specs.calibration_file import Errors
from hwsim.specs.economics import load_economics
from hwsim.specs.engine import EngineSpec, load_engine
from hwsim.specs.load import load_spec
from hwsim.specs.parameters.attention import DecodeParameters, PrefillParameters
from hwsim.specs.parameters.collective import (
    CollectiveParameters,
    DirectParameters,
    Protocol,
)
from hwsim.specs.parameters.elementwise import ElementwiseParameters
from hwsim.specs.parameters.matmul import (
    BlockedParameters,
    MatmulParameters,
    SystolicParameters,
    TiledParameters,
)
from hwsim.specs.parameters.moe import MoeKernel
from hwsim.units import format_quantity

GPU = ("gpu", "ampere", "ada", "hopper", "blackwell")
CPU = ("cpu", "x86-avx2", "x86-avx512", "x86-amx", "arm-neon")
TPU = ("tpu", "tpu-v4", "tpu-v5", "tpu-v6", "tpu-v7")
FORMS = {"tiled", "tiled_narrow", "tiled_block", "systolic", "blocked"}
_FIELD = re.compile(r"^(\w[\w, ]*?) : .*$")
_UNIT = re.compile(r"\s*\[([^\]]+)\]\s*$")


class Block(NamedTuple):
    """One table of parameters: a class and where its values stand."""

    kind: type[Spec]
    path: tuple[str, ...]
    generations: Sequence[str]
    title: str


BLOCKS: dict[str, tuple[Block, ...]] = {
    "matmul": (
        Block(MatmulParameters, ("matmul",), GPU, "Every product on a GPU"),
        Block(TiledParameters, ("matmul", "tiled"), GPU, "Tiles, two bytes and more"),
        Block(TiledParameters, ("matmul", "tiled_narrow"), GPU, "Tiles, one byte"),
        Block(TiledParameters, ("matmul", "tiled_block"), GPU, "Scales per block"),
    ),
    "systolic": (
        Block(MatmulParameters, ("matmul",), TPU, "Every product on a TPU"),
        Block(SystolicParameters, ("matmul", "systolic"), TPU, "Systolic arrays"),
    ),
    "cpu": (
        Block(MatmulParameters, ("matmul",), CPU, "Every product on a CPU"),
        Block(BlockedParameters, ("matmul", "blocked"), CPU, "Caches and cores"),
    ),
    "elementwise": (
        Block(ElementwiseParameters, ("elementwise",), (*GPU, "cpu", "tpu"), "All"),
    ),
    "prefill": (
        Block(PrefillParameters, ("attention", "prefill"), (*GPU, "cpu", "tpu"), "All"),
    ),
    "decode": (
        Block(DecodeParameters, ("attention", "decode"), (*GPU, "cpu", "tpu"), "All"),
    ),
    "moe": (
        Block(MoeKernel, ("moe", "kernels", "wide"), GPU, "Weights of two bytes"),
        Block(MoeKernel, ("moe", "kernels", "narrow"), GPU, "Narrow weights"),
    ),
    "collective": (
        Block(CollectiveParameters, ("collective",), (*GPU, "cpu", "tpu"), "Library"),
        *(
            Block(Protocol, ("collective", "protocols", name), GPU, f"Protocol {name}")
            for name in ("low_latency", "medium", "bulk")
        ),
        Block(DirectParameters, ("collective", "direct"), GPU, "Kernels of frameworks"),
    ),
}
FAMILIES = {
    "matmul": ("gemm",), "cpu": ("gemm",), "prefill": ("attention_prefill",),
    "decode": ("attention_decode",), "elementwise": ("elementwise",), "moe": ("moe",),
    "collective": ("collective",),
}  # fmt: skip
MICRO = {
    "matmul": ("products, 16 bit", "products, fp8"), "collective": ("collectives",),
    "elementwise": ("memory streams", "cache reads", "host link"),
}  # fmt: skip


def table(head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """Return a Markdown table; columns after the first ``left`` hold numbers."""
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    lines = [f"| {' | '.join(line)} |" for line in (head, rule, *rows)]
    return "\n".join(lines) + "\n"


def meanings(kind: type) -> dict[str, str]:
    """Return what each attribute of a class is, from its docstring.

    Examples
    --------
    >>> meanings(SystolicParameters)["load_overlap"][:38]
    'Share of loading the next stationary t'
    """
    found: dict[str, str] = {}
    names: list[str] = []
    for line in inspect.getdoc(kind).partition("Attributes\n")[2].splitlines()[1:]:
        match = _FIELD.match(line)
        if match:
            names = [name.strip() for name in match[1].split(",")]
            found |= dict.fromkeys(names, "")
        elif line.startswith(" ") and names:
            for name in names:
                found[name] = f"{found[name]} {line.strip()}".strip()
        elif line.strip():
            names = []
    plain = {name: _UNIT.sub("", text) for name, text in found.items()}
    return {name: text.replace("``", "`").replace("|", "\\|")
            for name, text in plain.items()}  # fmt: skip


def _at(calibration: Calibration, path: Sequence[str]) -> Any:
    value: Any = calibration
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else getattr(value, name)
        if value is None:
            return None
    return value


def _text(value: Any, unit: str) -> str:
    if value is None:
        return fmt.NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return _shared(value, unit)
    if isinstance(value, tuple):
        return f"{len(value)} kinds" if len(value) > 4 else ", ".join(map(str, value))
    if isinstance(value, int | float):
        return format_quantity(value, unit) if unit else f"{value:.4g}"
    return str(value)


def _shared(values: Mapping[str, Any], unit: str) -> str:
    """Return a table in one cell; names of equal values stand together."""
    by_text: dict[str, list[str]] = {}
    for name, value in values.items():
        by_text.setdefault(_text(value, unit), []).append(name)
    return "; ".join(f"{', '.join(names)}: {text}" for text, names in by_text.items())


def _units(spec: Spec) -> dict[str, str]:
    return {
        path.partition(".")[0]: dimension.unit
        for path, _, dimension in iter_figures(spec)
        if dimension is not None
    }


def _fields(kind: type[Spec]) -> list[str]:
    apart = FORMS | {"protocols", "direct", "schema_version"}
    return [field for field in kind.model_fields if field not in apart]


def meaning(kinds: Iterable[type[Spec]]) -> str:
    """Return one table of what the parameters of some classes are."""
    rows = [
        [f"`{field}`", meanings(kind).get(field, "").rstrip(".")]
        for kind in dict.fromkeys(kinds)
        for field in _fields(kind)
    ]
    return table(("Parameter", "What it is"), rows, left=2)


def block(part: Block) -> str:
    """Return the values of one block's parameters, a column per generation."""
    found = {
        name: _at(load_spec(GENERATIONS, Calibration, name), part.path)
        for name in part.generations
    }
    known = {name: spec for name, spec in found.items() if spec is not None}
    rows = []
    for field in _fields(part.kind):
        values = [
            _text(getattr(spec, field), _units(spec).get(field, ""))
            for spec in known.values()
        ]
        rows.append([f"`{field}`", *values])
    head = (f"`{'.'.join(part.path)}`", *known)
    return f"{part.title}:\n\n{table(head, rows)}"


def parameters(name: str) -> str:
    """Return what a model's parameters are, their values, and where these are from."""
    parts = BLOCKS[name]
    values = "\n".join(block(part) for part in parts)
    return (
        f"{meaning(part.kind for part in parts)}\n{values}\n"
        f"Sources of these values:\n\n{sources(parts)}"
    )


def sources(parts: Iterable[Block]) -> str:
    """Return the sources of a model's parameters, one a line."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for part in parts:
        root = ".".join(part.path[:2] if part.path[0] == "attention" else part.path[:1])
        for name in part.generations:
            for source in load_spec(GENERATIONS, Calibration, name).sources:
                if not any(_about(cover, root) for cover in source.covers):
                    continue
                key = (source.kind, source.title, source.url or "")
                at = found.setdefault(key, [])
                if name not in at:
                    at.append(name)
    lines = []
    for (kind, title, url), names in found.items():
        link = f"[{title}]({url})" if url else title
        lines.append(f"- *{kind}* ({', '.join(names)}): {link}")
    return "\n".join(lines) + "\n"


def _about(cover: str, root: str) -> bool:
    return cover == "*" or cover.startswith(root) or root.startswith(f"{cover}.")


def _errors(found: Errors | None) -> list[str]:
    if found is None:
        return [fmt.NONE] * 3
    figures = (found.median_ape, found.mape, found.p90_ape)
    return [fmt.percent(figure, 1) for figure in figures]


def errors(name: str, kinds: Sequence[str] = ()) -> str:
    """Return the held-out errors of a model on every calibrated device."""
    from refresh_accuracy import calibrations

    rows = []
    for family in FAMILIES[name]:
        for file in calibrations():
            fit = file.families.get(family)
            device = hwsim.load_device(file.device)
            if fit is None or (kinds and device.kind not in kinds):
                continue
            physics = fit.physics_held_out or fit.held_out
            rows.append([
                file.device, file.date.isoformat(), str(sum(d.rows for d in fit.data)),
                *_errors(fit.held_out), fmt.percent(physics and physics.median_ape, 1),
                fmt.percent(fit.interval.coverage, 0),
                fmt.percent(fit.interval.width, 0),
            ])  # fmt: skip
    head = ("Device", "Fitted on", "Rows", "Median", "Mean", "90th pct",
            "Median, physics alone", "In 90 % interval", "Its width")  # fmt: skip
    text = table(head, rows, left=2) if rows else "No device was calibrated.\n"
    return text + micro(MICRO.get(name, ()))


def micro(names: Sequence[str]) -> str:
    """Return errors on published microbenchmarks, none of which was fitted."""
    found = microbenchmarks()
    rows = []
    for name in names:
        if name in found:
            sizes = abs(found[name].error)
            rows.append([
                name, str(len(sizes)), str(len(found[name].devices)),
                fmt.percent(_median(sizes), 0), fmt.percent(float(sizes.mean()), 0),
            ])  # fmt: skip
    if not rows:
        return ""
    head = ("Published microbenchmarks", "Rows", "Devices", "Median", "Mean")
    return "\n" + table(head, rows)


def _median(values: Any) -> float:
    ordered = sorted(float(value) for value in values)
    middle = len(ordered) // 2
    return (ordered[middle] + ordered[~middle]) / 2


def runs_by(rows: Callable[[Any], str], task: str) -> str:
    """Return errors on published runs of a task, grouped by a key of the row."""
    from refresh_accuracy import comparison

    groups: dict[str, list[float]] = {}
    for row in comparison().answered:
        if row.row.task == task and row.error is not None:
            groups.setdefault(rows(row.row), []).append(row.error)
    lines = [
        [name, str(len(found)), fmt.percent(_median(map(abs, found)), 0),
         fmt.percent(sum(map(abs, found)) / len(found), 0),
         fmt.signed_percent(_median(found), 0)]
        for name, found in sorted(groups.items())
    ]  # fmt: skip
    head = ("Published runs", "Rows", "Median error", "Mean", "Median, signed")
    return table(head, lines)


def _stages(row: Any) -> str:
    pp = int(getattr(row, "pp", 1) or 1)
    return "pipelines" if pp > 1 else "one stage"


def totals(*metrics: str) -> str:
    """Return published totals of whole runs of some metrics, and predictions."""
    rows = [
        [c.published.name, _amount(c.published.value), _amount(c.predicted),
         fmt.signed_percent(c.error, 0), c.published.sources[0].title]
        for c in compare_totals() if c.published.metric in metrics
    ]  # fmt: skip
    head = ("Run and figure", "Published", "Predicted", "Error", "Source")
    lines = table(head[:4], [row[:4] for row in rows])
    return lines + "\n" + "".join(f"- {row[0]}: {row[4]}\n" for row in rows)


def memory() -> str:
    """Return whether published runs, which all fitted, are predicted to fit."""
    from refresh_accuracy import TASKS, comparison

    groups: dict[str, list[tuple[str, float]]] = {}
    for found in comparison().answered:
        row = found.row
        if row.task == "train" and not row.micro_batch:
            continue  # what fits was chosen for it
        fit = published_result(row, engine="closed_form").memory
        share = fit.needed / fit.usable
        groups.setdefault(TASKS[row.task], []).append((row.id, share))
    rows = [
        [task, str(len(shares)), str(sum(share <= 1 for _, share in shares)),
         fmt.percent(_median(share for _, share in shares), 0),
         ", ".join(f"{name} ({fmt.percent(share, 0)})"
                   for name, share in shares if share > 1) or fmt.NONE]
        for task, shares in groups.items()
    ]  # fmt: skip
    head = ("Published runs", "Rows", "Predicted to fit", "Median of memory used",
            "Not predicted to fit")  # fmt: skip
    return table(head, rows) + "\n" + peaks()


def peaks() -> str:
    """Return published peaks of memory beside what is predicted."""
    from hwsim.analysis.published.peak import GIB, peak_memories

    rows, errors = [], []
    for peak in peak_memories():
        run = peak.run
        words = f"{run.model}, {run.micro_batch} × {run.seq_len:,} tokens"
        degrees = [
            f"{name} {size}" for name in ("tp", "pp", "vpp", "cp")
            if (size := getattr(run, name) or 1) > 1
        ]  # fmt: skip
        lora = f", LoRA {run.lora_rank}" if run.lora_rank else ""
        source = re.sub(r"^github \S+/(\S+) .*$", r"\1", run.source).split(" (")[0]
        errors.append(peak.relative_error)
        rows.append([
            source, words + lora, run.dtype, run.stack,
            ", ".join([f"{run.num_devices} devices", *degrees]),
            f"{peak.published / GIB:.1f}", f"{peak.footprint.total / GIB:.1f}",
            fmt.signed_percent(peak.relative_error, 0),
        ])  # fmt: skip
    head = ("Source", "Run", "Dtype", "Stack", "On", "Measured, GiB",
            "Predicted, GiB", "Error")  # fmt: skip
    median = _median(map(abs, errors))
    mean = sum(map(abs, errors)) / len(errors)
    told = f"{len(errors)} runs: {fmt.percent(median, 0)} in the median, "
    return table(head, rows) + f"\n{told}{fmt.percent(mean, 0)} in the mean.\n"


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def serving() -> str:
    """Return errors on tables of published inference, stored, by figure and work."""
    from refresh_published import METRICS
    from refresh_published import table as stored

    works = {"serve": "services under load", "generate": "batches of requests",
             "decode": "decode steps", "prefill": "prompts",
             "forward": "encoder passes"}  # fmt: skip
    return (
        stored("inference", "op", works) + "\n" + stored("inference", "metric", METRICS)
    )


def engine() -> str:
    """Return the keys of a serving engine, what they are, and two engines' values."""
    said = meanings(EngineSpec)
    loaded = [load_engine(name) for name in ("vllm-v1", "sglang", "tensorrt-llm")]
    rows = []
    for key, text in said.items():
        values = [_text(getattr(e, key), _units(e).get(key, "")) for e in loaded]
        rows.append([f"`{key}`", text.rstrip("."), *values])
    head = ("Key", "What it is", *(e.id for e in loaded))
    return table(head, rows, left=2)


def economics() -> str:
    """Return the reference figures of power, energy, failures and checkpoints."""
    reference = load_economics()
    rows = []
    for path, value, dimension in iter_figures(reference):
        if path.startswith(("prices.", "grids.")):
            continue
        source = reference.source_of(path)
        unit = dimension.unit if dimension else ""
        kind, title = (source.kind, source.title) if source else ("assumed", "")
        rows.append([f"`{path}`", _text(value, unit), kind, title])
    return table(("Figure", "Value", "Kind", "Source"), rows, left=4)


PARTS: dict[str, Callable[[], str]] = {
    **{f"parameters_{name}": (lambda name=name: parameters(name)) for name in BLOCKS},
    "errors_matmul": lambda: errors("matmul", ("gpu",)),
    "errors_cpu": lambda: errors("cpu", ("cpu",)),
    **{f"errors_{name}": (lambda name=name: errors(name))
       for name in ("elementwise", "prefill", "decode", "moe", "collective")},
    "errors_pipelines": lambda: runs_by(_stages, "train"),
    "errors_energy": lambda: totals("energy_mwh"),
    "errors_reliability": lambda: totals("goodput", "interruptions", "device_hours"),
    "errors_memory": memory,
    "errors_serving": serving,
    "engine_keys": engine,
    "economics_figures": economics,
}  # fmt: skip
