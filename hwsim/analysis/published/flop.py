"""How sources count: what stands behind a published rate or utilisation."""

from __future__ import annotations

from hwsim.analysis.training.train import TrainResult
from hwsim.specs.model import ModelSpec
from hwsim.specs.published.training import PublishedRun
from hwsim.specs.published.training_map import MappedRun

PARAMETERS = {"parameters_6": 6.0, "parameters_8": 8.0}
# Metric and SI unit of each column that a row may give.
FIGURE_UNITS = {
    "iter_time_s": ("step_time", "s"),
    "tokens_per_s_per_device": ("throughput", "token/s"),
    "tflops_per_device": ("flop_per_s_per_device", "FLOP/s"),
    "mfu": ("mfu", "1"),
}


def measured_figure(run: PublishedRun) -> float | None:
    """Return the figure that a row gives, in SI."""
    value: float | None = getattr(run, run.figure) if run.figure else None
    return value * 1e12 if value and run.figure == "tflops_per_device" else value


def figure_scale(
    mapped: MappedRun, run: PublishedRun, model: ModelSpec, result: TrainResult
) -> float:
    """Return what, over the step's time, is the row's rate or utilisation."""
    devices, seq = run.num_devices or 1, run.seq_len or 1
    tokens = float(run.global_batch or 1) * seq
    if run.figure == "iter_time_s":
        return 1.0
    if run.figure == "tokens_per_s_per_device":
        return tokens / devices
    flop = counted_flop(mapped.convention, model, result, tokens, seq) / devices
    if run.figure == "mfu":
        return flop / result.system.device.peak(result.config.dtype)
    return flop


def counted_flop(
    convention: str, model: ModelSpec, result: TrainResult, tokens: float, seq: int
) -> float:
    """Return the FLOP of a step as a source counts them. [FLOP]

    Parameters
    ----------
    convention : str
        ``model``: forward and backward, attention in full;
        ``model_causal``: half of attention; ``hardware_full_recompute``: the
        forward pass counted twice (Narayanan et al. 2021, equation 3);
        ``parameters_6`` and ``parameters_8``: that many times parameters and
        tokens.
    tokens : float
        Of the global batch.
    """
    if convention in PARAMETERS:
        return PARAMETERS[convention] * model.num_active_parameters * tokens
    if convention == "hardware_full_recompute":
        hidden, layers = float(model.hidden), model.layers
        shares = 1.0 + seq / (6.0 * hidden) + model.vocab / (16.0 * layers * hidden)
        return 96.0 * tokens * layers * hidden**2 * shares
    devices = result.config.devices
    full = result.work("full_flop") * devices
    if convention == "model_causal":
        full -= sum(
            6.0 * tokens * seq * model.heads_at(kind).queries * count
            for kind, count in model.layer_groups()
            if kind.mixer == "attention" and (kind.window or seq) >= seq
        )
    return full
