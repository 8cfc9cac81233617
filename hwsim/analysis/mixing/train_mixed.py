"""Plays one optimizer step over a pipeline of unlike devices."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hwsim.analysis.graph_result import PARTS, Engine
from hwsim.analysis.memory_fit import memory_fit
from hwsim.analysis.mixing.balance import balanced_layers
from hwsim.analysis.mixing.mixed import Hop
from hwsim.analysis.mixing.train_place import (
    StageLink,
    TrainPlace,
    link_between,
    one_system,
    place_system,
)
from hwsim.analysis.mixing.train_result import MixedTrainResult, TrainedPlace
from hwsim.analysis.training.config import checked_config
from hwsim.analysis.training.memory import held_microbatches, rank_memory
from hwsim.analysis.training.pipelined import Pipelined, Send, next_stage_time
from hwsim.analysis.training.step import Step, StepMaker
from hwsim.cost.energy import mean_power
from hwsim.cost.evaluate import Fidelity
from hwsim.errors import InputError
from hwsim.specs.economics import Economics
from hwsim.specs.model import ModelSpec

SCHEDULES = ("1f1b", "gpipe", "zero_bubble")


def run_mixed_training(
    model: ModelSpec,
    places: Sequence[TrainPlace],
    economics: Economics,
    *,
    hop: Hop | None = None,
    pue: float | None = None,
    stage_layers: Sequence[int] = (),
    fidelity: Fidelity = "auto",
    engine: Engine = "simulate",
    **asked: Any,
) -> MixedTrainResult:
    """Answer for a step over unlike stages; see :func:`hwsim.train_mixed`."""
    makers = _makers(model, places, hop, fidelity, engine, asked)
    given = tuple(stage_layers) or _given(model, places)
    counts = given or tuple(balanced_layers(_by_rank(places, makers)))
    makers = [_with_layers(maker, counts) for maker in makers]
    by_rank = _by_rank(places, makers)
    parts = makers[0].config.parts(model)
    both = itertools.pairwise(zip(places, makers, strict=True))
    same = one_system(places, makers[0].config.cp, hop)
    links = [link_between(a, b, hop, same=same) for a, b in both]
    made = Pipelined(by_rank, parts, _hops(places, makers, links)).make()
    done = _trained(places, makers, made, parts, economics)
    return MixedTrainResult(
        model, made.shown[0].fidelity, made, done, tuple(links),
        economics.pue if pue is None else pue,
    )  # fmt: skip


def _makers(
    model: ModelSpec,
    places: Sequence[TrainPlace],
    hop: Hop | None,
    fidelity: Fidelity,
    engine: Engine,
    asked: dict[str, Any],
) -> list[StepMaker]:
    """Return what makes the steps of each place."""
    asked = dict(asked)
    micro_batch, cp = asked.pop("micro_batch", 1), asked.pop("cp", 1)
    total = sum(place.stages for place in places)
    if total < 2:
        raise InputError("one stage is no pipeline; give more, or use hwsim train")
    layers = len(model.layer_kinds)
    if total > layers:
        raise InputError(
            f"{total} stages, but {model.id} has {layers} layers; use at most {layers}"
        )
    whole = sum(place.devices(cp) for place in places)
    found = []
    for index, place in enumerate(places):
        config = checked_config(
            model, place.system, devices=place.tp * place.dp * cp * total,
            tp=place.tp, dp=place.dp, cp=cp, pp=total,
            micro_batch=_share(micro_batch * places[0].dp, places[0], place), **asked,
        )  # fmt: skip
        if config.schedule not in SCHEDULES:
            raise InputError(
                f"schedule {config.schedule!r} gives each rank several parts of the "
                f"model; stages of several kinds take {', '.join(SCHEDULES)}"
            )
        system = place_system(places, index, cp, hop)
        config = replace(config, devices=whole)
        found.append(StepMaker(model, system, place.stack, config, fidelity, engine))
    return found


def _share(passed: int, first: TrainPlace, place: TrainPlace) -> int:
    """Return the sequences of a pass that each data-parallel rank takes."""
    if passed % place.dp == 0:
        return passed // place.dp
    near = max(d for d in range(1, place.dp + 1) if passed % d == 0)
    raise InputError(
        f"a pass of {passed} sequences (micro_batch x dp of {first.system.id}) does "
        f"not divide by dp {place.dp} of {place.system.id}; use dp {near}, or "
        f"micro_batch {place.dp}"
    )


def _by_rank(
    places: Sequence[TrainPlace], makers: Sequence[StepMaker]
) -> list[StepMaker]:
    return [
        maker
        for maker, place in zip(makers, places, strict=True)
        for _ in range(place.stages)
    ]


def _with_layers(maker: StepMaker, counts: tuple[int, ...]) -> StepMaker:
    return replace(maker, config=replace(maker.config, stage_layers=counts))


def _given(model: ModelSpec, places: Sequence[TrainPlace]) -> tuple[int, ...]:
    """Return layers of each stage where places say how many they hold."""
    known = [place.layers for place in places if place.layers is not None]
    if not known:
        return ()
    if len(known) < len(places):
        raise InputError("give layers for every place, or for none")
    total = len(model.layer_kinds)
    if sum(known) != total:
        raise InputError(
            f"places hold {sum(known)} layers, but {model.id} has {total}; make the "
            f"last {max(known[-1] + total - sum(known), 1)}"
        )
    counts: list[int] = []
    for place, layers in zip(places, known, strict=True):
        each, more = divmod(layers, place.stages)
        if not each:
            raise InputError(
                f"{layers} layers on {place.stages} stages of {place.system.id}; "
                f"give at least {place.stages}"
            )
        # The last stage has the head too.
        counts += [each + (stage < more) for stage in range(place.stages)]
    return tuple(counts)


def _hops(
    places: Sequence[TrainPlace],
    makers: Sequence[StepMaker],
    links: Sequence[StageLink],
) -> list[Send]:
    """Return one send from each rank to the next."""
    found: list[Send] = []
    for index, (place, maker) in enumerate(zip(places, makers, strict=True)):
        if place.stages > 1:
            found += [next_stage_time(maker)] * (place.stages - 1)
        if index < len(links):
            link = links[index]
            found.append(Send(link.fixed, link.transfer, link.use))
    return [*found, Send(0.0, 0.0, {})]  # nothing goes from the last rank to the first


def _trained(
    places: Sequence[TrainPlace],
    makers: Sequence[StepMaker],
    made: Step,
    parts: Sequence[range],
    economics: Economics,
) -> tuple[TrainedPlace, ...]:
    """Return memory, work and power of each place."""
    held, found, start = held_microbatches(makers[0].config), [], 0
    for place, maker in zip(places, makers, strict=True):
        ranks = range(start, start + place.stages)
        fullest = max(
            (
                rank_memory(
                    maker.model, maker.stack, maker.config, rank, parts, held[rank]
                )
                for rank in ranks
            ),
            key=lambda footprint: footprint.total,
        )
        device = place.system.device
        mean = {
            name: sum(made.by_rank[rank].parts[name] for rank in ranks) / place.stages
            for name in PARTS
        }
        # All wait for the host that takes longest over its step.
        mean["overhead"] += made.overhead
        host = place.system.power_overhead
        known = economics.prices.get(device.id)
        found.append(
            TrainedPlace(
                place, maker.config, ranks, tuple(parts[r] for r in ranks), fullest,
                memory_fit(fullest.total, device, place.stack, ()),
                max(_microbatch(made, rank) for rank in ranks), mean,
                None if device.power.tdp is None
                else mean_power(device, mean, economics.power, pipeline=True),
                economics.host_share if host is None else host,
                known if place.price is None else place.price,
            )
        )  # fmt: skip
        start = ranks.stop
    return tuple(found)


def _microbatch(made: Step, rank: int) -> float:
    """Return the work of one microbatch on a rank. [s]"""
    if made.pipeline is None:
        return 0.0
    count = made.pipeline.order.num_microbatches
    return float(made.pipeline.busy[rank]) / count
