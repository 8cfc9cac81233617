"""Options of ``hwsim serve`` beyond the usual ones."""

from __future__ import annotations

from typing import Annotated

import typer

_PREFILL = "Prompts on replicas of their own"

PrefillReplicas = Annotated[
    int | None,
    typer.Option(
        help="Replicas that run prompts only; the others then decode.",
        rich_help_panel=_PREFILL,
    ),
]
PrefillTp = Annotated[
    int | None,
    typer.Option(help="Their tensor-parallel devices.", rich_help_panel=_PREFILL),
]
PrefillPp = Annotated[
    int | None, typer.Option(help="Their pipeline stages.", rich_help_panel=_PREFILL)
]
PrefillEp = Annotated[
    int | None,
    typer.Option(help="Their ranks that share experts out.", rich_help_panel=_PREFILL),
]
PrefillAttentionDp = Annotated[
    int | None,
    typer.Option(help="Their groups in lock step.", rich_help_panel=_PREFILL),
]
PrefillSystem = Annotated[
    str | None,
    typer.Option(
        help="Their system.  [default: as the others]", rich_help_panel=_PREFILL
    ),
]
PrefillEngine = Annotated[
    str | None,
    typer.Option(
        help="Their engine.  [default: as the others]", rich_help_panel=_PREFILL
    ),
]
PrefillSeqs = Annotated[
    int | None,
    typer.Option(
        help="Their most requests at a time.  [default: the engine's]",
        rich_help_panel=_PREFILL,
    ),
]
PrefillTokens = Annotated[
    int | None,
    typer.Option(
        help="Their most tokens of a step.  [default: the engine's]",
        rich_help_panel=_PREFILL,
    ),
]
KvBandwidth = Annotated[
    str | None,
    typer.Option(
        help='Of each device\'s transfers, such as "50 GB/s".  [default: the '
        "system's network]",
        rich_help_panel=_PREFILL,
    ),
]
