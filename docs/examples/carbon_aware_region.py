"""The same training run on the grids of six regions."""

import hwsim

step = hwsim.train(
    "llama-3.1-8b", "dgx-h100-ndr-64", devices=64, global_batch=512, seq=4096,
    micro_batch=1, zero_stage=1, recompute="selective",
)  # fmt: skip
carbon = {
    grid: hwsim.training_run(step, tokens=1e12, grid=grid).carbon_kg
    for grid in ("sweden", "france", "germany", "united-states", "india", "poland")
}
least = min(carbon.values())
for grid, mass in sorted(carbon.items(), key=lambda pair: pair[1]):
    print(f"{grid}: {mass / least:.0f} times the least")
