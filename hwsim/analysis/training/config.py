"""What is asked of a training step, checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hwsim.analysis.check import context_within, dtype_on, positive_int
from hwsim.errors import InputError, UnknownNameError
from hwsim.graph.layout import layout_of
from hwsim.graph.lora import LORA_TARGETS, TARGETS, Lora
from hwsim.graph.modules import JOIN, MODULES, modules_of
from hwsim.graph.optimizer import OPTIMIZERS
from hwsim.graph.partition import layers_per_stage
from hwsim.schedule.pipeline.schedules import (
    check_pipeline,
    nearest_divisor,
    pipeline_schedule,
)
from hwsim.specs.model import ModelSpec
from hwsim.specs.system import SystemSpec

Recompute = Literal["none", "selective", "operators", "full"]
RECOMPUTE: tuple[Recompute, ...] = ("none", "selective", "operators", "full")
TRAINING_DTYPES = ("fp32", "tf32", "bf16", "fp16", "fp8", "int8", "fp4")
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
    ep, etp : int
        Ranks, of the data- and context-parallel ones, that share out experts;
        ranks that split each expert, ``tp`` (None) or 1: the experts' ranks
        are then tensor-parallel ones too.
    dp_shard : int or None
        Data-parallel ranks that share states out (ZeRO, FSDP) where the others
        hold copies of them; None: all of them.
    stage_layers : tuple of int
        Layers of each pipeline part, in order; empty: as even as can be.
    cp_mode, imbalance, capacity_factor
        As for :func:`hwsim.graph.layout.layout_of`.
    lora_rank, lora_targets
        Adapters that are trained instead of the model; rank 0 is none.
    decoder_seq : int or None
        Tokens of a decoder's sequence beside an encoder's of ``seq``; None: as many.
    """

    devices: int
    tp: int
    dp: int
    micro_batch: int
    global_batch: int
    seq: int
    dtype: str
    recompute: str
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
    etp: int | None = None
    dp_shard: int | None = None
    stage_layers: tuple[int, ...] = ()
    cp_mode: str = "ring"
    imbalance: float = 1.0
    capacity_factor: float | None = None
    lora_rank: int = 0
    lora_targets: tuple[str, ...] = LORA_TARGETS
    decoder_seq: int | None = None

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
            "lora": self.lora, "decoder_seq": self.decoder_seq, **self.spread,
        }  # fmt: skip

    @property
    def lora(self) -> Lora | None:
        """The adapters, if there are any."""
        return Lora(self.lora_rank, self.lora_targets) if self.lora_rank else None

    @property
    def spread(self) -> dict[str, Any]:
        """How experts, contexts and states are spread over ranks."""
        return {
            "etp": self.etp, "cp_mode": self.cp_mode, "imbalance": self.imbalance,
            "capacity_factor": self.capacity_factor, "dp_shard": self.dp_shard,
        }  # fmt: skip

    def parts(self, model: ModelSpec) -> list[range]:
        """Return the layers of each pipeline part, in order."""
        return layers_per_stage(
            model, self.pp, self.vpp, counts=self.stage_layers or None, seq=self.seq
        )

    @property
    def two_ways(self) -> bool:
        """Whether a rank holds a stage from either end of the pipeline."""
        chosen = pipeline_schedule(self.schedule)
        return self.pp > 1 and chosen.placement == "bidirectional"

    def rank_parts(self, rank: int) -> list[int]:
        """Return the numbers of the parts that a pipeline rank holds."""
        if self.two_ways:
            return [rank, self.pp - 1 - rank]
        return [v * self.pp + rank for v in range(self.vpp)]


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
    stage_layers: Sequence[int] = (),
    lora_rank: int = 0,
    lora_targets: Sequence[str] = LORA_TARGETS,
    **spread: Any,
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
    recompute = _recomputed(recompute)
    if optimizer not in OPTIMIZERS:
        raise UnknownNameError("optimizer", str(optimizer), OPTIMIZERS)
    if zero_stage not in range(4):
        raise InputError(f"zero_stage is {zero_stage!r}; choose 0, 1, 2 or 3")
    dp = _data_parallel(degrees, dp, system.num_devices)
    micro_batch = positive_int("micro_batch", micro_batch)
    batch = _global_batch(global_batch, micro_batch, dp, degrees["pp"])
    _trainable(system, dtype)
    chosen = schedule or ("interleaved" if degrees["vpp"] > 1 else "1f1b")
    pipeline_schedule(chosen)
    _enough_layers(model, degrees)
    config = TrainConfig(
        dp=dp, micro_batch=micro_batch, global_batch=batch,
        seq=_sequence(model, seq), dtype=dtype, recompute=recompute,
        optimizer=optimizer, zero_stage=zero_stage,
        sequence_parallel=sequence_parallel, schedule=chosen,
        offload_optimizer=offload_optimizer, offload_activations=offload_activations,
        stage_layers=tuple(stage_layers), lora_rank=lora_rank,
        lora_targets=tuple(lora_targets), **(spread | degrees),
    )  # fmt: skip
    _spread(model, config)
    if config.pp > 1 or config.vpp > 1:
        check_pipeline(
            chosen, pp=config.pp, vpp=config.vpp,
            num_microbatches=config.num_microbatches,
            num_layers=len(model.layer_kinds) + 2,
        )  # fmt: skip
    if config.pp > 1 or config.stage_layers:
        config.parts(model)
    return config


