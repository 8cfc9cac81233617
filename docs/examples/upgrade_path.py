"""Is a newer GPU worth its price for this work?"""

import hwsim

found = hwsim.compare(
    ["a100-80gb-sxm", "h100", "h200"], "llama-3.1-8b", task="infer", batch=16,
    prompt=2048, output=256,
)  # fmt: skip
first = found.cells[0]
for cell in found.cells[1:]:
    faster = first.time_s / cell.time_s
    dearer = cell.price / first.price
    worth = "pays off" if faster > dearer else "does not pay off"
    print(f"{cell.case.system.id}: {worth}")
