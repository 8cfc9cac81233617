"""Figures of fixed batches: which time a row names, and what its rate counts."""

from __future__ import annotations

from hwsim.analysis.inference import InferResult
from hwsim.analysis.published.work import BatchTimes, Figure, Work, lengths
from hwsim.cost.interval import LogInterval, weighted
from hwsim.errors import InputError

Interval = tuple[float, float] | None


def fixed_figure(work: Work, times: BatchTimes) -> Figure:
    """Return the figure that a row names, with its 90 % interval.

    Raises
    ------
    InputError
        If the row names time per token and generates none.
    """
    row, result = work.row, times.result
    op, seconds, share, around = _asked(work, times)
    if not seconds:
        raise InputError("nothing is generated: osl is too short for this figure")
    low, high = _scaled(around, seconds, share) or (None, None)
    bound = result.decode.bound if op == "decode" and result.decode else result.bound
    if row.kind == "throughput":
        count = _counted(work, op)
        return Figure(
            work, op, count / seconds, count / high if high else None,
            count / low if low else None, result.fits, bound, _inside(op, result),
        )  # fmt: skip
    return Figure(work, op, seconds, low, high, result.fits, bound, _inside(op, result))


def _inside(op: str, result: InferResult) -> LogInterval | None:
    """Return the interval of a time by the errors of operators alone."""
    first = result.prefill.operator_interval if result.prefill else None
    step = result.decode.operator_interval if result.decode else None
    if op in {"forward", "prefill"} and first is not None:
        return first
    if op == "decode" and step is not None:
        return step
    prompt = result.prefill_s
    times = ((first, prompt), (step, result.latency_s - prompt))
    return weighted([(part, time) for part, time in times if part is not None])


def _asked(work: Work, times: BatchTimes) -> tuple[str, float, float | None, Interval]:
    """Return what a figure is of, its time, and the time an interval is around."""
    row, result = work.row, times.result
    intervals = result.interval_90 or {}
    if work.model.kind == "encoder":
        return "forward", times.ttft_s, result.ttft_s, intervals.get("ttft_s")
    if row.kind == "tpot" or (row.kind == "throughput" and row.phase == "decode"):
        return "decode", times.tpot_s, result.tpot_s, intervals.get("tpot_s")
    if row.kind == "ttft" or row.phase == "prefill":
        return "prefill", times.ttft_s, result.ttft_s, intervals.get("ttft_s")
    if row.phase == "decode":
        decoding = result.decode_steps * times.tpot_s
        return "decode", decoding, result.tpot_s, intervals.get("tpot_s")
    latency = intervals.get("latency_s")
    return "generate", times.latency_s, result.latency_s, latency


def _scaled(around: Interval, seconds: float, base: float | None) -> Interval:
    if around is None or not base:
        return None
    return around[0] * seconds / base, around[1] * seconds / base


def _counted(work: Work, op: str) -> float:
    """Return what a throughput counts in the time of a fixed batch."""
    row = work.row
    batch = row.size or 1.0
    prompt, output = lengths(row)
    if op == "decode":
        count = batch
    elif op in {"prefill", "forward"}:
        count = batch if row.counts == "requests" else batch * prompt
    else:
        per = {
            "requests": 1, "input": prompt, "output": output, "total": prompt + output,
        }  # fmt: skip
        count = batch * per[row.counts or "output"]
    return count / (row.num_devices or 1) if row.per_device else count
