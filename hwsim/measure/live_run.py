"""Times one step of the NumPy Transformer; runs in a worker."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from hwsim.measure.cpu_work import step_clock, undisturbed
from hwsim.measure.live_model import LiveModel, Transformer
from hwsim.measure.live_training import Trainer

TARGET = 0.6  # spent on one step's samples. [s]


def prepared(order: dict[str, Any]) -> tuple[Transformer, Callable[[], Any]]:
    """Return a Transformer and the step that an order asks for."""
    model = LiveModel(**order["model"])
    batch, tokens = int(order["batch"]), int(order["tokens"])
    if order["work"] == "train":
        trainer = Trainer(model, batch, tokens)
        return trainer, trainer.step
    if order["work"] == "prefill":
        prompt = Transformer(model, batch, tokens)
        return prompt, prompt.prefill
    decoder = Transformer(model, batch, 1)
    for i in range(model.layers):
        for kept in decoder.cache(i, tokens):
            kept[...] = decoder.rng.standard_normal(kept.shape, dtype="float32")
    return decoder, lambda: decoder.decode(tokens)


def operators_of(model: Transformer, step: Callable[[], Any]) -> list[dict[str, Any]]:
    """Return what one step runs: each operator and shape, with its count."""
    model.trace = []
    step()
    trace, model.trace = model.trace, None
    counts = Counter(tuple(entry.items()) for entry in trace)
    return [{**dict(entry), "count": count} for entry, count in counts.items()]


def run_live(order: dict[str, Any], left: float) -> dict[str, Any]:
    """Return samples of a step and the operators in it."""
    model, step = prepared(order)
    step()
    operators = operators_of(model, step)

    clock = step_clock(int(order.get("threads", 0)))

    def sample() -> float:
        start = clock()
        step()
        return clock() - start

    samples, disturbed = undisturbed(sample, left, TARGET)
    return {"samples": samples, "disturbed": disturbed, "operators": operators}
