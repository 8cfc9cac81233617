"""What would faster memory buy? Only figures change, no code.

With ``fidelity="roofline"`` the answer follows from datasheet figures alone:
decoding gains until arithmetic is what is left. The structured cost models are
slower than that bound at every point.
"""

import hwsim


def tpot(factor: float, fidelity: str) -> float:
    change = f"device.memory.main.bandwidth=x{factor:g}"
    answer = hwsim.infer(
        "llama-3.1-8b", "l4", batch=128, prompt=256, output=64, fidelity=fidelity,
        engine="closed_form", overrides=[change],
    )  # fmt: skip
    return answer.tpot_s


base = tpot(1, "roofline")
for factor in (1, 2, 4, 8, 16):
    bound = tpot(factor, "roofline")
    above = tpot(factor, "structured") > bound
    print(f"memory x{factor}: decode at most x{base / bound:.2g}", end="; ")
    print("prediction is above the bound:", above)
