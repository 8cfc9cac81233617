"""Weights in int4 on one GPU, or 16 bits on two?"""

import hwsim

MODEL, NODE = "llama-3.1-8b", "dgx-h100"
ways = {
    "16 bit, one GPU": {},
    "fp8, one GPU": {"dtype": "fp8"},
    "int4 weights, one GPU": {"weight_dtype": "int4"},
    "16 bit, two GPUs": {"tp": 2},
}
found = {
    name: hwsim.infer(MODEL, NODE, prompt=1024, **way) for name, way in ways.items()
}
for name, result in sorted(found.items(), key=lambda pair: pair[1].tpot_s):
    print(f"{name}: bound by {result.bound}")
one, two = found["int4 weights, one GPU"], found["16 bit, two GPUs"]
print(
    f"int4 on one GPU gives tokens faster than two GPUs do: {one.tpot_s < two.tpot_s}"
)
print(f"and prompts: {one.ttft_s < two.ttft_s}")
