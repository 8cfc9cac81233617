"""Layouts of a plan as plain rows, and as commands that run them again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from hwsim.analysis.training.train import TrainResult

# Options of ``hwsim train``, and the value at which one need not be written.
_OPTIONS: tuple[tuple[str, Any], ...] = (
    ("tp", 1), ("cp", 1), ("pp", 1), ("vpp", 1), ("ep", 1), ("schedule", "1f1b"),
    ("micro_batch", 1), ("global_batch", None), ("seq", None), ("dtype", None),
    ("recompute", "none"), ("optimizer", "adamw"), ("zero_stage", 0),
    ("dp_shard", None), ("sequence_parallel", False), ("offload_optimizer", False),
    ("offload_activations", False),
)  # fmt: skip


@dataclass(frozen=True)
class Names:
    """What a plan was asked for, as it is written in a command.

    Attributes
    ----------
    model, stack : str
        Name or path.
    systems : mapping of str to str
        Name or path by id.
    """

    model: str
    stack: str
    systems: Mapping[str, str] = field(default_factory=dict)
    fidelity: str = "auto"
    overrides: tuple[str, ...] = ()


def layout_of(result: TrainResult) -> dict[str, Any]:
    """Return the layout of a simulated step, by name."""
    config = result.config
    names = (
        "devices", "tp", "cp", "pp", "vpp", "ep", "dp", "micro_batch", "zero_stage",
        "recompute", "schedule", "offload_optimizer", "offload_activations",
        "dp_shard",
    )  # fmt: skip
    return {
        "system": result.system.id, **{n: getattr(config, n) for n in names}
    }  # fmt: skip


def command_of(result: TrainResult, names: Names) -> str:
    """Return the command that predicts a layout's step by itself."""
    config, system = result.config, result.system.id
    words = [
        "hwsim", "train", names.model, "-s", names.systems.get(system, system),
        "--devices", str(config.devices),
    ]  # fmt: skip
    for name, usual in _OPTIONS:
        value = getattr(config, name)
        if value == usual:
            continue
        words.append("--" + name.replace("_", "-"))
        words += [] if value is True else [str(value)]
    if names.stack != "default-training":
        words += ["--stack", names.stack]
    if names.fidelity != "auto":
        words += ["--fidelity", names.fidelity]
    for change in names.overrides:
        words += ["--set", change]
    return shlex.join(words)


def rows_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table as plain dicts."""
    rows = frame.to_dict("records")
    plain = [
        {k: v.item() if hasattr(v, "item") else v for k, v in row.items()}
        for row in rows
    ]
    return [{str(k): v for k, v in row.items()} for row in plain]
