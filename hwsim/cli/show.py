"""Answers as people read them in a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.markup import escape

from hwsim.analysis.inference import InferResult
from hwsim.analysis.memory_fit import MemoryFit
from hwsim.analysis.operator import OpResult
from hwsim.analysis.training.spread import PERCENTILES, StepSpread
from hwsim.analysis.training.train import TrainResult
from hwsim.analysis.training.whole_run import TrainingRun
from hwsim.cli.output import console, table
from hwsim.cost.energy import JOULES_PER_KWH
from hwsim.report import format as fmt
from hwsim.specs.assumed import labelled


def answer(result: Any, *, json: bool) -> None:
    """Print a result as tables, or as JSON."""
    if json:
        import sys

        sys.stdout.write(result.to_json() + "\n")
        return
    if isinstance(result, InferResult):
        _infer(result)
    elif isinstance(result, TrainResult):
        _train(result)
    elif isinstance(result, TrainingRun):
        _train(result.step)
        _whole_run(result)
    elif isinstance(result, OpResult):
        _op(result)


def _title(text: str) -> None:
    console().print(f"[bold]{escape(text)}[/bold]")


def _figures(rows: list[tuple[str, str, str]]) -> None:
    console().print(table(None, None, rows))


def _parts(parts: Mapping[str, float]) -> str:
    total = sum(parts.values())
    shares = [(name, value / total if total else 0.0) for name, value in parts.items()]
    return ", ".join(f"{name} {share:.0%}" for name, share in shares if share >= 0.005)


def _noted(text: str, ends: tuple[float, float] | None) -> str:
    """Add a 90 % interval to a remark."""
    if ends is None:
        return text
    low, high = (fmt.seconds(end) for end in ends)
    interval = f"90 %: {low} – {high}"
    return f"{interval}; {text}" if text else interval


def _fidelity(result: Any) -> str:
    """Say what the costs rest on, families apart where they differ."""
    by_family = result.fidelity_by_family
    if len(set(by_family.values())) < 2:
        return str(result.fidelity)
    rest: dict[str, list[str]] = {}
    for name, used in by_family.items():
        if used != result.fidelity:
            rest.setdefault(used, []).append(name)
    told = "; ".join(f"{', '.join(names)}: {used}" for used, names in rest.items())
    return f"{result.fidelity} ({told})"


def _memory(result: Any) -> list[tuple[str, str, str]]:
    sizes = {k: v for k, v in result.footprint.to_dict().items() if k != "total"}
    split = ", ".join(f"{k} {fmt.nbytes(v, 3)}" for k, v in sizes.items() if v)
    rows = [
        (fmt.nbytes(result.footprint.total), split),
        _verdict(result.memory),
    ]
    if not result.fits:  # said before anything else
        rows.reverse()
    return [("memory", *rows[0]), ("", *rows[1])]


def _ordered(
    rows: list[tuple[str, str, str]], result: Any
) -> list[tuple[str, str, str]]:
    """Put memory first where it does not suffice: then no time comes true."""
    memory = _memory(result)
    return [*rows[:-1], *memory, rows[-1]] if result.fits else [*memory, *rows]


def _verdict(memory: MemoryFit) -> tuple[str, str]:
    said, _, rest = memory.sentence().partition(": ")
    return (said if memory.fits else said.upper()), rest


def _infer(result: InferResult) -> None:
    c = result.config
    devices = f"{c.tp} x " if c.tp > 1 else ""
    _title(
        f"{result.model.name} on {devices}{labelled(result.system)}: "
        f"batch {c.batch}, {c.prompt} prompt and {c.output} output tokens, {c.dtype}"
    )
    ends = result.interval_90 or {}
    rows = [
        (
            "time to first token", fmt.seconds(result.ttft_s),
            _noted("no queueing", ends.get("ttft_s")),
        )
    ]  # fmt: skip
    if result.tpot_s:
        rate = f"{c.batch / result.tpot_s:,.1f} tokens/s while decoding"
        rate = _noted(rate, ends.get("tpot_s"))
        rows.append(("time per output token", fmt.seconds(result.tpot_s), rate))
    rows += [
        (
            "latency",
            fmt.seconds(result.latency_s),
            _noted("prompt to last token", ends.get("latency_s")),
        ),
        ("throughput", f"{result.tokens_per_s:,.1f} tokens/s", "of the whole batch"),
        ("bound by", result.bound, _parts(result.parts)),
        ("MFU", f"{result.mfu:.1%}", f"of {c.dtype} peak"),
        ("fidelity", _fidelity(result), f"stack {result.stack.id}"),
    ]
    _figures(_ordered(rows, result))


def _train(result: TrainResult) -> None:
    c = result.config
    degrees = [("tp", c.tp), ("cp", c.cp), ("pp", c.pp), ("dp", c.dp)]
    layout = " x ".join(f"{k} {v}" for k, v in degrees if v > 1) or "one device"
    if c.ep > 1:
        layout += f", ep {c.ep}"
    if c.pp > 1:
        layout += f", {c.schedule}" + (f" of {c.vpp} chunks" if c.vpp > 1 else "")
    if c.dp_shard is not None:
        layout += f", states shared by {c.dp_shard} of {c.dp}"
    if c.lora_rank:
        layout += f", LoRA of rank {c.lora_rank}"
    passes = fmt.plural(c.num_microbatches, "microbatch", "microbatches")
    _title(
        f"{result.model.name} on {c.devices} x {labelled(result.system)}: "
        f"{layout}, global batch {c.global_batch} of {c.seq} tokens "
        f"({passes} of {c.micro_batch}), {c.dtype}"
    )
    flop = fmt.quantity(result.model_flop_per_s_per_device, "FLOP/s")
    rows = [
        ("step time", fmt.seconds(result.step_s, 4),
         _noted("", (result.interval_90 or {}).get("step_s"))),
        *_spread(result.spread),
        ("throughput", f"{result.tokens_per_s_per_device:,.1f} tokens/s",
         "per device"),
        ("model rate", flop, "per device"),
        ("MFU", f"{result.mfu:.1%}", f"HFU {result.hfu:.1%}, of {c.dtype} peak"),
        ("bound by", result.bound, _parts(result.parts)),
        *_evidence(result),
        ("fidelity", _fidelity(result), f"stack {result.stack.id}"),
    ]  # fmt: skip
    _figures(_ordered(rows, result))


def _evidence(result: TrainResult) -> list[tuple[str, str, str]]:
    known = result.knowledge
    return [] if result.interval_90 is None else [("evidence", known.name, known.why)]


def _spread(spread: StepSpread | None) -> list[tuple[str, str, str]]:
    if spread is None:
        return []
    ends = ", ".join(
        f"p{p} {fmt.seconds(spread.percentile(p), 4)}" for p in PERCENTILES
    )
    played = f"{ends}; {fmt.plural(len(spread.times), 'step')} played"
    return [("disturbed steps", fmt.seconds(spread.mean, 4), played)]


def _whole_run(run: TrainingRun) -> None:
    d = run.to_dict()
    _title(f"The whole run: {fmt.count(run.config.tokens)} tokens, {run.steps:,} steps")
    ends = d["wall_percentiles_s"]
    spread = f"p10 {fmt.seconds(ends['p10'])}, p90 {fmt.seconds(ends['p90'])}"
    failures = (
        f"{d['failures']:.1f} failures, one every {fmt.seconds(run.mtbf_s)}; "
        f"checkpoint every {fmt.seconds(run.checkpoint_interval_s)}; "
        f"{fmt.plural(run.config.spares, 'spare node')}"
    )
    cost = "give --price" if run.cost_usd is None else f"USD {run.cost_usd:,.0f}"
    rows = [
        ("wall time", fmt.seconds(run.mean_wall_s), spread),
        ("effective", f"{run.goodput:.1%}",
         f"{run.expected_goodput:.1%} with a spare always at hand; {failures}"),
        ("device hours", f"{run.device_hours:,.0f}", cost),
        *_energy(run),
    ]  # fmt: skip
    _figures(rows)


def _energy(run: TrainingRun) -> list[tuple[str, str, str]]:
    joules, carbon = run.energy_j, run.carbon_kg
    if joules is None or carbon is None:
        told = f"{run.step.system.device.id} quotes no power; --set device.power.tdp=…"
        return [("energy", fmt.NONE, told)]
    each = (
        f"{run.power_per_device_w:.0f} W per device, {run.host_power_w:.0f} W of its "
        f"host, PUE {run.config.pue:g}"
    )
    return [
        ("energy", f"{joules / JOULES_PER_KWH / 1e3:,.4g} MWh", each),
        ("carbon", f"{carbon / 1e3:,.4g} t",
         f"CO2 equivalent at {run.config.grid:g} g/kWh"),
    ]  # fmt: skip


def _op(result: OpResult) -> None:
    _title(f"{result.op.name} in {result.op.dtype} on {labelled(result.system)}")
    time = result.time_s
    rows = [
        ("time", fmt.seconds(time, 4),
         _noted(f"bound by {result.bound}",
                (result.interval_90 or {}).get("time_s"))),
        ("work", fmt.quantity(result.flop, "FLOP"),
         fmt.quantity(result.flop / time, "FLOP/s")),
        ("traffic", fmt.nbytes(result.nbytes),
         fmt.quantity(result.nbytes / time, "B/s")),
        ("split", "", _parts(result.breakdown)),
        ("fidelity", result.fidelity, ""),
    ]  # fmt: skip
    _figures(rows)
