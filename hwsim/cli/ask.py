"""Commands that answer questions: infer, train, op, run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hwsim.cli import show
from hwsim.cli import train_options as layout
from hwsim.cli.examples import examples
from hwsim.cli.options import (
    Dtype,
    Fidelity,
    FidelityChoice,
    Json,
    KvDtype,
    Model,
    Out,
    Report,
    Set,
    Stack,
    System,
    Trace,
    WeightDtype,
)
from hwsim.cli.output import check_outputs, note, note_unread, save, save_outputs
from hwsim.cli.quantity import counts, factors, size_of, time_of, token_count
from hwsim.errors import InputError


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("infer", epilog=examples("infer"))(infer)
    app.command("train", epilog=examples("train"))(train)
    app.command("op", epilog=examples("op"))(op)
    app.command("run", epilog=examples("run"))(run)


def infer(
    model: Model,
    system: System,
    batch: Annotated[int, typer.Option(help="Sequences served together.")] = 1,
    prompt: Annotated[
        int | None,
        typer.Option(help="Prompt tokens of each.  [default: 1024, or what fits]"),
    ] = None,
    output: Annotated[
        int | None,
        typer.Option(help="Tokens generated for each.  [default: 128; encoders: 0]"),
    ] = None,
    tp: Annotated[int, typer.Option(help="Tensor-parallel devices.")] = 1,
    dtype: Dtype = None,
    weight_dtype: WeightDtype = None,
    kv_dtype: KvDtype = None,
    stack: Stack = "default-inference",
    fidelity: Fidelity = FidelityChoice.auto,
    set_: Set = None,
    json: Json = False,
    out: Out = None,
    trace: Trace = None,
    report: Report = None,
) -> None:
    """Predict prompt, first token and output tokens of a batch of requests."""
    import hwsim

    check_outputs(out, trace, report)
    result = hwsim.infer(
        model, system, batch=batch, prompt=prompt, output=output, tp=tp, dtype=dtype,
        weight_dtype=weight_dtype, kv_dtype=kv_dtype, stack=stack,
        fidelity=fidelity.value, overrides=set_ or (),
    )  # fmt: skip
    show.answer(result, json=json)
    for said in result.notes:
        note(f"note: {said}")
    note_unread(set_)
    save_outputs(result, out=out, trace=trace, report=report)


def train(
    model: Model,
    system: System,
    devices: Annotated[
        int | None, typer.Option(help="Devices used.  [default: all of the system]")
    ] = None,
    tp: layout.Tp = 1,
    dp: Annotated[
        int | None,
        typer.Option(help="Data-parallel degree.  [default: what the others leave]"),
    ] = None,
    pp: Annotated[int, typer.Option(help="Pipeline stages.")] = 1,
    vpp: Annotated[int, typer.Option(help="Model chunks per pipeline rank.")] = 1,
    cp: layout.Cp = 1,
    ep: layout.Ep = 1,
    schedule: Annotated[
        str | None,
        typer.Option(
            help="gpipe, 1f1b, interleaved, zero_bubble, dualpipe.  [default: 1f1b]"
        ),
    ] = None,
    micro_batch: Annotated[int, typer.Option(help="Sequences per rank and pass.")] = 1,
    global_batch: Annotated[
        int | None,
        typer.Option(help="Sequences per step.  [default: micro-batch x dp]"),
    ] = None,
    seq: layout.Seq = None,
    dtype: Dtype = None,
    recompute: layout.Recompute = "none",
    optimizer: layout.Optimizer = "adamw",
    recompute_every: layout.RecomputeEvery = 1,
    offload_optimizer: layout.OffloadOptimizer = False,
    offload_activations: Annotated[
        bool, typer.Option(help="Keep activations in host memory.")
    ] = False,
    zero_stage: layout.ZeroStage = 0,
    sequence_parallel: layout.SequenceParallel = False,
    dp_shard: layout.DpShard = None,
    etp: layout.Etp = None,
    imbalance: layout.Imbalance = 1.0,
    capacity_factor: layout.CapacityFactor = None,
    cp_mode: layout.CpMode = "ring",
    stage_layers: layout.StageLayers = None,
    lora_rank: layout.LoraRank = 0,
    lora_targets: layout.LoraTargets = "qkv,out",
    decoder_seq: layout.DecoderSeq = None,
    stack: Stack = "default-training",
    fidelity: Fidelity = FidelityChoice.auto,
    tokens: layout.Tokens = None,
    spares: layout.Spares = None,
    checkpoint_interval: layout.CheckpointInterval = None,
    device_mtbf: layout.DeviceMtbf = None,
    node_mtbf: layout.NodeMtbf = None,
    restart_time: layout.RestartTime = None,
    repair_time: layout.RepairTime = None,
    write_time: layout.WriteTime = None,
    grid: layout.Grid = "world",
    price: layout.Price = None,
    pue: layout.Pue = None,
    seed: layout.Seed = 0,
    jitter: layout.Jitter = 0.0,
    slowdown: layout.Slowdown = None,
    replications: layout.Replications = None,
    resume: layout.Resume = None,
    set_: Set = None,
    json: Json = False,
    out: Out = None,
    trace: Trace = None,
    report: Report = None,
) -> None:
    """Predict one optimizer step: time, rates, MFU and memory.

    With --tokens also the whole run: days with failures, energy, carbon, money.
    """
    import hwsim

    check_outputs(out, trace, report)
    _whole_run_only(tokens, resume=resume, spares=spares, price=price, pue=pue,
                    checkpoint_interval=checkpoint_interval, device_mtbf=device_mtbf,
                    node_mtbf=node_mtbf, restart_time=restart_time,
                    grid=None if grid == "world" else grid)  # fmt: skip
    # Without anything that disturbs steps, replications are those of the run.
    whole = tokens is not None and not jitter and slowdown is None
    result = hwsim.train(
        model, system, devices=devices, tp=tp, dp=dp, pp=pp, vpp=vpp, cp=cp, ep=ep,
        schedule=schedule, micro_batch=micro_batch, global_batch=global_batch,
        seq=seq, dtype=dtype, recompute=recompute, recompute_every=recompute_every,
        optimizer=optimizer, zero_stage=zero_stage,
        sequence_parallel=sequence_parallel, offload_optimizer=offload_optimizer,
        offload_activations=offload_activations, stack=stack, fidelity=fidelity.value,
        jitter=jitter, slowdown=factors("slowdown", slowdown),
        replications=None if whole else replications, seed=seed,
        dp_shard=dp_shard, etp=etp, imbalance=imbalance,
        capacity_factor=capacity_factor, cp_mode=cp_mode,
        stage_layers=counts("stage-layers", stage_layers), lora_rank=lora_rank,
        lora_targets=tuple(n.strip() for n in lora_targets.split(",") if n.strip()),
        decoder_seq=decoder_seq, overrides=set_ or (),
    )  # fmt: skip
    answer: Any = result
    if tokens is not None:
        times = {
            "checkpoint_interval": checkpoint_interval, "device_mtbf": device_mtbf,
            "node_mtbf": node_mtbf, "restart_time": restart_time,
            "repair_time": repair_time, "write_time": write_time,
        }  # fmt: skip
        seconds: dict[str, Any] = {k: time_of(k, v) for k, v in times.items()}
        often: dict[str, Any] = {"replications": replications} if whole else {}
        often = {k: v for k, v in often.items() if v is not None}
        answer = hwsim.training_run(
            result, tokens=token_count(tokens), spares=spares, grid=grid, price=price,
            pue=pue, seed=seed, resume=resume, **often, **seconds,
        )  # fmt: skip
    show.answer(answer, json=json)
    note_unread(set_)
    save_outputs(answer, out=out, trace=None, report=report)
    save_outputs(result, out=None, trace=trace, report=None)


def _whole_run_only(tokens: str | None, **given: Any) -> None:
    """Say which options nothing is done with; a progress file is refused."""
    names = [f"--{k.replace('_', '-')}" for k, v in given.items() if v is not None]
    if tokens is not None or not names:
        return
    said = f"{', '.join(names)}: of the whole run; give --tokens as well"
    if given["resume"] is not None:
        raise InputError(said)
    note(f"note: {said}")


def op(
    kind: Annotated[
        str,
        typer.Argument(
            help="matmul, prefill, decode, moe, rmsnorm, layernorm, softmax, "
            "elementwise, or a collective: all_reduce, all_gather, …",
            show_default=False,
        ),
    ],
    device: Annotated[
        str, typer.Option("--device", "--system", "-s", help="Device or system.")
    ],
    m: Annotated[float | None, typer.Option(help="Rows.")] = None,
    n: Annotated[float | None, typer.Option(help="Columns.")] = None,
    k: Annotated[float | None, typer.Option(help="Inner size.")] = None,
    batch: Annotated[float | None, typer.Option(help="Independent products.")] = None,
    heads: Annotated[float | None, typer.Option(help="Query heads.")] = None,
    kv_heads: Annotated[float | None, typer.Option(help="KV heads.")] = None,
    head_dim: Annotated[float | None, typer.Option(help="Width of a head.")] = None,
    seq_q: Annotated[float | None, typer.Option(help="New tokens.")] = None,
    seq_kv: Annotated[float | None, typer.Option(help="Tokens attended to.")] = None,
    window: Annotated[int | None, typer.Option(help="Sliding window.")] = None,
    experts: Annotated[float | None, typer.Option(help="Experts in all.")] = None,
    topk: Annotated[float | None, typer.Option(help="Experts per token.")] = None,
    nbytes: Annotated[
        str | None,
        typer.Option(
            "--bytes", metavar="SIZE", help="Collective: whole buffer: 64MiB, 1e9."
        ),
    ] = None,
    group: Annotated[float | None, typer.Option(help="Collective: devices.")] = None,
    dtype: Dtype = None,
    weight_dtype: Annotated[str | None, typer.Option(help="Storage of b.")] = None,
    kv_dtype: Annotated[str | None, typer.Option(help="Storage of keys.")] = None,
    tp: Annotated[float | None, typer.Option(help="moe: tensor parallel.")] = None,
    ep: Annotated[float | None, typer.Option(help="moe: expert parallel.")] = None,
    inputs: Annotated[
        float | None, typer.Option(help="elementwise: tensors read.")
    ] = None,
    causal: Annotated[
        bool | None, typer.Option(help="prefill: mask later tokens.")
    ] = None,
    gated: Annotated[
        bool | None, typer.Option(help="moe: three matrices per expert, or two.")
    ] = None,
    stack: Stack = "default-inference",
    fidelity: Fidelity = FidelityChoice.auto,
    set_: Set = None,
    json: Json = False,
    out: Out = None,
) -> None:
    """Predict one operator on one device."""
    import hwsim

    check_outputs(out)
    shapes: dict[str, Any] = {
        "m": m, "n": n, "k": k, "batch": batch, "heads": heads, "kv_heads": kv_heads,
        "head_dim": head_dim, "seq_q": seq_q, "seq_kv": seq_kv, "window": window,
        "experts": experts, "topk": topk, "bytes": size_of("bytes", nbytes),
        "group": group,
        "weight_dtype": weight_dtype, "kv_dtype": kv_dtype, "tp": tp, "ep": ep,
        "inputs": inputs, "causal": causal, "gated": gated,
    }  # fmt: skip
    given = {name: value for name, value in shapes.items() if value is not None}
    result = hwsim.op(
        kind, device=device, dtype=dtype, stack=stack, fidelity=fidelity.value,
        overrides=set_ or (), **given,
    )  # fmt: skip
    show.answer(result, json=json)
    save(result, out)


def run(
    scenario: Annotated[
        str,
        typer.Argument(
            help="Scenario .toml file, or the name of a shipped one.",
            show_default=False,
        ),
    ],
    set_: Set = None,
    json: Json = False,
    out: Out = None,
    trace: Trace = None,
    report: Report = None,
) -> None:
    """Answer what a scenario file asks."""
    import hwsim

    if Path(scenario).suffix == ".py":
        raise InputError(f"{scenario} is a Python script; run it with python")
    check_outputs(out, trace, report)
    result = hwsim.run_scenario(scenario, overrides=set_ or ())
    if result.kind == "serve" and not json:
        from hwsim.cli.serve_show import show_service

        if trace is not None:
            raise InputError("a service has no --trace; use hwsim serve --trace-out")
        show_service(result)  # type: ignore[arg-type]
    else:
        show.answer(result, json=json)
    note_unread(set_)
    save_outputs(result, out=out, trace=trace, report=report)
