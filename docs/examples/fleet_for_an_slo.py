"""The cheapest fleet that answers 20 requests/s within half a second."""

import hwsim

plan = hwsim.plan_serve(
    "llama-3.1-8b", ["h100", "l40s"], rate=20, requests=400, simulate=1,
    slo={"ttft.p99": 0.8, "tpot.p99": 0.05}, precision="fp8",
    input_len="lognormal:500", output_len="lognormal:150",
)  # fmt: skip
best = plan.cheapest
print(f"cheapest: {best.choice.system.device.id}, {best.choice.precision.dtype}")
print(f"replicas: {best.replicas}")
for check in best.checks:
    print(f"{check.key}.{check.stat} within its limit: {check.value <= check.limit}")
print(f"looked at {plan.candidates}, turned down {len(plan.rejected)}")
