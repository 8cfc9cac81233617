"""The pace of the slowest of many devices that are alike."""

from __future__ import annotations

from functools import lru_cache
from statistics import NormalDist

from hwsim.specs.device import DeviceSpec

# Standard deviation of the rate of matrix work among GPUs of one type: they run
# at the clocks that their own power limit allows. Derived from [1]_: 8 % between
# the whiskers of a box plot, which are 5.4 standard deviations apart.
SPREAD = 0.015


def slowest_pace(device: DeviceSpec, devices: int) -> float:
    """Return how many times longer matrix work takes on the slowest device.

    Devices that work in step all wait for it. Costs are those of a usual device.
    Only GPUs lower their clocks to stay within their power.

    Parameters
    ----------
    devices : int
        Devices that work in step.

    References
    ----------
    .. [1] P. Sinha et al., "Not All GPUs Are Created Equal", SC 2022,
       arXiv:2208.11035: 8 % variation on average on five clusters.
    .. [2] G. Blom, "Statistical Estimates and Transformed Beta-Variables",
       1958: mean of the largest of n normal numbers.

    Examples
    --------
    >>> from hwsim.specs.catalogs import load_device
    >>> round(slowest_pace(load_device("h100-80gb-sxm"), 1024), 3)
    1.048
    """
    if device.kind != "gpu" or devices < 2:
        return 1.0
    return 1.0 + SPREAD * _largest(devices)


@lru_cache(maxsize=256)
def _largest(count: int) -> float:
    """Return the mean of the largest of so many standard normal numbers."""
    return NormalDist().inv_cdf((count - 0.375) / (count + 0.25))
