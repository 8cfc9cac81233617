"""Questions: infer, train, op, estimate, simulate, scenarios."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwsim.analysis.check import positive_int
from hwsim.analysis.graph_result import Engine, GraphResult, run_graph
from hwsim.analysis.inference import InferResult, run_inference
from hwsim.analysis.operator import OpResult, run_op
from hwsim.analysis.resolve import (
    as_system,
    changed,
    changed_system,
    default_dtype,
    parsed,
    resolve,
)
from hwsim.analysis.training.spread import Disturbance
from hwsim.analysis.training.train import TrainResult, run_training
from hwsim.cost.evaluate import Fidelity
from hwsim.errors import InputError
from hwsim.graph.inference import decode_graph, prefill_graph
from hwsim.graph.opgraph import OpGraph
from hwsim.graph.partition import check_interleaving
from hwsim.graph.training import training_graph
from hwsim.specs import catalogs
from hwsim.specs.device import DeviceSpec
from hwsim.specs.model import ModelSpec
from hwsim.specs.stack import StackSpec
from hwsim.specs.system import SystemSpec

if TYPE_CHECKING:
    from hwsim.analysis.result import Result


def infer(
    model: str | ModelSpec,
    system: str | SystemSpec | DeviceSpec,
    *,
    batch: int = 1,
    prompt: int | None = None,
    output: int | None = None,
    tp: int = 1,
    dtype: str | None = None,
    weight_dtype: str | None = None,
    kv_dtype: str | None = None,
    stack: str | StackSpec = "default-inference",
    fidelity: Fidelity = "auto",
    engine: Engine = "simulate",
    overrides: Iterable[str] = (),
) -> InferResult:
    """Predict a batch of equal requests, from prompt to last token.

    Parameters
    ----------
    model, system : str or spec
        Names, paths or loaded specs.
    batch : int
        Sequences served together.
    prompt, output : int or None
        Tokens of each sequence; 1024 prompt tokens by default, fewer where the
        model's context is shorter, and 128 output tokens, none of an encoder.
    tp : int
        Tensor-parallel devices.
    dtype, weight_dtype, kv_dtype : str or None
        Arithmetic (bf16 where the device has it); storage of weights
        (``dtype``) and of the KV cache (16 bit).
    stack : str or StackSpec
        Software stack.
    fidelity : str
        ``roofline`` (the datasheet's speed of light), ``structured`` (the
        values of the device's generation), ``calibrated`` (those fitted to
        measurements of the device) or ``auto`` (the best there is).
    engine : str
        ``simulate`` (timeline included) or ``closed_form``.
    overrides : iterable of str
        What-if changes, as on the command line.

    Returns
    -------
    InferResult
        Times, memory, breakdown and what binds; ``to_dict()`` has SI keys.

    Raises
    ------
    InputError, UnknownNameError, SpecError
        If something cannot be answered; the message says what to change.
    """
    model, system, stack = resolve(model, system, stack, overrides)
    return run_inference(
        model, system, stack, batch=batch, prompt=prompt, output=output, tp=tp,
        dtype=dtype or default_dtype(system.device), weight_dtype=weight_dtype,
        kv_dtype=kv_dtype, fidelity=fidelity, engine=engine,
    )  # fmt: skip


def train(
    model: str | ModelSpec,
    system: str | SystemSpec | DeviceSpec,
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
    dtype: str | None = None,
    recompute: str = "none",
    recompute_every: int = 1,
    optimizer: str = "adamw",
    zero_stage: int = 0,
    sequence_parallel: bool = False,
    offload_optimizer: bool = False,
    offload_activations: bool = False,
    stack: str | StackSpec = "default-training",
    fidelity: Fidelity = "auto",
    engine: Engine = "simulate",
    jitter: float = 0.0,
    slowdown: Sequence[float] = (),
    replications: int | None = None,
    seed: int = 0,
    overrides: Iterable[str] = (),
    **spread: Any,
) -> TrainResult:
    """Predict one optimizer step.

    Parameters
    ----------
    model, system : str or spec
        Names, paths or loaded specs.
    devices : int or None
        Devices used; all of the system by default: tp x cp x pp x dp of them.
    tp, cp, pp, dp : int
        Tensor-, context-, pipeline- and data-parallel degrees; ``dp`` takes
        the devices that the others leave.
    vpp : int
        Model chunks of each pipeline rank (interleaved).
    ep : int
        Ranks, of the data- and context-parallel ones, that share out experts.
    schedule : str or None
        ``gpipe``, ``1f1b``, ``interleaved``, ``zero_bubble`` or ``dualpipe``;
        1f1b by default, interleaved where ``vpp`` is above 1.
    micro_batch, global_batch : int
        Sequences per data-parallel rank and pass; per optimizer step.
    seq : int or None
        Tokens per sequence; the model's context up to 2048 by default.
    recompute, recompute_every
        ``none``, ``selective`` (attention only), ``operators`` (all but products
        and attention) or ``full``; or modules of Megatron-Core joined by ``+``:
        ``core_attn``, ``layernorm``, ``mla_up_proj``, ``mlp``, ``moe``,
        ``moe_act``, ``shared_experts``. Of every so many layers.
    optimizer : str
        ``adamw``, ``adam``, ``lamb``, ``adafactor``, ``adam8bit``, ``sgd``, …
    zero_stage : int
        What data-parallel ranks shard: 1 optimizer states, 2 gradients too,
        3 parameters too (FSDP).
    offload_optimizer, offload_activations : bool
        Keep optimizer states, or activations, in host memory.
    jitter : float
        Standard deviation of the logarithm of a random factor on each pass of
        each rank; ``result.spread`` then has the times of many steps.
    slowdown : sequence of float
        Factor on the compute times of each pipeline rank (stragglers).
    replications, seed : int
        Steps to play under jitter, 100 by default; the seed of it.
    **spread
        ``etp``: ranks that split each expert, ``tp`` or 1 (``ep`` then shares
        them over tensor-parallel ranks too); ``dp_shard``: data-parallel ranks
        that share states out where the others hold copies (HSDP);
        ``stage_layers``: layers of each pipeline part; ``cp_mode``: ``ring``,
        ``all_to_all`` or ``all_gather``; ``imbalance``, ``capacity_factor``:
        rows of the busiest expert rank, and of each expert, over the mean;
        ``lora_rank`` and ``lora_targets``: adapters trained in place of the
        model, at ``qkv``, ``out``, ``up``, ``down``, ``head``; ``decoder_seq``:
        tokens of a decoder that an encoder of ``seq`` tokens stands before.

    Returns
    -------
    TrainResult
        Step time, rates, MFU, memory, breakdown; ``to_dict()`` has SI keys.

    Raises
    ------
    InputError, UnknownNameError, SpecError
        If something cannot be answered; the message says what to change.
    """
    model, system, stack = resolve(model, system, stack, overrides)
    if not spread.get("stage_layers"):
        check_interleaving(model, positive_int("pp", pp), positive_int("vpp", vpp))
    return run_training(
        model, system, stack, devices=devices, tp=tp, dp=dp, pp=pp, vpp=vpp, cp=cp,
        ep=ep, schedule=schedule, micro_batch=micro_batch, global_batch=global_batch,
        seq=seq, dtype=dtype or default_dtype(system.device), recompute=recompute,
        recompute_every=recompute_every, optimizer=optimizer, zero_stage=zero_stage,
        sequence_parallel=sequence_parallel, offload_optimizer=offload_optimizer,
        offload_activations=offload_activations, fidelity=fidelity, engine=engine,
        disturbance=Disturbance.of(jitter, slowdown, replications, seed),
        **spread,
    )  # fmt: skip


def op(
    kind: str,
    *,
    device: str | DeviceSpec | SystemSpec,
    dtype: str | None = None,
    stack: str | StackSpec = "default-inference",
    fidelity: Fidelity = "auto",
    overrides: Iterable[str] = (),
    **shapes: Any,
) -> OpResult:
    """Predict one operator; shapes may be arrays that broadcast.

    Parameters
    ----------
    kind : str
        ``matmul`` (m, n, k, batch), ``prefill`` attention
        (batch, heads, kv_heads, head_dim, seq_q, seq_kv) and ``decode``
        attention (without seq_q), ``elementwise``,
        ``layernorm``, ``rmsnorm``, ``softmax`` (m, n), ``moe`` (m, n, k,
        experts, topk, tp, ep), or a collective (bytes, group).
    device : str or spec
        A device, or a system for collectives.

    Raises
    ------
    InputError, UnknownNameError, SpecError
        If something cannot be answered; the message says what to change.
    """
    changes = parsed(overrides)
    system = changed_system(as_system(device), changes)
    loaded = catalogs.load_stack(stack) if isinstance(stack, str) else stack
    return run_op(
        kind, system, changed(loaded, "stack", changes),
        dtype=dtype or default_dtype(system.device), fidelity=fidelity, **shapes,
    )  # fmt: skip


def estimate(
    model: str | ModelSpec | OpGraph,
    system: str | SystemSpec | DeviceSpec,
    *,
    phase: str = "decode",
    stack: str | StackSpec | None = None,
    fidelity: Fidelity = "auto",
    overrides: Iterable[str] = (),
    **shapes: Any,
) -> GraphResult:
    """Predict one pass in closed form: no timeline, milliseconds of work.

    Parameters
    ----------
    model : str, ModelSpec or OpGraph
        A graph, or a model whose graph ``phase`` and ``shapes`` describe.
    phase : str
        ``prefill`` (batch, prompt, history, tp, dtype, …), ``decode`` (batch,
        context, tp, …) or ``train`` (micro_batch, seq, tp, dp, …).
    """
    graph, resolved, loaded = _graph(model, system, phase, stack, overrides, shapes)
    return run_graph(graph, resolved, loaded, fidelity=fidelity)


def simulate(
    model: str | ModelSpec | OpGraph,
    system: str | SystemSpec | DeviceSpec,
    *,
    phase: str = "decode",
    stack: str | StackSpec | None = None,
    fidelity: Fidelity = "auto",
    ranks: int = 1,
    slowdown: Sequence[float] = (),
    overrides: Iterable[str] = (),
    **shapes: Any,
) -> GraphResult:
    """As :func:`estimate`, played in SimPy: the result has a timeline.

    Parameters
    ----------
    ranks : int
        Devices played; one stands for all, which are alike.
    slowdown : sequence of float
        Factor on each rank's kernel times, for stragglers.
    """
    graph, resolved, loaded = _graph(model, system, phase, stack, overrides, shapes)
    return run_graph(
        graph, resolved, loaded, fidelity=fidelity, engine="simulate", ranks=ranks,
        slowdown=slowdown,
    )  # fmt: skip


def run_scenario(
    path: str | os.PathLike[str], *, overrides: Iterable[str] = ()
) -> Result:
    """Run what a scenario file describes: see ``workloads/scenarios``."""
    from hwsim.specs.scenario import load_scenario

    scenario = load_scenario(Path(path))
    asked = {**scenario.arguments()}
    asked["overrides"] = [*scenario.overrides, *overrides]
    if scenario.task == "infer":
        return infer(scenario.model, scenario.system, **asked)
    if scenario.task == "serve":
        from hwsim.api.serving import serve

        return serve(scenario.model, scenario.system, **asked)
    return train(scenario.model, scenario.system, **asked)


def _graph(
    model: str | ModelSpec | OpGraph,
    system: str | SystemSpec | DeviceSpec,
    phase: str,
    stack: str | StackSpec | None,
    overrides: Iterable[str],
    shapes: dict[str, Any],
) -> tuple[OpGraph, SystemSpec, StackSpec]:
    stack = stack or f"default-{'training' if phase == 'train' else 'inference'}"
    if isinstance(model, OpGraph):
        changes = parsed(overrides)
        loaded = catalogs.load_stack(stack) if isinstance(stack, str) else stack
        software = changed(loaded, "stack", changes)
        return model, changed_system(as_system(system), changes), software
    spec, resolved, software = resolve(model, system, stack, overrides)
    builders = {
        "prefill": prefill_graph,
        "decode": decode_graph,
        "train": training_graph,
    }
    if phase not in builders:
        raise InputError(f"phase {phase!r} is unknown; choose {', '.join(builders)}")
    shapes.setdefault("dtype", default_dtype(resolved.device))
    required = {"prefill": ("batch", "prompt"), "decode": ("batch", "context")}
    for name in required.get(phase, ("micro_batch", "seq")):
        if name not in shapes:
            raise InputError(f"phase {phase} needs {name}")
    graph = builders[phase](spec, stack=software, **shapes)  # type: ignore[operator]
    used = int(shapes.get("tp", 1)) * int(shapes.get("dp", 1))
    return graph, resolved.subsystem(used), software
