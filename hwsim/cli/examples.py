"""Examples under each command's help; tests run them as they stand."""

from __future__ import annotations

HEAD = "Examples:"
_PROMPT = "$ "

EXAMPLES: dict[str, tuple[str, ...]] = {
    "infer": (
        "infer llama-3.1-8b -s h100 --batch 8",
        "infer llama-3.1-70b -s dgx-h100 --tp 8 --dtype fp8 --prompt 4096",
        "infer llama-3.1-8b -s l4 --set device.memory.main.bandwidth=x2 --report a.md",
    ),
    "train": (
        "train gpt2 -s dgx-a100-80gb --devices 8",
        "train llama-3.1-8b -s dgx-h100 --global-batch 64 --seq 4096 --zero-stage 3",
        "train gpt-3-175b -s selene --devices 1024 --tp 8 --pp 16 --global-batch 1536 "
        "--recompute full --tokens 300B",
    ),
    "op": (
        "op matmul --m 4096 --n 4096 --k 4096 --device a100",
        "op decode --batch 32 --heads 32 --kv-heads 8 --head-dim 128 --seq-kv 4096 "
        "-s h100",
        "op all_reduce --bytes 64e6 --group 8 -s dgx-h100 --json",
    ),
    "run": (
        "run llama-3.1-8b-single-stream",
        "run scenario.toml --set device.compute.matrix.bf16=+10% --json",
    ),
    "devices": ("devices hopper", "devices --kind tpu --json"),
    "systems": ("systems h100", "systems --json"),
    "models": ("models llama", "models --json"),
    "stacks": ("stacks", "stacks --json"),
    "engines": ("engines", "engines --json"),
    "show": (
        "show device h100-80gb-sxm",
        "show device l4 --set device.memory.main.size=48GB",
        "show model llama-3.1-8b --json",
    ),
    "schema": ("schema device", "schema scenario"),
    "roofline": (
        "roofline -s h100 --model llama-3.1-8b --phase decode",
        "roofline -s mi300x --out ceilings.png",
    ),
    "demo": ("demo", "demo --fidelity roofline --out reports/out"),
    "validate": (
        "validate",
        "validate --measurements gemm.csv -d h100 --out result.json",
        "validate --published runs.csv",
        "validate --live --budget 90s",
    ),
    "calibrate": (
        "calibrate h100 -m gemm.csv --out calibration.json --result result.json",
        "calibrate h100 -m gemm.csv --holdout none --seed 1",
    ),
    "serve": (
        "serve llama-3.1-8b -s h100 --rate 8 --requests 10000",
        "serve llama-3.1-70b -s dgx-h100 --tp 8 --rate 2 --requests 500 "
        "--slo ttft=2s,tpot=60ms",
        "serve llama-3.1-8b -s h100 --trace requests.csv --out service.json",
    ),
    "report": (
        "report answer.json -o reports/out",
        "report answer.json other.json --format html,md --templates house",
    ),
    "compare": (
        "compare h100 h200 mi300x xeon-8488c -m llama-3.1-8b",
        "compare dgx-h100,tp=8 dgx-h100,tp=4,dtype=fp8 -m llama-3.1-70b --explain",
        "compare h100 l40s --scenario llama-3.1-8b-single-stream --out both.json",
    ),
    "whatif": (
        "whatif llama-3.1-70b-on-8-h100 --vary device.memory.hbm.bandwidth=0.5x..4x "
        "--plot curve.svg",
        "whatif -m llama-3.1-8b -s h100 --vary peak=1x..4x:5 --vary batch=1,8,64",
    ),
    "sensitivity": (
        "sensitivity llama-3.1-70b-on-8-h100 --plot tornado.svg",
        "sensitivity -m llama-3.1-8b -s h100 --target 'tpot_s<=5ms'",
        "sensitivity -m llama-3.1-8b -s l4 --sobol 16 --most 3 --csv",
    ),
    "mixed": (
        "mixed llama-3.1-70b --prefill dgx-h100,tp=4 --decode dgx-h200,tp=4 "
        "--link 100GB/s",
        "mixed llama-3.1-8b --stage h100,layers=20 --stage l40s,layers=12 "
        "--link 25GB/s",
    ),
    "train-mixed": (
        "train-mixed llama-2-13b --stage dgx-h100-ndr-4,tp=8,stages=2 "
        "--stage dgx-a100-80gb-hdr-4,tp=8,stages=2 --global-batch 64",
        "train-mixed gpt2 --stage h100,layers=8 --stage a100,layers=4 --link 10GB/s",
    ),
    "plan train": (
        "plan train llama-3.1-70b -s dgx-h100-ndr-64 --devices 512 "
        "--global-batch 1024 --seq 4096",
        "plan train llama-3.1-8b -s dgx-h100 --devices 8 --global-batch 64 "
        "--seq 4096 --objective energy --csv layouts.csv",
    ),
    "plan serve": (
        "plan serve llama-3.1-8b -s h100 --rate 20 "
        "--slo ttft.p99=500ms,tpot.p99=40ms --requests 500",
        "plan serve llama-3.1-8b -s h100 -s l40s --rate 5 --slo ttft.p99=1s "
        "--precision bf16,fp8 --requests 200 --out plan.json",
    ),
    "measure cpu": ("measure cpu --budget 5m", "measure cpu --only gemm --threads 1,2"),
    "measure cuda": ("measure cuda --budget 30m --out tables",),
}  # fmt: skip


def examples(command: str) -> str:
    """Return the text under a command's help."""
    lines = [f"{_PROMPT}hwsim {text}" for text in EXAMPLES[command]]
    return "\n\n".join([HEAD, *lines])


def shown(epilog: str) -> list[str]:
    """Return the commands of such a text, for pages."""
    lines = epilog.removeprefix(HEAD).split("\n\n")
    return [line.removeprefix(_PROMPT) for line in lines if line]
