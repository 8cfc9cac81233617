"""A whole training run: days with failures, energy, carbon, money."""

from __future__ import annotations

from typing import Any

from hwsim.analysis.training.train import TrainResult
from hwsim.analysis.training.whole_run import TrainingRun, whole_run
from hwsim.errors import InputError
from hwsim.specs.economics import Economics, load_economics


def training_run(
    step: TrainResult,
    *,
    tokens: float,
    economics: str | Economics = "reference",
    **options: Any,
) -> TrainingRun:
    """Predict a whole training run from one predicted step.

    Failures come at random with constant rates of devices and nodes; the job
    restarts from its last checkpoint, on a spare node if there is one.

    Parameters
    ----------
    step : TrainResult
        From :func:`hwsim.train`.
    tokens : float
        Training tokens.
    economics : str or Economics
        Reference figures: prices, grids, power shares, failure rates.
    grid : str
        Whose carbon intensity, for example ``"france"``; ``world`` by default.
    price : float
        One device's price; the reference's if it has one. [USD/h]
    pue : float
        Facility power over computer power.
    device_mtbf, node_mtbf : float
        Mean time between failures of one; inf is never. [s]
    restart_time, repair_time, write_time : float
        From failure to computing again; until a node is back; a checkpoint's
        time during which nothing is computed. [s]
    checkpoint_interval : float
        Useful work between checkpoints; Daly's optimum by default. [s]
    spares : int
        Spare nodes; by default so many that they are seldom all in repair.
    seed, replications : int
        Of the simulation of failures; 0 and 20 by default.
    resume : path
        File that keeps how far the simulation is; if it is there, it goes on
        from it, to the same answer.

    Returns
    -------
    TrainingRun
        Wall time with percentiles, goodput, energy, carbon and money.

    Raises
    ------
    InputError
        If something cannot be answered; the message says what to change.
    """
    if not isinstance(step, TrainResult):
        raise InputError("training_run takes the result of hwsim.train")
    figures = load_economics(economics) if isinstance(economics, str) else economics
    return whole_run(step, figures, tokens=tokens, **options)
