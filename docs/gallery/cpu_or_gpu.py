"""CPU or GPU for an 8B model?"""

from __future__ import annotations

from typing import Any

from words import span, three

import hwsim

MODEL = "llama-3.1-8b"
PROMPT, OUTPUT = 1024, 128
BATCHES = (1, 4, 16, 64)
DEVICES = {
    "EPYC 9654 (96 cores)": "epyc-9654",
    "Xeon 6980P (128 cores)": "xeon-6980p",
    "L4 (72 W GPU)": "l4",
    "L40S": "l40s",
    "H100": "h100-80gb-sxm",
}


def probes() -> dict[str, Any]:
    """Return every device at every batch size."""
    return {
        f"{name}, batch {batch}": hwsim.infer(
            MODEL, device, batch=batch, prompt=PROMPT, output=OUTPUT, dtype="bf16",
            engine="closed_form",
        )
        for name, device in DEVICES.items()
        for batch in BATCHES
    }  # fmt: skip


def study(results: dict[str, Any]) -> hwsim.Study:
    """Return the study."""
    compared = hwsim.compare(
        [{"system": d, "label": n} for n, d in DEVICES.items()], MODEL,
        batch=1, prompt=PROMPT, output=OUTPUT, dtype="bf16", explain=False,
    )  # fmt: skip
    joule = {c.label: c.power_w / c.tokens_per_s for c in compared.cells}
    series = {
        name: tuple(
            (float(b), r.tokens_per_s)
            for b in BATCHES
            if (r := results[f"{name}, batch {b}"]).fits
        )
        for name in DEVICES
    }
    alone = {n: results[f"{n}, batch 1"] for n in DEVICES}
    gpu, cpu = alone["L4 (72 W GPU)"], alone["Xeon 6980P (128 cores)"]
    many_gpu = results["H100, batch 64"]
    many_cpu = results["Xeon 6980P (128 cores), batch 64"]
    answer = (
        f"For one user at a time a large CPU is enough: a Xeon 6980P writes a token in "
        f"{_ms(cpu)}, an L4 in {_ms(gpu)}; for many at once only a GPU is: with 64 "
        f"requests an H100 gives {three(many_gpu.tokens_per_s)} tokens/s (90 % "
        f"interval {_rate(many_gpu)}), the Xeon {three(many_cpu.tokens_per_s)} "
        f"({_rate(many_cpu)})."
    )
    rows = tuple(
        (
            name, (r.ttft_s, *r.interval_90["ttft_s"]),
            (r.tpot_s, *r.interval_90["tpot_s"]), r.tokens_per_s,
            results[f"{name}, batch 64"].tokens_per_s
            if results[f"{name}, batch 64"].fits else "does not fit",
            r.bound, joule[name],
        )
        for name, r in alone.items()
    )  # fmt: skip
    return hwsim.Study(
        title="CPU or GPU for an 8B model?",
        question=(
            f"Which processor should answer requests to Llama 3.1 8B in bf16 "
            f"({PROMPT:,} prompt and {OUTPUT} output tokens): a server CPU, a small "
            "GPU or a large one?"
        ),
        answer=answer,
        results={**results, "side by side": compared},
        sections=(
            hwsim.StudySection(
                "One request, and many",
                text=(
                    "Writing a token reads all 16 GB of weights once, whoever "
                    "computes: one request alone is as fast as the memory. A batch "
                    "shares that read, so it runs at the speed of arithmetic, where "
                    "GPUs are far ahead; the prompt (time to first token) always does.",
                ),
                lines=(
                    hwsim.StudyLines(
                        "Output tokens per second by batch size",
                        ("requests together", ""), ("tokens/s", ""), series, log=True,
                    ),
                ),
                tables=(
                    hwsim.StudyTable(
                        "One request alone, and 64 together",
                        (
                            ("Processor", None), ("First token", "s"),
                            ("Per output token", "s"), ("Tokens/s alone", ""),
                            ("Tokens/s, 64 together", ""), ("Mostly", None),
                            ("Energy per token alone", "J"),
                        ),
                        rows,
                    ),
                ),
            ),
            hwsim.StudySection(
                "What to keep in mind",
                text=(
                    "CPU figures rest on datasheets and cost models that no "
                    "measurement of these CPUs went into: their intervals are wider. "
                    "A CPU that is in the server anyway costs nothing more; the L4 "
                    "rents for about USD 0.80 an hour. Weights of 8 or 4 bit help all "
                    "of them when one request runs alone.",
                ),
            ),
        ),
    )  # fmt: skip


def _ms(result: Any) -> str:
    low, high = result.interval_90["tpot_s"]
    return f"{result.tpot_s * 1e3:.3g} ms ({low * 1e3:.3g} to {high * 1e3:.3g})"


def _rate(result: Any) -> str:
    return span(result.interval_90["tokens_per_s"], three)
