"""The question of a model on unlike devices: mixed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hwsim.analysis.check import context_within, dtype_on, known_dtype, positive_int
from hwsim.analysis.mixing.mixed import Hop, MixedResult, run_mixed, split_layers
from hwsim.analysis.mixing.place import LATENCY, Place, Work, host_system
from hwsim.analysis.resolve import as_system, default_dtype, resolve
from hwsim.cost.evaluate import Fidelity
from hwsim.errors import InputError
from hwsim.specs.device import DeviceSpec
from hwsim.specs.model import ModelSpec
from hwsim.specs.stack import StackSpec
from hwsim.specs.system import SystemSpec

NETWORK = 50e9  # B/s, one 400 Gbit/s port: taken where no link is given
System = str | SystemSpec | DeviceSpec
Entry = System | Mapping[str, Any]
_KEYS = {"system", "tp", "layers", "stack"}


def mixed(
    model: str | ModelSpec,
    stages: Entry | Sequence[Entry] | None = None,
    *,
    prefill: Entry | Sequence[Entry] | None = None,
    decode: Entry | Sequence[Entry] | None = None,
    kv_host: System | None = None,
    embedding_host: System | None = None,
    link: float | None = None,
    link_latency: float | None = None,
    batch: int = 1,
    prompt: int = 1024,
    output: int = 128,
    dtype: str | None = None,
    weight_dtype: str | None = None,
    kv_dtype: str | None = None,
    stack: str | StackSpec = "default-inference",
    fidelity: Fidelity = "auto",
    overrides: Iterable[str] = (),
) -> MixedResult:
    """Predict a batch of equal requests on devices of several kinds.

    Parameters
    ----------
    model : str or ModelSpec
        A decoder.
    stages : str, spec, mapping or sequence of them
        Pipeline stages of both phases. A mapping has ``system`` and, if need
        be, ``tp``, ``layers`` and ``stack``; without ``layers`` they are shared
        out so that the slowest stage is as fast as can be.
    prefill, decode : as ``stages``
        Instead: where prompts run, and where tokens are generated; keys and
        values are handed over in between.
    kv_host, embedding_host : str or spec
        CPU, or other device behind the host link, that keeps keys and values
        and computes attention over them while decoding; that keeps the
        embedding table.
    link, link_latency : float
        Between places, all their devices together; one 400 Gbit/s port and
        5 us are assumed. [B/s], [s]
    batch, prompt, output, dtype, weight_dtype, kv_dtype, stack, fidelity
        As for :func:`hwsim.infer`.
    overrides : iterable of str
        What-if changes, to every place alike; hosts stay as they are.

    Returns
    -------
    MixedResult
        Times, hops, handover and memory of each place; ``to_dict()`` has SI
        keys.

    Raises
    ------
    InputError, UnknownNameError, SpecError
        If something cannot be answered; the message says what to change.
    """
    phases = [chain for chain in (prefill, decode) if chain is not None]
    if len(phases) != (2 if stages is None else 0):
        raise InputError("give stages, or both prefill and decode")
    changes = list(overrides)
    asked: list[Any] = phases or [stages]
    chains = [_entries(chain) for chain in asked]
    built = [[_place(model, e, stack, changes) for e in chain] for chain in chains]
    spec = built[0][0][0]
    places = [place for chain in built for _, place, _ in chain]
    chosen = dtype or default_dtype(places[0].system.device)
    hosts = [
        None if host is None else host_system(as_system(host))
        for host in (kv_host, embedding_host)
    ]
    for device in [p.system.device for p in places] + [h.device for h in hosts if h]:
        dtype_on(device, chosen)
    work = _work(
        spec, batch, prompt, output, chosen, weight_dtype, kv_dtype, fidelity, hosts
    )
    made = [
        split_layers(work, [p for _, p, _ in chain], [n for _, _, n in chain])
        for chain in built
    ]
    hop = hop_of(link, link_latency)
    return run_mixed(work, made[0], made[-1], hop)


def _entries(value: Any) -> list[dict[str, Any]]:
    several = value if isinstance(value, list | tuple) else [value]
    found = [dict(v) if isinstance(v, Mapping) else {"system": v} for v in several]
    if not found:
        raise InputError("no stage is given; name at least one system")
    for entry in found:
        wrong = sorted(set(entry) - _KEYS)
        if "system" not in entry or wrong:
            what = f"{wrong[0]!r} is unknown" if wrong else "system is missing"
            raise InputError(f"stage: {what}; it has {', '.join(sorted(_KEYS))}")
    return found


def _place(
    model: str | ModelSpec,
    entry: Mapping[str, Any],
    stack: str | StackSpec,
    overrides: Sequence[str],
) -> tuple[ModelSpec, Place, int | None]:
    spec, system, software = resolve(
        model, entry["system"], entry.get("stack", stack), overrides
    )
    tp = positive_int("tp", entry.get("tp", 1))
    layers = entry.get("layers")
    count = None if layers is None else positive_int("layers", layers)
    group = system.subsystem(tp)
    return spec, Place(group, software, tp, (0, spec.layers), True, True), count


def _work(
    spec: ModelSpec,
    batch: int,
    prompt: int,
    output: int,
    dtype: str,
    weight_dtype: str | None,
    kv_dtype: str | None,
    fidelity: Fidelity,
    hosts: Sequence[SystemSpec | None],
) -> Work:
    if spec.kind != "decoder":
        raise InputError(f"{spec.id} is no decoder; only decoders run in places")
    batch, prompt = positive_int("batch", batch), positive_int("prompt", prompt)
    output = positive_int("output", output)
    context_within(spec, prompt + output, "prompt + output")
    wide = dtype if dtype in {"fp32", "bf16", "fp16"} else "bf16"
    return Work(
        spec, batch, prompt, output, dtype,
        known_dtype("weight_dtype", weight_dtype or dtype),
        known_dtype("kv_dtype", kv_dtype or wide), fidelity, *hosts,
    )  # fmt: skip


def hop_of(bandwidth: float | None, latency: float | None) -> Hop:
    """Return the link that was asked for, checked; the rest is assumed."""
    for name, value in (("link", bandwidth), ("link_latency", latency)):
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise InputError(f"{name} is {value}; give a number above 0")
    if bandwidth is not None and bandwidth <= 0:
        raise InputError(f"link is {bandwidth}; give bytes per second above 0")
    return Hop(
        NETWORK if bandwidth is None else bandwidth,
        LATENCY if latency is None else latency,
        assumed=bandwidth is None,
    )
