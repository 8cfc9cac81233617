"""Does a 70B model fit, and if not, what would make it fit?"""

import hwsim

ask = {"batch": 8, "prompt": 4096, "output": 1024}
answer = hwsim.infer("llama-3.1-70b", "h100-80gb-sxm", **ask)
need = answer.footprint
print(f"one GPU: {need.total / 1e9:.0f} GB of {answer.memory.usable / 1e9:.0f} GB")
print("remedies:", ", ".join(answer.memory.remedies) or "none")
for tp in (2, 4, 8):
    answer = hwsim.infer("llama-3.1-70b", "dgx-h100", tp=tp, **ask)
    print(f"tp {tp}: {answer.footprint.total / 1e9:.0f} GB per device,", end=" ")
    print("fits" if answer.fits else "does not fit")
