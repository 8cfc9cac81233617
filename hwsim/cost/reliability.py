"""Failures and checkpoints in closed form: how much of a long run is useful.

Failures of any device or node stop the whole job; they come at random with a
constant rate, so that the job's mean time between failures is that of its
parts in parallel. After one the job restarts from its last checkpoint.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from hwsim.cost.cost import FloatArray


def _array(values: ArrayLike) -> FloatArray:
    return np.asarray(values, dtype=np.float64)


def job_mtbf(
    num_devices: ArrayLike,
    device_mtbf: ArrayLike,
    num_nodes: ArrayLike = 0.0,
    node_mtbf: ArrayLike = np.inf,
) -> FloatArray:
    """Return the mean time between failures of a whole job. [s]

    Parameters
    ----------
    num_devices, num_nodes : array_like
        How many parts of each sort the job needs.
    device_mtbf, node_mtbf : array_like
        Mean time between failures of one of them; inf is never. [s]
    """
    rate = _array(num_devices) / _array(device_mtbf)
    rate = rate + _array(num_nodes) / _array(node_mtbf)
    with np.errstate(divide="ignore"):
        return _array(1.0 / rate)


def young_interval(write_time: ArrayLike, mtbf: ArrayLike) -> FloatArray:
    """Return Young's first-order optimum between checkpoints. [s]

    References
    ----------
    .. [1] J. W. Young, "A first order approximation to the optimum checkpoint
       interval", CACM 17(9), 1974, doi:10.1145/361147.361115.

    Examples
    --------
    >>> float(young_interval(50.0, 10_000.0))
    1000.0
    """
    return _array(np.sqrt(2.0 * _array(write_time) * _array(mtbf)))


def daly_interval(write_time: ArrayLike, mtbf: ArrayLike) -> FloatArray:
    """Return Daly's higher-order optimum between checkpoints. [s]

    References
    ----------
    .. [1] J. T. Daly, "A higher order estimate of the optimum checkpoint
       interval for restart dumps", FGCS 22(3), 2006,
       doi:10.1016/j.future.2004.11.016, equation 37.
    """
    write = _array(write_time)
    mean = _array(mtbf)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = write / (2.0 * mean)
        series = 1.0 + np.sqrt(ratio) / 3.0 + ratio / 9.0
        interval = np.sqrt(2.0 * write * mean) * series - write
    interval = np.where(np.isinf(mean), np.inf, interval)
    return np.where(write < 2.0 * mean, interval, mean)


def expected_goodput(
    interval: ArrayLike, write_time: ArrayLike, restart_time: ArrayLike, mtbf: ArrayLike
) -> FloatArray:
    """Return the share of wall time that is useful work, in the long run.

    Parameters
    ----------
    interval : array_like
        Useful work between two checkpoints. [s]
    write_time : array_like
        A checkpoint's time during which nothing is computed. [s]
    restart_time : array_like
        From a failure to computing again; failures may strike in it too. [s]
    mtbf : array_like
        Mean time between failures of the job. [s]

    References
    ----------
    .. [1] J. T. Daly, as above, equation 20: the exact wall time under
       exponential failures is mtbf e^(restart/mtbf) (e^((interval +
       write)/mtbf) - 1) for each interval.
    """
    work = _array(interval)
    write = _array(write_time)
    restart = _array(restart_time)
    mean = _array(mtbf)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        wall = mean * np.exp(restart / mean) * np.expm1((work + write) / mean)
        finite = work / wall
        never = np.where(np.isinf(work), 1.0, work / (work + write))
    return np.where(np.isinf(mean), never, finite)