def _spread(model: ModelSpec, config: TrainConfig) -> None:
    """Check how experts, contexts, states, layers and adapters are laid out."""
    asked = {
        "etp": (config.etp, None), "imbalance": (config.imbalance, 1.0),
        "capacity_factor": (config.capacity_factor, None),
    }  # fmt: skip
    for name, (value, usual) in asked.items():
        if model.moe is None and value != usual:
            raise InputError(
                f"{name} is {value!r} but {model.id} has no experts; leave it out"
            )
    layout_of(
        model, tp=config.tp, cp=config.cp, dp=config.dp, pp=config.pp, ep=config.ep,
        **config.spread,
    )  # fmt: skip
    _in_use(config)
    if config.dp_shard is not None and not config.zero_stage:
        raise InputError(
            f"dp_shard is {config.dp_shard} but zero_stage 0 shares nothing out; "
            "use zero_stage 1, 2 or 3"
        )
    if config.decoder_seq is not None:
        _decoder_seq(model, config.decoder_seq)
    if config.lora_rank:
        rank = positive_int("lora_rank", config.lora_rank, minimum=0)
        if rank > model.hidden:
            raise InputError(
                f"lora_rank {rank} is more than the {model.hidden} values of a token "
                f"of {model.id}: no adapter is of a higher rank; use for example 16"
            )
    if config.lora is not None and not config.lora_targets:
        raise InputError(f"lora_targets is empty; give some of {', '.join(TARGETS)}")


def _in_use(config: TrainConfig) -> None:
    """Refuse what changes nothing in this configuration."""
    if config.recompute_every > 1 and config.recompute == "none":
        raise InputError(
            f"recompute_every is {config.recompute_every} but recompute none runs "
            "nothing again; give recompute full"
        )
    if config.cp_mode != "ring" and config.cp == 1:
        raise InputError(f"cp_mode is {config.cp_mode} but cp is 1; give cp 2 or more")
    if config.lora_targets != LORA_TARGETS and not config.lora_rank:
        raise InputError(
            f"lora_targets is {', '.join(config.lora_targets)} but lora_rank is 0; "
            "give for example lora_rank 16"
        )


def _decoder_seq(model: ModelSpec, tokens: int) -> None:
    context_within(model, positive_int("decoder_seq", tokens), "decoder_seq")
    if model.kind != "encoder_decoder":
        raise InputError(
            f"decoder_seq is {tokens} but {model.id} has no encoder; leave it out"
        )


