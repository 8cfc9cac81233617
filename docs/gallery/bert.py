"""BERT-large across six generations of GPU."""

from __future__ import annotations

from typing import Any

from words import three

import hwsim

GPUS = {
    "Pascal: P100": "p100-sxm2-16gb",
    "Volta: V100": "v100-sxm2-32gb",
    "Turing: T4": "t4",
    "Ampere: A100": "a100-80gb-sxm",
    "Hopper: H100": "h100-80gb-sxm",
    "Blackwell: B200": "b200-sxm",
}
MICRO_BATCH, SEQ, PROMPT, BATCH = 8, 512, 128, 128


def probes() -> dict[str, Any]:
    """Return a training step, one sentence, and a batch of them on every GPU."""
    found: dict[str, Any] = {}
    for name, gpu in GPUS.items():
        common = {"dtype": "fp16", "engine": "closed_form"}
        found[f"{name}, training"] = hwsim.train(
            "bert-large", gpu, micro_batch=MICRO_BATCH, seq=SEQ, **common
        )
        for batch in (1, BATCH):
            found[f"{name}, batch {batch}"] = hwsim.infer(
                "bert-large", gpu, batch=batch, prompt=PROMPT, output=0, **common
            )
    return found


def study(results: dict[str, Any]) -> hwsim.Study:
    """Return the study."""
    rate, ends, rows = {}, {}, []
    for name, gpu in GPUS.items():
        step = results[f"{name}, training"]
        one, many = (results[f"{name}, batch {b}"] for b in (1, BATCH))
        device = hwsim.load_device(gpu)
        low, high = step.interval_90["step_s"]
        rate[name] = MICRO_BATCH / step.step_s
        ends[name] = (MICRO_BATCH / high, MICRO_BATCH / low)
        rows.append(
            (
                name, str(device.year), device.peak("fp16"), device.bandwidth,
                (rate[name], *ends[name]), step.mfu, one.prefill_s,
                BATCH / many.prefill_s, rate[name] / device.power.tdp,
            )
        )  # fmt: skip
    first, last = next(iter(GPUS)), list(GPUS)[-1]
    peak = rows[-1][2] / rows[0][2]
    faster = rate[last] / rate[first]
    of = {row[0]: row for row in rows}
    volta, ampere = of["Volta: V100"], of["Ampere: A100"]
    arithmetic, bandwidth = rows[-1][2] / volta[2], rows[-1][3] / volta[3]
    alone, latest = ampere[6] / rows[-1][6], rows[-1][2] / ampere[2]
    answer = (
        f"A B200 trains BERT-large {three(faster)} times as fast as a P100 did eight "
        f"years before ({three(rate[last])} sequences/s, 90 % interval "
        f"{three(ends[last][0])} to {three(ends[last][1])}, against "
        f"{three(rate[first])}), while its peak rose {three(peak)} times: the model "
        "has become too small for the chip."
    )
    return hwsim.Study(
        title="BERT-large across six generations of GPU",
        question=(
            "How much faster does one GPU of each NVIDIA generation since 2016 train "
            "and run BERT-large in 16 bit, and how much of its peak does it use?"
        ),
        answer=answer,
        results=results,
        sections=(
            hwsim.StudySection(
                "Generation by generation",
                text=(
                    f"Training: {MICRO_BATCH} sequences of {SEQ} tokens a step in fp16 "
                    f"mixed precision on one GPU. Inference: {PROMPT} tokens, one "
                    f"sentence at a time and {BATCH} together. The same software "
                    "everywhere (fused attention, PyTorch eager for training), so "
                    "that only the hardware differs; P100 has no matrix units.",
                ),
                bars=(
                    hwsim.StudyBars(
                        "Training rate", "sequences per second", "", rate, ends,
                        best=last,
                    ),
                ),
                tables=(
                    hwsim.StudyTable(
                        "Six generations",
                        (
                            ("GPU", None), ("Year", None), ("fp16 peak", "FLOP/s"),
                            ("Memory", "B/s"), ("Training, sequences/s", ""),
                            ("Share of peak (MFU)", "%"), ("One sentence", "s"),
                            (f"Sentences/s, {BATCH} together", ""),
                            ("Training, sequences per joule at TDP", ""),
                        ),
                        tuple(rows),
                    ),
                ),
            ),
            hwsim.StudySection(
                "Why the share of peak falls",
                text=(
                    f"From V100 to B200 the peak grew {three(arithmetic)} times and "
                    f"memory bandwidth {three(bandwidth)} times, while starting a "
                    "kernel still takes microseconds. BERT-large's products (1,024 "
                    "wide) and its many small operators are then bound by memory and "
                    "by kernel starts: one sentence alone is only "
                    f"{three(alone)} times as fast on B200 as on A100, whose peak is "
                    f"{three(latest)} times lower.",
                ),
            ),
        ),
    )  # fmt: skip
