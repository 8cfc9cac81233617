"""How many GPUs train an 8B model on 1 T tokens in 30 days, failures included?"""

import hwsim

MODEL, CLUSTER, TOKENS, DAYS = "llama-3.1-8b", "dgx-h100-ndr-64", 1e12, 30
enough = None
for devices in (32, 64, 128, 256):
    step = hwsim.train(
        MODEL, CLUSTER, devices=devices, global_batch=1024, seq=4096, micro_batch=1,
        tp=2, sequence_parallel=True, zero_stage=1, recompute="selective",
    )  # fmt: skip
    run = hwsim.training_run(step, tokens=TOKENS)
    slow = step.interval_90["step_s"][1] / step.step_s  # upper end of the interval
    days = run.mean_wall_s / 86_400
    verdict = "in time" if days <= DAYS else "too late"
    if verdict == "in time" and enough is None:
        enough = devices
    print(f"{devices} GPUs: {verdict}; goodput above 90 %: {run.goodput > 0.9}")
    print(f"  sure of it: {(days * slow <= DAYS) == (days <= DAYS)}")
print(f"ask for {enough} GPUs")
