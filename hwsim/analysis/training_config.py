"""What is asked of a training step, checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

from hwsim.analysis.check import context_within, dtype_on, positive_int
from hwsim.errors import InputError, UnknownNameError, nearest
from hwsim.graph.optimizer import OPTIMIZERS
from hwsim.schedule.pipeline import check_pipeline
from hwsim.specs.model import ModelSpec
from hwsim.specs.system import SystemSpec

Recompute = Literal["none", "selective", "full"]
RECOMPUTE: tuple[Recompute, ...] = ("none", "selective", "full")
TRAINING_DTYPES = ("fp32", "tf32", "bf16", "fp16", "fp8", "fp4")
DEGREES = ("tp", "cp", "pp", "dp")


@dataclass(frozen=True)
class TrainConfig:
    """Layout, sizes in sequences and tokens, dtypes by name.

    Attributes
    ----------
    tp, cp, pp, dp : int
        Tensor-, context-, pipeline- and data-parallel degrees; their product
        is ``devices``.
    vpp : int
        Model chunks of each pipeline rank (interleaved schedule).
    ep : int
        Ranks, of the data- and context-parallel ones, that share out experts.
    """

    devices: int
    tp: int
    dp: int
    micro_batch: int
    global_batch: int
    seq: int
    dtype: str
    recompute: Recompute
    optimizer: str
    zero_stage: int
    sequence_parallel: bool
    pp: int = 1
    vpp: int = 1
    cp: int = 1
    ep: int = 1
    schedule: str = "1f1b"
    recompute_every: int = 1
    offload_optimizer: bool = False
    offload_activations: bool = False

    @property
    def num_microbatches(self) -> int:
        """Microbatches that each data-parallel rank accumulates."""
        return self.global_batch // (self.micro_batch * self.dp)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields and the number of microbatches."""
        return {**vars(self), "num_microbatches": self.num_microbatches}

    def graph_options(self) -> dict[str, Any]:
        """Return what every graph and footprint of the step is built with."""
        return {
            "micro_batch": self.micro_batch, "seq": self.seq, "tp": self.tp,
            "dp": self.dp, "cp": self.cp, "ep": self.ep, "dtype": self.dtype,
            "recompute": self.recompute, "recompute_every": self.recompute_every,
            "optimizer": self.optimizer, "zero_stage": self.zero_stage,
            "sequence_parallel": self.sequence_parallel,
            "offload_optimizer": self.offload_optimizer,
            "offload_activations": self.offload_activations,
        }  # fmt: skip


def checked_config(
    model: ModelSpec,
    system: SystemSpec,
    *,
    devices: int | None = None,
    tp: int = 1,
    dp: int | None = None,
    pp: int = 1,
    vpp: int = 1,
    cp: int = 1,
    ep: int = 1,
    schedule: str | None = None,
    micro_batch: int = 1,
    global_batch: int | None = None,
    seq: int | None = None,
    dtype: str,
    recompute: str = "none",
    recompute_every: int = 1,
    optimizer: str = "adamw",
    zero_stage: int = 0,
    sequence_parallel: bool = False,
    offload_optimizer: bool = False,
    offload_activations: bool = False,
) -> TrainConfig:
    """Return a checked configuration; see :func:`hwsim.train`.

    Raises
    ------
    InputError
        If something does not fit; the message has the nearest valid choice.
    """
    devices = system.num_devices if devices is None else devices
    degrees = {
        name: positive_int(name, value)
        for name, value in (
            ("devices", devices), ("tp", tp), ("pp", pp), ("vpp", vpp), ("cp", cp),
            ("ep", ep), ("recompute_every", recompute_every),
        )
    }  # fmt: skip
    _choice("recompute", recompute, RECOMPUTE)
    if optimizer not in OPTIMIZERS:
        raise UnknownNameError("optimizer", str(optimizer), OPTIMIZERS)
    if zero_stage not in range(4):
        raise InputError(f"zero_stage is {zero_stage!r}; choose 0, 1, 2 or 3")
    dp = _data_parallel(degrees, dp)
    micro_batch = positive_int("micro_batch", micro_batch)
    batch = _global_batch(global_batch, micro_batch, dp, degrees["pp"])
    _trainable(system, dtype)
    chosen = schedule or ("interleaved" if degrees["vpp"] > 1 else "1f1b")
    config = TrainConfig(
        dp=dp, micro_batch=micro_batch, global_batch=batch,
        seq=_sequence(model, seq), dtype=dtype, recompute=cast("Recompute", recompute),
        optimizer=optimizer, zero_stage=zero_stage,
        sequence_parallel=sequence_parallel, schedule=chosen,
        offload_optimizer=offload_optimizer, offload_activations=offload_activations,
        **degrees,
    )  # fmt: skip
    if config.pp > 1 or config.vpp > 1:
        check_pipeline(
            chosen, pp=config.pp, vpp=config.vpp,
            num_microbatches=config.num_microbatches,
            num_layers=len(model.layer_kinds) + 2,
        )  # fmt: skip
    return config


def _choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        close = nearest(str(value), known) or list(known)
        raise InputError(f"{name} {value!r} is unknown; choose {', '.join(close)}")


def _trainable(system: SystemSpec, dtype: str) -> None:
    dtype_on(system.device, dtype)
    if dtype not in TRAINING_DTYPES:
        raise InputError(
            f"dtype {dtype} is not one to train in; choose {', '.join(TRAINING_DTYPES)}"
        )


def _data_parallel(degrees: dict[str, int], asked: int | None) -> int:
    devices = degrees["devices"]
    named = [
        f"{name} {degrees[name]}" for name in ("tp", "cp", "pp") if degrees[name] > 1
    ]
    inner = degrees["tp"] * degrees["cp"] * degrees["pp"]
    told = " x ".join(named) or "tp 1"
    if asked is None:
        if devices % inner:
            low = max(inner, devices // inner * inner)
            raise InputError(
                f"{told} does not divide {devices} devices; use {low} or "
                f"{low + inner} devices, or other degrees"
            )
        return devices // inner
    dp = positive_int("dp", asked)
    if inner * dp != devices:
        raise InputError(
            f"{told} x dp {dp} = {inner * dp}, which must equal devices, {devices}; "
            f"use dp {max(devices // inner, 1)} or {inner * dp} devices"
        )
    return dp


def _global_batch(asked: int | None, micro_batch: int, dp: int, pp: int) -> int:
    unit = micro_batch * dp
    # A pipeline needs about as many microbatches as stages to be worth its name.
    batch = positive_int("global_batch", unit * pp if asked is None else asked)
    if batch % unit:
        low = max(unit, batch // unit * unit)
        raise InputError(
            f"global_batch {batch} is not a multiple of micro_batch x dp = "
            f"{micro_batch} x {dp}; the nearest are {low} and {low + unit}"
        )
    return batch


def _sequence(model: ModelSpec, asked: int | None) -> int:
    default = min(model.max_context or 2048, 2048)
    seq = positive_int("seq", default if asked is None else asked)
    context_within(model, seq, "seq")
    return seq
