"""Applies what a device's measurements say beyond a physical cost form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hwsim.cost.cost import Cost, FloatArray
from hwsim.specs.calibration import Calibration


def corrected(
    cost: Cost,
    calibration: Calibration,
    family: str,
    features: Callable[[], Mapping[str, Any]],
) -> Cost:
    """Return a cost times the learned factor of its family, if there is one.

    Parameters
    ----------
    cost : Cost
        From a physical form.
    calibration : Calibration
        May hold a residual of the family.
    family : str
        Operator family, as calibration files name it.
    features : callable
        Gives the features by name; asked only where there is a residual.
    """
    residual = calibration.residuals.get(family)
    if residual is None:
        return cost
    shape = np.shape(cost.time)
    columns = {
        name: np.broadcast_to(values, shape).ravel()
        for name, values in features().items()
    }
    factor = np.exp(residual.log_factor(columns, cost.time.size, cost.time))
    factor = factor.reshape(shape)
    return Cost(
        time=cost.time * factor,
        compute=cost.compute * factor,
        levels={name: part * factor for name, part in cost.levels.items()},
        interconnect=cost.interconnect * factor,
        overhead=cost.overhead * factor,
    )


def log2(values: ArrayLike) -> FloatArray:
    """Return binary logarithms; what is nothing counts as one."""
    array = np.asarray(values, dtype=np.float64)
    found: FloatArray = np.log2(np.maximum(array, 1.0))
    return found
