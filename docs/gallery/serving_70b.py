"""Llama 3.1 70B at a service level: H100, H200, B200, MI300X or TPU v5p?"""

from __future__ import annotations

from typing import Any

from words import three

import hwsim
from hwsim.errors import HwsimError

MODEL = "llama-3.1-70b"
SYSTEMS = {
    "H100": "dgx-h100", "H200": "dgx-h200", "B200": "dgx-b200",
    "MI300X": "mi300x-platform", "TPU v5p": "tpu-v5p-16",
}  # fmt: skip
DEVICES, REQUESTS = 8, 2000
SLO = {"ttft": 2.0, "tpot": 0.05}
WANTED = 0.99
LAYOUTS = (2, 4, 8)  # tensor-parallel degrees; replicas share the eight devices
STEP = 1.06  # of the search for the highest rate


def probes() -> dict[str, Any]:
    """Return one request alone on each system."""
    return {
        f"{name}, one request": hwsim.infer(
            MODEL, system, tp=DEVICES, batch=1, prompt=1000, output=250, dtype="bf16",
            engine="closed_form",
        )
        for name, system in SYSTEMS.items()
    }  # fmt: skip


def study(alone: dict[str, Any]) -> hwsim.Study:
    """Return the study."""
    served = {name: _best(system) for name, system in SYSTEMS.items()}
    rate = {name: s.run.rate for name, s in served.items()}
    ends = {name: _ends(s) for name, s in served.items()}
    most = max(rate, key=lambda name: rate[name])
    usd = {name: _usd(s) for name, s in served.items()}
    cheap = min((n for n in usd if usd[n]), key=lambda n: usd[n] or 0.0)
    answer = (
        f"Eight B200 carry the most, {three(rate[most])} requests/s (90 % interval "
        f"{three(ends[most][0])} to {three(ends[most][1])}) against "
        f"{three(rate['H100'])} of eight H100 ({three(ends['H100'][0])} to "
        f"{three(ends['H100'][1])}); of those with a list price here, {cheap} is the "
        f"cheapest at USD {three(usd[cheap] or 0.0)} per million output tokens."
    ).replace("Eight B200", f"Eight {most}", 1)
    return hwsim.Study(
        title="Serving Llama 3.1 70B: H100, H200, B200, MI300X or TPU v5p?",
        question=(
            "How many requests per second can eight devices of each kind answer with "
            "Llama 3.1 70B in bf16, if 99 % must have their first token within 2 s and "
            "a token every 50 ms, and what does that cost?"
        ),
        answer=answer,
        results={**alone, **{f"{n}, at its limit": s for n, s in served.items()}},
        sections=(
            _capacity(served, rate, ends, most, usd),
            _single(alone),
            hwsim.StudySection(
                "What to keep in mind",
                text=(
                    "Requests come at random (Poisson) with 1,000 prompt and 250 "
                    "output tokens in the mean, log-normal; the engine is vLLM V1 "
                    "everywhere, which on TPU is an assumption. bf16 only: fp8 would "
                    "raise all that have it. H100, H200 and B200 rest on "
                    "measurements of their kernels; MI300X and TPU v5p rest on their "
                    "datasheets and other devices, and their intervals are wider. "
                    "Intervals are those of a step's time, as capacity goes with it.",
                    "Prices are list prices on demand, recalled, and go out of date "
                    "first. The break-even price is what a device may cost so that it "
                    "costs as much per token as H100.",
                ),
            ),
        ),
    )


def _served(system: str, tp: int, rate: float) -> Any:
    return hwsim.serve(
        MODEL, system, tp=tp, replicas=DEVICES // tp, rate=rate, requests=REQUESTS,
        slo=SLO, dtype="bf16",
    )  # fmt: skip


def _meets(result: Any) -> bool:
    good = result.goodput_rps >= WANTED * result.requests_per_s
    return bool(good and result.stable is not False)


def _best(system: str) -> Any:
    """Return the service at the highest rate that meets the SLO, any layout."""
    best = None
    for tp in LAYOUTS:
        rate, found = 1.0, None
        try:
            while _meets(result := _served(system, tp, rate)):
                found, rate = result, rate * 2.0
        except HwsimError:
            continue
        low = rate / 2.0
        while found is not None and rate / low > STEP:
            middle = (low * rate) ** 0.5
            result = _served(system, tp, middle)
            if _meets(result):
                found, low = result, middle
            else:
                rate = middle
        if found is not None and (best is None or found.run.rate > best.run.rate):
            best = found
    if best is None:
        raise SystemExit(f"{system} never meets the SLO")
    return best


def _ends(result: Any) -> tuple[float, float]:
    low, high = result.details()["step_interval_90"]
    return result.run.rate / high, result.run.rate / low


def _price(result: Any) -> float | None:
    from hwsim.specs.economics import load_economics

    return load_economics("reference").prices.get(result.system.device.id)


def _tokens(result: Any) -> float:
    """Return output tokens per second for long, without the end of the run."""
    return float(result.run.rate * result.run.outputs.mean())


def _usd(result: Any) -> float | None:
    price = _price(result)
    return None if price is None else price * DEVICES / 3600 / _tokens(result) * 1e6


def _capacity(
    served: dict[str, Any], rate: dict[str, float], ends: dict[str, Any], most: str,
    usd: dict[str, float | None],
) -> hwsim.StudySection:  # fmt: skip
    par = usd["H100"] or 0.0
    rows = tuple(
        (
            name, f"{s.config.replicas} x {s.config.tp} devices",
            (rate[name], *ends[name]), _tokens(s), s.ttft_s["p99"],
            s.tpot_s["p99"], s.energy_j_per_token, usd[name],
            par * _tokens(s) * 3600 / 1e6 / DEVICES,
        )
        for name, s in served.items()
    )  # fmt: skip
    return hwsim.StudySection(
        "Capacity of eight devices at the service level",
        text=(
            "Each was tried as one replica of eight, two of four and four of two "
            "devices; the best layout is shown, at the highest rate at which 99 % of "
            "2,000 requests meet the limits and queues do not grow (found to 6 %).",
        ),
        bars=(
            hwsim.StudyBars(
                "Requests per second that eight devices carry", "requests/s", "",
                rate, ends, best=most,
            ),
        ),
        tables=(
            hwsim.StudyTable(
                "At the highest rate within the limits",
                (
                    ("Device", None), ("Replicas", None), ("Requests/s", ""),
                    ("Output tokens/s", ""), ("First token, 99 %", "s"),
                    ("Per token, 99 %", "s"), ("Energy per token", "J"),
                    ("Rent per million tokens", "USD"),
                    ("Break-even price per device and hour", "USD"),
                ),
                rows,
            ),
        ),
    )  # fmt: skip


def _single(alone: dict[str, Any]) -> hwsim.StudySection:
    rows = tuple(
        (
            name.partition(",")[0], (r.ttft_s, *r.interval_90["ttft_s"]),
            (r.tpot_s, *r.interval_90["tpot_s"]), r.bound, r.fidelity,
        )
        for name, r in alone.items()
    )  # fmt: skip
    return hwsim.StudySection(
        "One request alone",
        text=("1,000 prompt and 250 output tokens on all eight devices, no queue.",),
        tables=(
            hwsim.StudyTable(
                "Latency of one request",
                (
                    ("Device", None), ("First token", "s"), ("Per output token", "s"),
                    ("Mostly", None), ("Basis", None),
                ),
                rows,
            ),
        ),
    )  # fmt: skip
