"""Options of ``hwsim serve`` beyond the usual ones."""

from __future__ import annotations

from pathlib import Path
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


_OPERATIONS = "Clients and fleet"
_DRAFTS = "Speculative decoding"

RateProfile = Annotated[
    str | None,
    typer.Option(
        help="ramp:FIRST:LAST (factors of the rate) or daily:AMPLITUDE[:PERIOD].",
        rich_help_panel="Traffic",
    ),
]
Preemption = Annotated[
    str | None,
    typer.Option(
        help="recompute or swap.  [default: the engine's]", rich_help_panel="Engine"
    ),
]
PrefixCaching = Annotated[
    bool | None,
    typer.Option(
        help="Keep blocks of prompts and answers for prompts that begin with them."
        "  [default: the engine's]",
        rich_help_panel="Engine",
    ),
]
Turns = Annotated[
    int,
    typer.Option(
        help="Requests of a session; each prompt has all that was said before.",
        rich_help_panel="Traffic",
    ),
]
ThinkTime = Annotated[
    str | None,
    typer.Option(
        help="Mean time from an answer to the next turn, such as 10s.  [default: 0s]",
        rich_help_panel="Traffic",
    ),
]
Timeout = Annotated[
    str | None,
    typer.Option(
        help="Clients give up unless answered by then, such as 60s.",
        rich_help_panel=_OPERATIONS,
    ),
]
MaxQueue = Annotated[
    int | None,
    typer.Option(
        help="Requests that wait at a replica; more are turned away.",
        rich_help_panel=_OPERATIONS,
    ),
]
Mtbf = Annotated[
    str | None,
    typer.Option(
        help="Mean time between failures of a replica, such as 24h.",
        rich_help_panel=_OPERATIONS,
    ),
]
Repair = Annotated[
    str | None,
    typer.Option(
        help="Time that a failed replica is away.  [default: 300s]",
        rich_help_panel=_OPERATIONS,
    ),
]
MaxRetries = Annotated[
    int | None,
    typer.Option(
        help="How often a request begins anew after failures.  [default: 3]",
        rich_help_panel=_OPERATIONS,
    ),
]
MinReplicas = Annotated[
    int | None,
    typer.Option(
        help="Autoscaling between so many and --replicas.", rich_help_panel=_OPERATIONS
    ),
]
ScaleTarget = Annotated[
    int | None,
    typer.Option(
        help="Requests per replica that it aims at.  [default: 32]",
        rich_help_panel=_OPERATIONS,
    ),
]
Startup = Annotated[
    str | None,
    typer.Option(
        help="Time that a replica takes to start.  [default: 60s]",
        rich_help_panel=_OPERATIONS,
    ),
]
SpecTokens = Annotated[
    int | None,
    typer.Option(help="Tokens drafted per round.", rich_help_panel=_DRAFTS),
]
Acceptance = Annotated[
    float | None,
    typer.Option(
        help="Share of drafted tokens that are accepted.", rich_help_panel=_DRAFTS
    ),
]
Draft = Annotated[
    str | None,
    typer.Option(
        help="ngram, mtp or a smaller model.  [default: ngram]",
        rich_help_panel=_DRAFTS,
    ),
]
TraceOut = Annotated[
    Path | None,
    typer.Option(help="Write a Perfetto trace of requests here, a row for each."),
]
TraceSeconds = Annotated[
    float, typer.Option(help="Requests that arrive in the first seconds are in it.")
]
Watch = Annotated[
    bool,
    typer.Option("--watch", help="Show how it stands while it runs, in a terminal."),
]
