"""What the columns of measured rows must fulfil together, by operator family."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwsim.specs.measurement.names import RATE_UNITS


@dataclass(frozen=True, slots=True)
class Rule:
    """What the columns of a row must fulfil together.

    Attributes
    ----------
    column : str
        Column that is named as wrong.
    reason : str
        What is wrong.
    broken : callable
        Marks the rows that break it, given the columns.
    """

    column: str
    reason: str
    broken: Callable[[Mapping[str, Any]], NDArray[np.bool_]]


RULES: dict[str, tuple[Rule, ...]] = {
    "attention": (
        Rule(
            "kv_heads", "does not divide heads",
            lambda c: np.mod(c["heads"], _or(c["kv_heads"], 1.0)) != 0,
        ),
        Rule(
            "seq_q", "is empty; prefill and mixed rows need it",
            lambda c: np.isnan(c["seq_q"]) & (c["op"] != "decode"),
        ),
        Rule(
            "seq_q", "exceeds seq_kv, which counts the new tokens too",
            lambda c: c["seq_q"] > c["seq_kv"],
        ),
        Rule(
            "seq_q", "is more than 1 in a decode row; name the operator mixed",
            lambda c: (c["op"] == "decode") & (c["seq_q"] > 1),
        ),
        Rule(
            "n_decode", "and seq_kv_decode go together",
            lambda c: (c["n_decode"] > 0) != (c["seq_kv_decode"] > 0),
        ),
    ),
    "moe": (
        Rule("topk", "exceeds experts", lambda c: c["topk"] > c["experts"]),
        Rule(
            "ep", "does not divide experts",
            lambda c: np.mod(c["experts"], c["ep"]) != 0,
        ),
    ),
    "collective": (
        Rule(
            "gpus_per_node_used", "does not divide world_size",
            lambda c: np.mod(c["world_size"], _or(c["gpus_per_node_used"], 1.0)) != 0,
        ),
        Rule(
            "gpus_per_node_used", "exceeds gpus_per_node_max",
            lambda c: c["gpus_per_node_used"] > c["gpus_per_node_max"],
        ),
    ),
    "end_to_end": (
        Rule(
            "value", "is empty; give it with its unit, or latency_us",
            lambda c: np.isnan(c["value"]) & np.isnan(c["latency_us"]),
        ),
        Rule(
            "unit", "is no rate, as throughput needs, or no time, as other metrics do",
            lambda c: np.isin(c["unit"], RATE_UNITS) != (c["metric"] == "throughput"),
        ),
        Rule(
            "global_batch", "and seq_len are needed to train; one is empty",
            lambda c: (c["op"] == "train")
            & (np.isnan(_or(c["global_batch"], c["batch"])) | np.isnan(c["seq_len"])),
        ),
        Rule(
            "batch", "and isl are needed to infer; one is empty",
            lambda c: (c["op"] == "infer")
            & (np.isnan(c["batch"]) | np.isnan(_or(c["isl"], c["context"]))),
        ),
    ),
}  # fmt: skip


def _or(values: Any, default: Any) -> Any:
    return np.where(np.isnan(values), default, values)
