"""GPT-3 on 1,024 A100 then, and on H100 now."""

from __future__ import annotations

from typing import Any

from words import DAY, scaled, three

import hwsim

TOKENS = 300e9
# Narayanan et al. 2021, section 5.1: 1,024 A100, batch 1536, 140 TFLOP/s per GPU.
PUBLISHED_DAYS = 34.0
LAYOUT: dict[str, Any] = {
    "tp": 8, "pp": 8, "micro_batch": 1, "global_batch": 1536, "seq": 2048,
}  # fmt: skip
MODERN: dict[str, Any] = {
    "stack": "megatron-core", "recompute": "selective", "sequence_parallel": True,
}  # fmt: skip
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "A100, software of 2021": (
        "dgx-a100-80gb-hdr-128",
        {"stack": "megatron-2021", "recompute": "full", "dtype": "fp16"},
    ),
    "A100, today's software": ("dgx-a100-80gb-hdr-128", {**MODERN, "dtype": "bf16"}),
    "H100, bf16": ("dgx-h100-ndr-128", {**MODERN, "dtype": "bf16"}),
    "H100, fp8": ("dgx-h100-ndr-128", {**MODERN, "dtype": "fp8"}),
}


def probes() -> dict[str, Any]:
    """Return the steps, which everything else follows from."""
    return {
        name: hwsim.train(
            "gpt-3-175b", system, engine="closed_form", **LAYOUT, **options
        )
        for name, (system, options) in RUNS.items()
    }


def study(steps: dict[str, Any]) -> hwsim.Study:
    """Return the study."""
    runs = {name: hwsim.training_run(s, tokens=TOKENS) for name, s in steps.items()}
    days = {name: run.mean_wall_s / DAY for name, run in runs.items()}
    ends = {n: scaled(s.interval_90["step_s"], days[n] / s.step_s)
            for n, s in steps.items()}  # fmt: skip
    then, software, now, fp8 = RUNS
    falls = hwsim.compare(
        [{"system": RUNS[n][0], "label": n, **RUNS[n][1]} for n in (then, software)]
        + [{"system": RUNS[now][0], "label": now, **RUNS[now][1]}],
        "gpt-3-175b", task="train", engine="closed_form", **LAYOUT,
    )  # fmt: skip
    rows = tuple(
        (
            name, (days[name], *ends[name]), s.step_s,
            s.model_flop_per_s_per_device, s.mfu, runs[name].energy_j / 3.6e3,
            runs[name].cost_usd, s.footprint.total,
        )
        for name, s in steps.items()
    )  # fmt: skip
    answer = (
        f"A run over 300 billion tokens that took about {three(days[then])} days on "
        f"1,024 A100 with the software of 2021 (90 % interval {three(ends[then][0])} "
        f"to {three(ends[then][1])}; its authors give {PUBLISHED_DAYS:g}) takes "
        f"{three(days[software])} with today's software on the same machines, and "
        f"{three(days[now])} on 1,024 H100 ({three(ends[now][0])} to "
        f"{three(ends[now][1])}), {three(days[fp8])} with fp8."
    )
    return hwsim.Study(
        title="GPT-3 175B on 1,024 A100 then, and on H100 now",
        question=(
            "How long does a training run of GPT-3 (175 billion parameters, 300 "
            "billion tokens) take on 128 nodes of 8 A100 as in 2021, and what do newer "
            "software and H100 make of it?"
        ),
        answer=answer,
        results={**steps, **{f"{n}: whole run": r for n, r in runs.items()}},
        sections=(
            hwsim.StudySection(
                "Days, energy, money",
                text=(
                    "All run the layout of the 2021 scaling study of Megatron-LM: "
                    "8-way tensor, 8-way pipeline and 16-way data parallel, 1,536 "
                    "sequences of 2,048 tokens a step, 1 sequence a micro-batch. Days "
                    "include checkpoints and failures.",
                    f"The authors of that study (Narayanan et al. 2021, "
                    f"arXiv:2104.04473) give 140 TFLOP/s per A100 and "
                    f"{PUBLISHED_DAYS:g} days. That row was in sight when the cost "
                    "models were written, so it is no blind test.",
                ),
                bars=(
                    hwsim.StudyBars(
                        "Days for 300 billion tokens", "days", "days", days, ends,
                        best=min(days, key=lambda n: days[n]), limit=PUBLISHED_DAYS,
                        limit_name=f"what the authors of 2021 give, "
                        f"{PUBLISHED_DAYS:g} days",
                    ),
                ),
                tables=(
                    hwsim.StudyTable(
                        "The run, by machine and software",
                        (
                            ("Machine", None), ("Days", "days"), ("Step", "s"),
                            ("Model FLOP per device", "FLOP/s"),
                            ("Share of peak (MFU)", "%"), ("Energy", "Wh"),
                            ("Rent", "USD"), ("Memory per device", "B"),
                        ),
                        rows,
                    ),
                ),
            ),
            hwsim.StudySection(
                "What makes the difference",
                text=(
                    "Today's software fuses attention and norms and recomputes only "
                    "attention; with full recomputation a third of the arithmetic is "
                    "done twice. H100 then brings three times the arithmetic, of which "
                    "a smaller share is used. In the figures, work is what is no "
                    "longer recomputed; efficiency is how near kernels come to the "
                    "peaks.",
                ),
                waterfalls=falls.waterfalls,
            ),
        ),
    )  # fmt: skip
