"""Layouts of a plan as plain rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from hwsim.analysis.training.train import TrainResult


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


def rows_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table as plain dicts."""
    rows = frame.to_dict("records")
    plain = [
        {k: v.item() if hasattr(v, "item") else v for k, v in row.items()}
        for row in rows
    ]
    return [{str(k): v for k, v in row.items()} for row in plain]
