"""What failures cost a long run, and what spare nodes and checkpoints save."""

import math

import hwsim

step = hwsim.train(
    "llama-3.1-70b", "dgx-h100-ndr-64", devices=512, tp=8, pp=4, global_batch=512,
    seq=4096, sequence_parallel=True, engine="closed_form",
)  # fmt: skip
DAY = 86_400.0


def run(**options):
    return hwsim.training_run(step, tokens=2e12, device_mtbf=5e7, **options)


calm = hwsim.training_run(step, tokens=2e12, device_mtbf=math.inf, node_mtbf=math.inf)
usual = run()
often, seldom = run(checkpoint_interval=120.0), run(checkpoint_interval=DAY / 2)
print(f"without failures all time counts: {calm.goodput > 0.97}")
print(f"with them less does: {usual.goodput < calm.goodput}")
print(f"the optimum beats checkpoints every 2 minutes: {usual.goodput > often.goodput}")
print(f"... and every 12 hours: {usual.goodput > seldom.goodput}")
bare, spared = run(spares=0), run(spares=4)
print(f"spare nodes save time: {spared.mean_wall_s < bare.mean_wall_s}")
