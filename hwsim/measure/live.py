"""The live check's measured half: real steps of a NumPy Transformer on this host.

Nothing here predicts. Each result carries its exact configuration and the
operators of the step, so that a prediction can be held against it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hwsim.errors import InputError
from hwsim.measure import host
from hwsim.measure.cuda.cases import Skip
from hwsim.measure.cuda.runner import quartiles
from hwsim.measure.live_model import LiveModel
from hwsim.measure.pool import WorkerPool

Work = Literal["prefill", "decode", "train"]
BUDGET = 90.0
EXPECTED = 1.5  # of one case: start, warm-up, samples. [s]
MODELS = {
    model.name: model
    for model in (
        LiveModel("nano", layers=2, hidden=128, heads=4, ffn=512, vocab=1024),
        LiveModel("micro", layers=4, hidden=256, heads=4, ffn=1024, vocab=2048),
        LiveModel("mini", layers=6, hidden=384, heads=6, ffn=1536, vocab=4096),
        LiveModel("small", layers=6, hidden=512, heads=8, ffn=2048, vocab=8192),
    )
}
STEPS: tuple[tuple[Work, int, int], ...] = (  # work, batch, tokens (context)
    ("prefill", 1, 256), ("decode", 8, 512), ("train", 2, 128),
    ("prefill", 4, 128), ("decode", 1, 256),
)  # fmt: skip


@dataclass(frozen=True)
class LiveCase:
    """One step to time.

    Attributes
    ----------
    work : str
        ``prefill`` (logits of the last prompt token only), ``decode`` (one
        token over a cache), ``train`` (one AdamW step, no recomputation).
    tokens : int
        Prompt or training tokens of each sequence; for decode the tokens
        attended to, the new one included.
    threads : int
        BLAS threads; the rest of NumPy runs on one.
    """

    model: LiveModel
    work: Work
    batch: int
    tokens: int
    threads: int
    dtype: str = "fp32"


@dataclass(frozen=True)
class LiveResult:
    """A measured step.

    Attributes
    ----------
    time, time_p25, time_p75 : float
        Median and quartiles over the samples; of processor time where one
        thread does it all, of wall time otherwise. [s]
    disturbed : float
        Share of samples that other processes disturbed (left out where enough
        others remain).
    operators : tuple of dict
        What the step runs: ``op`` as measurement tables name it, its shape
        columns and ``count``.
    load : float
        Load average of the host when it was measured.
    """

    case: LiveCase
    time: float
    time_p25: float
    time_p75: float
    samples: int
    disturbed: float
    operators: tuple[dict[str, Any], ...]
    load: float


def live_cases(
    models: Sequence[str] | None = None, threads: Sequence[int] | None = None
) -> list[LiveCase]:
    """Return the cases of the live check, few threads and varied ones first.

    Parameters
    ----------
    models : sequence of str, optional
        Names in ``MODELS``; all of them otherwise.
    threads : sequence of int, optional
        1 and all cores otherwise.

    Raises
    ------
    InputError
        If a model is unknown.
    """
    names = list(MODELS) if models is None else list(models)
    unknown = [name for name in names if name not in MODELS]
    if unknown:
        raise InputError(
            f"unknown live model {unknown[0]!r}: known: {', '.join(MODELS)}"
        )
    counts = sorted({1, host.available_cores()}) if threads is None else list(threads)
    return [
        LiveCase(MODELS[name], work, batch, tokens, count)
        for count in counts
        for work, batch, tokens in STEPS
        for name in names
    ]


def measure_live(
    cases: Sequence[LiveCase] | None = None,
    *,
    budget: float = BUDGET,
    report: Callable[[LiveResult], None] | None = None,
) -> list[LiveResult]:
    """Time real steps of a small Transformer on this host.

    Parameters
    ----------
    cases : sequence of LiveCase, optional
        Those of :func:`live_cases` otherwise.
    budget : float
        Wall time; cases that no longer fit are left out. [s]
    report : callable, optional
        Told about each result.

    Returns
    -------
    list of LiveResult
        In the order of the cases.
    """
    start = time.monotonic()
    results: list[LiveResult] = []
    expected = EXPECTED
    with WorkerPool(host.last_cache_bytes()) as pool:
        for case in live_cases() if cases is None else cases:
            left = budget - (time.monotonic() - start)
            if left < expected:
                break
            begun = time.monotonic()
            results.append(_measured(pool, case, left))
            expected = max(expected, time.monotonic() - begun)
            if report is not None:
                report(results[-1])
    return results


def _measured(pool: WorkerPool, case: LiveCase, left: float) -> LiveResult:
    order = {
        "live": {"model": case.model.to_dict(), "work": case.work, "batch": case.batch,
                 "tokens": case.tokens, "threads": case.threads},
        "left": left,
    }  # fmt: skip
    said = pool.ask(case.threads, order)
    if "skip" in said:
        raise Skip(str(said["skip"]))
    low, middle, high = quartiles(said["samples"])
    load = host.state()["load"]
    return LiveResult(
        case, middle, low, high, len(said["samples"]), float(said["disturbed"]),
        tuple(said["operators"]), float(load[0]) if load else 0.0,
    )  # fmt: skip