def _choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(f"{name} {value!r} is unknown; choose {', '.join(known)}")


def _recomputed(recompute: str) -> str:
    """Return a kind of recomputation, or names of modules in one order."""
    words = recompute.replace(",", JOIN).replace(" ", "")
    modules = modules_of(words)
    if not modules:
        _choice("recompute", recompute, (*RECOMPUTE, *MODULES))
    return JOIN.join(sorted(modules)) if modules else recompute


def recompute_extent(recompute: str) -> int:
    """Return where a kind stands among ``RECOMPUTE``, which recompute ever more."""
    known = "selective" if modules_of(recompute) else recompute
    return [str(kind) for kind in RECOMPUTE].index(known)


def _trainable(system: SystemSpec, dtype: str) -> None:
    dtype_on(system.device, dtype)
    if dtype not in TRAINING_DTYPES:
        raise InputError(
            f"dtype {dtype} is not one to train in; choose {', '.join(TRAINING_DTYPES)}"
        )


def _data_parallel(degrees: dict[str, int], asked: int | None, most: int) -> int:
    devices = degrees["devices"]
    named = [
        f"{name} {degrees[name]}" for name in ("tp", "cp", "pp") if degrees[name] > 1
    ]
    inner = degrees["tp"] * degrees["cp"] * degrees["pp"]
    told = " x ".join(named) or "tp 1"
    if asked is None:
        if devices % inner:
            low = max(inner, devices // inner * inner)
            near = [str(n) for n in (low, low + inner) if n <= most]
            more = f"{' or '.join(near)} devices, or " if near else ""
            raise InputError(
                f"{told} does not divide {devices} devices; use {more}"
                f"{_nearest_degrees(degrees)}"
            )
        return devices // inner
    dp = positive_int("dp", asked)
    if inner * dp != devices:
        raise InputError(
            f"{told} x dp {dp} = {inner * dp}, which must equal devices, {devices}; "
            f"use dp {max(devices // inner, 1)} or {inner * dp} devices"
        )
    return dp


def _nearest_degrees(degrees: dict[str, int]) -> str:
    """Return degrees near those asked for that divide the devices."""
    left, found = degrees["devices"], []
    for name in ("tp", "cp", "pp"):
        near = nearest_divisor(left, degrees[name])
        left //= near
        if near != degrees[name]:
            found.append(f"{name} {near}")
    return " and ".join(found)


def _enough_layers(model: ModelSpec, degrees: dict[str, int]) -> None:
    """Refuse more stages than layers; the embedding and the head count as such."""
    layers, pp = len(model.layer_kinds) + 2, degrees["pp"]
    if pp <= layers:
        return
    ranks = degrees["devices"] // (degrees["tp"] * degrees["cp"])
    near = max(d for d in range(1, layers + 1) if ranks % d == 0)
    raise InputError(
        f"pp {pp} is more than the {layers} layers of {model.id}, embedding and head "
        f"counted; use pp {near}"
    )


def _global_batch(asked: int | None, micro_batch: int, dp: int, pp: int) -> int:
    unit = micro_batch * dp
    # A pipeline needs about as many microbatches as stages to be worth its name.
    batch = positive_int("global_batch", unit * pp if asked is None else asked)
    if batch % unit:
        low = batch // unit * unit
        near = f"the nearest are {low} and {low + unit}" if low else f"use {unit}"
        raise InputError(
            f"global_batch {batch} is not a multiple of micro_batch x dp = "
            f"{micro_batch} x {dp}; {near}"
        )
    return batch


def _sequence(model: ModelSpec, asked: int | None) -> int:
    default = min(model.max_context or 2048, 2048)
    seq = positive_int("seq", default if asked is None else asked)
    context_within(model, seq, "seq")
    return seq
