"""Traffic grows by 8 % a month: when does the fleet need another GPU?"""

import math

import hwsim

one = hwsim.serve(
    "llama-3.1-8b", "h100", rate=60, requests=800, dtype="fp8",
    input_len="lognormal:500", output_len="lognormal:150", seed=3,
)  # fmt: skip
stable = one.stable_rate or one.requests_per_s
usable = 0.7 * stable  # head-room for bursts
have, rate = 1, 10.0
for month in range(1, 25):
    rate *= 1.08
    need = math.ceil(rate / usable)
    if need > have:
        print(f"month {month}: {rate:.0f} requests/s need {need} GPUs")
        have = need
print(f"after two years: {have} GPUs")
