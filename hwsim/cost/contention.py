"""Products that run beside collectives: kernels that communicate hold units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from hwsim.cost.cost import FloatArray
from hwsim.cost.forms import MATRIX
from hwsim.cost.op_costs import OpCosts
from hwsim.graph.op import Collective
from hwsim.graph.opgraph import COMPUTE, Block, Node
from hwsim.specs.device import DeviceSpec
from hwsim.specs.stack import StackSpec

# Thread blocks of a collective's kernel, each on a unit of its own [1]_.
BLOCKS = 24.0
# Assumed, of devices with few units: libraries leave at least half to computing.
MOST_HELD = 0.5


def held_share(device: DeviceSpec) -> float:
    """Return the share of a device's units that a collective's kernel holds.

    Only GPUs send by kernels; other devices have engines for it.

    References
    ----------
    .. [1] NVIDIA developer forum 337991, 2025: an all-gather of 24 blocks on the
       132 units of an H100 takes a product beside it from 80 % to 47 % of the peak
       where the product is one wave; 24 of 132 is what any product loses.
    .. [2] S. Lee et al., arXiv:2507.03114: computing is 18.9 % slower on average
       where communication overlaps it (A100, H100, MI210, MI250).

    Examples
    --------
    >>> from hwsim.specs.catalogs import load_device
    >>> round(held_share(load_device("h100-80gb-sxm")), 2)
    0.18
    """
    if device.kind != "gpu":
        return 0.0
    return min(BLOCKS / float(device.compute.units), MOST_HELD)


def lost_time(share: float, beside: FloatArray, compute: FloatArray) -> FloatArray:
    """Return what computing takes longer beside so much communication. [s]

    Parameters
    ----------
    share : float
        Of the units that communication holds.
    beside, compute : ndarray of float64
        Communication that may overlap, and computing. [s]
    """
    lost: FloatArray = share * np.minimum(beside, compute)
    return lost


def beside_collectives(
    blocks: Sequence[Block], costs: OpCosts, stack: StackSpec, device: DeviceSpec
) -> OpCosts:
    """Return costs in which products yield units to collectives of their block.

    Parameters
    ----------
    blocks : sequence of Block
        Whose nodes, in order, ``costs`` holds.
    """
    longer = yielded(blocks, costs.time, stack, device)
    if not longer.any():
        return costs
    return replace(costs, time=costs.time + longer, compute=costs.compute + longer)


def yielded(
    blocks: Sequence[Block], time: FloatArray, stack: StackSpec, device: DeviceSpec
) -> FloatArray:
    """Return how much longer each node takes for collectives of its block. [s]

    Parameters
    ----------
    time : ndarray of float64
        Of the blocks' nodes, in order, alone. [s]
    """
    longer, share = np.zeros(len(time)), held_share(device)
    if not share or not (stack.overlap.tp or stack.overlap.dp):
        return longer
    at = 0
    for block in blocks:
        span = slice(at, at + len(block.nodes))
        at = span.stop
        sends = np.array([_takes_units(node, stack) for node in block.nodes])
        if not sends.any():
            continue
        own = np.array([node.stream == COMPUTE for node in block.nodes])
        products = np.array([isinstance(n.op, MATRIX) for n in block.nodes]) & own
        busy = time[span]
        spent = busy * products
        if spent.any():
            lost = lost_time(share, busy @ sends, busy @ own)
            longer[span] = spent * (lost / spent.sum())
    return longer


def _takes_units(node: Node, stack: StackSpec) -> bool:
    """Whether a node is a collective that runs beside products, by a kernel.

    What goes round among tensor-parallel ranks is copied by engines.
    """
    op, overlap = node.op, stack.overlap
    if not isinstance(op, Collective):
        return False
    if node.stream in {"dp", "gather"}:
        return overlap.dp and op.phase != "optimizer"
    if node.stream != "tp" or not overlap.tp or overlap.windows:
        return False
    ring = overlap.ring and op.collective == "all_gather"
    return not ring or op.name == "input_gather"
