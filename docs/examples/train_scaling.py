"""A training step on one to eight GPUs: memory, layout, who wins."""

import hwsim

MODEL, NODE = "llama-3.2-1b", "dgx-h100"
rates = {}
for devices in (1, 2, 4, 8):
    step = hwsim.train(
        MODEL, NODE, devices=devices, micro_batch=4, global_batch=64, seq=2048,
        zero_stage=1, engine="closed_form",
    )  # fmt: skip
    rates[devices] = step.tokens_per_s_per_device * devices
    states = step.footprint.optimizer_states / 1e9
    print(
        f"{devices} devices: dp {step.config.dp}, "
        f"{step.config.num_microbatches} microbatches, "
        f"optimizer states {states:.2g} GB each, {'fits' if step.fits else 'too big'}"
    )
more = [rates[b] > rates[a] for a, b in ((1, 2), (2, 4), (4, 8))]
print("each doubling trains faster:", all(more))
print("but not more than twice as fast:", rates[8] <= 8 * rates[1] * 1.01)
