"""The largest model that a budget trains on 20 tokens per parameter."""

import hwsim

BUDGET = 20_000  # USD
largest = None
for name in ("llama-3.2-1b", "llama-3.2-3b", "llama-3.1-8b"):
    model = hwsim.load_model(name)
    step = hwsim.train(
        name, "dgx-h100-ndr-64", devices=64, global_batch=512, seq=4096,
        micro_batch=1, zero_stage=1, recompute="selective",
    )  # fmt: skip
    tokens = 20.0 * model.num_parameters
    run = hwsim.training_run(step, tokens=tokens)
    affordable = run.cost_usd <= BUDGET
    if affordable:
        largest = name
    print(f"{name}: {'within' if affordable else 'above'} {BUDGET:,} USD")
print(f"train {largest}")
