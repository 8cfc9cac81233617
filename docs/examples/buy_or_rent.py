"""From which use on is a node cheaper to buy than to rent?"""

import hwsim
from hwsim.specs.economics import load_economics

NODE_USD, YEARS, POWER_USD_PER_KWH = 300_000, 4, 0.12  # assumed: ask your vendor
node = hwsim.load_system("dgx-h100")
figures = load_economics()
rent = figures.price(node.device.id) * node.num_devices  # USD per hour
watts = node.device.power.tdp * node.num_devices * (1 + figures.host_share)
run = watts * figures.pue / 1e3 * POWER_USD_PER_KWH  # USD per hour of use
hours = YEARS * 365 * 24
for use in (0.1, 0.3, 0.5, 0.9):
    buy = NODE_USD + use * hours * run
    print(f"{use:.0%} used: {'buy' if buy < use * hours * rent else 'rent'}")
even = NODE_USD / (hours * (rent - run))
print(f"break-even at {even:.0%} of {YEARS} years, without staff and space")
