"""Ten billion parameters on 32 nodes of A100: pipelining, int8, pruning."""

from __future__ import annotations

from typing import Any

from words import DAY, scaled, span, three

import hwsim

BASE, SYSTEM, DEVICE = "gpt-3-6.7b", "dgx-a100-80gb-hdr-32", "a100-80gb-sxm"
MODEL = ("model.layers=49",)  # 49 layers of 4,096: 10.1 billion parameters
TOKENS, GPUS = 200e9, 256
STEP: dict[str, Any] = {"global_batch": 512, "seq": 2048, "dtype": "bf16"}
SERVED: dict[str, Any] = {"prompt": 512, "output": 128, "dtype": "bf16"}
PRUNED = ("model.ffn=8192",)  # half the feed-forward: a third of all weights
VARIANTS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "bf16": ((), {}),
    "int8 weights": ((), {"weight_dtype": "int8"}),
    "int8 weights and arithmetic": ((), {"dtype": "int8"}),
    "pruned, bf16": (PRUNED, {}),
    "pruned, int8 weights": (PRUNED, {"weight_dtype": "int8"}),
    "pruned, int8 throughout": (PRUNED, {"dtype": "int8"}),
}
PIPELINES = (1, 2, 4, 8)
BATCHES = (1, 64)


def probes() -> dict[str, Any]:
    """Return one device's answers in every variant, alone and in a batch."""
    return {
        f"{name}, batch {batch}": hwsim.infer(
            BASE, DEVICE, batch=batch, engine="closed_form",
            overrides=(*MODEL, *changes), **{**SERVED, **options},
        )
        for name, (changes, options) in VARIANTS.items()
        for batch in BATCHES
    }  # fmt: skip


def study(served: dict[str, Any]) -> hwsim.Study:
    """Return the study."""
    plans = {
        f"{pp} pipeline stage{'s' if pp > 1 else ''}": hwsim.plan_train(
            BASE, SYSTEM, devices=GPUS, pp=pp, simulate=1, overrides=MODEL, **STEP
        )
        for pp in PIPELINES
    }
    steps = {name: plan.best for name, plan in plans.items()}
    days = {
        name: TOKENS / (STEP["global_batch"] * STEP["seq"]) * step.step_s / DAY
        for name, step in steps.items()
    }
    ends = {n: scaled(s.interval_90["step_s"], days[n] / s.step_s)
            for n, s in steps.items()}  # fmt: skip
    best = min(days, key=lambda name: days[name])
    base, quick = (served[f"{n}, batch 1"] for n in ("bf16", "int8 weights"))
    small = served["pruned, int8 weights, batch 1"]
    full = served["bf16, batch 64"]
    dense = served["pruned, int8 throughout, batch 64"]
    answer = (
        f"Training takes {three(days[best])} days (90 % interval "
        f"{span(ends[best], three)}) and is fastest with {best}, as the model fits "
        f"without more; when serving, int8 weights write a token "
        f"{three(base.tpot_s / quick.tpot_s)} times as fast, with half the "
        f"feed-forward pruned {three(base.tpot_s / small.tpot_s)} times, and a full "
        "batch in int8 throughout gives "
        f"{three(dense.tokens_per_s / full.tokens_per_s)} times the tokens."
    )
    return hwsim.Study(
        title="Ten billion parameters on 32 nodes of 8 A100",
        question=(
            "What do pipelining, int8 and pruning each buy for a 10-billion-parameter "
            "Transformer on 32 nodes of 8 A100 80 GB?"
        ),
        answer=answer,
        results={
            **{f"training, {n}": s for n, s in steps.items()}, **served,
        },
        sections=(_training(steps, days, ends, best), _serving(served)),
    )  # fmt: skip


def _training(
    steps: dict[str, Any], days: dict[str, float], ends: dict[str, Any], best: str
) -> hwsim.StudySection:
    rows = tuple(
        (
            name, (days[name], *ends[name]), s.step_s, s.mfu, s.bubble_fraction,
            f"tp {s.config.tp}, dp {s.config.dp}, micro-batch {s.config.micro_batch}, "
            f"ZeRO {s.config.zero_stage}, recompute {s.config.recompute}",
            s.footprint.total,
        )
        for name, s in steps.items()
    )  # fmt: skip
    return hwsim.StudySection(
        "Training: pipelining",
        text=(
            "200 billion tokens in bf16 with AdamW, 512 sequences of 2,048 tokens a "
            "step. For each number of pipeline stages the best of all layouts was "
            "searched. Days are of computing, without failures.",
            "Pipelining divides the model where it does not fit, at the price of "
            "stages that wait (the bubble). Ten billion parameters fit on 80 GB once "
            "optimizer states are sharded over the replicas (ZeRO). Training in int8 "
            "is not common practice and is not modelled.",
        ),
        bars=(
            hwsim.StudyBars(
                "Days for 200 billion tokens", "days", "days", days, ends, best=best
            ),
        ),
        tables=(
            hwsim.StudyTable(
                "The best layout with each number of stages",
                (
                    ("Pipeline", None), ("Days", "days"), ("Step", "s"),
                    ("Share of peak (MFU)", "%"), ("Bubble", "%"), ("Layout", None),
                    ("Memory per device", "B"),
                ),
                rows,
            ),
        ),
    )  # fmt: skip


def _serving(served: dict[str, Any]) -> hwsim.StudySection:
    def pair(name: str) -> tuple[Any, Any]:
        return served[f"{name}, batch 1"], served[f"{name}, batch 64"]

    rows = []
    for name in VARIANTS:
        one, many = pair(name)
        ends = one.interval_90["tpot_s"]
        rows.append(
            (
                name, one.model.num_parameters / 1e9, one.footprint.weights,
                (one.tpot_s, *ends), one.ttft_s, many.tokens_per_s,
                many.tokens_per_s * GPUS,
            )
        )  # fmt: skip
    rates = {name: pair(name)[1].tokens_per_s for name in VARIANTS}
    ends = {name: pair(name)[1].interval_90["tokens_per_s"] for name in VARIANTS}
    return hwsim.StudySection(
        "Serving: int8 and pruning",
        text=(
            "512 prompt and 128 output tokens on one A100 each; 256 of them answer "
            "independently. Int8 weights are read in half the time and computed in "
            "bf16; int8 throughout uses the int8 matrix units too. Pruned means half "
            "the feed-forward width (structured: kernels stay dense).",
            "A token alone waits for the weights, so their bytes count; a full batch "
            "waits for arithmetic and the cache, so int8 arithmetic counts. What "
            "either does to quality is not modelled: measure it.",
        ),
        bars=(
            hwsim.StudyBars(
                "Tokens per second of one A100, 64 requests together", "tokens/s", "",
                rates, ends, best=max(rates, key=lambda name: rates[name]),
            ),
        ),
        tables=(
            hwsim.StudyTable(
                "Serving variants",
                (
                    ("Variant", None), ("Parameters, billions", ""), ("Weights", "B"),
                    ("Per output token, alone", "s"), ("First token, alone", "s"),
                    ("Tokens/s, 64 together", ""), ("Tokens/s, 256 GPUs", ""),
                ),
                tuple(rows),
            ),
        ),
    )  # fmt: skip
