"""Tables of published serving points: one row is one closed loop of clients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hwsim.specs.published.cells import (
    CellRow,
    Cells,
    cell_rows,
    number,
    positive,
    tokens,
    whole,
)

TEXTS = (
    "source", "model", "device", "backend", "backend_version", "precision", "mode",
    "gemm_quant_mode", "moe_quant_mode", "kv_dtype", "measured", "confidence",
)  # fmt: skip
DEGREES = (
    "tp_size", "pp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size",
)  # fmt: skip
_POOLS = ("prefill", "decode")
COUNTS = (
    "isl", "osl", "concurrency", "batch_size", *DEGREES,
    *(f"{p}_{n}" for p in _POOLS for n in ("batch_size", "num_workers", *DEGREES)),
)  # fmt: skip
FIGURES = ("ttft_ms", "tpot_ms")
REQUIRED = ("model", "device", "isl", "osl")


@dataclass(frozen=True)
class Workers:
    """Servers of one pool, as a row states them; None where it does not.

    Attributes
    ----------
    num_workers, batch_size : int or None
        Servers; requests that one of them runs, or each of its devices with
        attention of its own.
    tp, pp, attention_dp, moe_tp, moe_ep : int or None
        Degrees inside one.
    """

    num_workers: int | None = None
    batch_size: int | None = None
    tp: int | None = None
    pp: int | None = None
    attention_dp: int | None = None
    moe_tp: int | None = None
    moe_ep: int | None = None


@dataclass(frozen=True)
class ServingRow:
    """One row as it stands: a blank cell is None, or empty text.

    Attributes
    ----------
    mode : str
        ``agg``: one pool does prefill and decode; ``disagg``: two pools.
    isl, osl : int or None
        Tokens of prompts and answers.
    concurrency : int or None
        Clients, each with one request under way.
    pool, prefill, decode : Workers
        Of the only pool; of the two.
    ttft_s, tpot_s : float or None
        Published figures. [s]
    fault : str
        Why the row cannot be used; empty where it can.
    """

    file: str
    row: int
    source: str = ""
    model: str = ""
    device: str = ""
    backend: str = ""
    backend_version: str = ""
    precision: str = ""
    mode: str = ""
    gemm_quant_mode: str = ""
    moe_quant_mode: str = ""
    kv_dtype: str = ""
    measured: str = ""
    confidence: str = ""
    isl: int | None = None
    osl: int | None = None
    concurrency: int | None = None
    pool: Workers = Workers()
    prefill: Workers = Workers()
    decode: Workers = Workers()
    ttft_s: float | None = None
    tpot_s: float | None = None
    fault: str = ""

    @property
    def disaggregated(self) -> bool:
        """Whether prompts have servers of their own."""
        return self.mode.casefold().startswith("disagg")

    @property
    def throughput(self) -> float | None:
        """Output tokens per second by Little's law, where both times are given.

        ``concurrency`` clients always wait for an answer: tokens over the time
        that one takes.
        """
        if self.concurrency is None or self.osl is None:
            return None
        return little(self.concurrency, self.osl, self.ttft_s, self.tpot_s)


def little(
    clients: float, tokens: float, ttft_s: float | None, tpot_s: float | None
) -> float | None:
    """Return the tokens per second of clients that wait for their answers. [1/s]

    Examples
    --------
    >>> little(4, 101, 1.0, 0.01)
    202.0
    """
    if ttft_s is None or tpot_s is None:
        return None
    return clients * tokens / (ttft_s + tpot_s * (tokens - 1.0))


def read_serving(path: Path) -> tuple[ServingRow, ...]:
    """Read a table of serving points.

    A cell that cannot be read makes its row one that cannot be used and says
    why; it is never dropped.

    Raises
    ------
    SpecError
        If the file cannot be read or lacks the columns that name a point.
    """
    rows = cell_rows(path, "published serving points", REQUIRED)
    return tuple(_row(str(path), row) for row in rows)


def _row(file: str, row: CellRow) -> ServingRow:
    if row.fault:
        return ServingRow(file, row.number, fault=row.fault)
    cells = Cells(row.cells)
    fields = cells.texts(TEXTS)
    counts = {name: cells.read(name, _count) for name in COUNTS}
    times = {n.replace("_ms", "_s"): cells.read(n, _time) for n in FIGURES}
    if not cells.faults:
        fields |= times
        fields |= {n: counts[n] for n in ("isl", "osl", "concurrency")}
        fields["pool"] = _workers(counts, "")
        fields |= {pool: _workers(counts, f"{pool}_") for pool in _POOLS}
        if fields["concurrency"] is None and not fields["mode"].startswith("dis"):
            fields["concurrency"] = _clients(fields["pool"])
    return ServingRow(file, row.number, **fields, fault="; ".join(cells.faults))


def _workers(counts: Mapping[str, int | None], prefix: str) -> Workers:
    # A degree of nought is one that the source did not use.
    degrees = {
        name.removesuffix("_size"): counts.get(prefix + name) or None
        for name in DEGREES
    }
    return Workers(
        counts.get(f"{prefix}num_workers"), counts.get(f"{prefix}batch_size"), **degrees
    )


def _clients(pool: Workers) -> int | None:
    """Return the clients that fill the batches of a pool, if those are known."""
    if pool.batch_size is None:
        return None
    return pool.batch_size * (pool.attention_dp or 1)


def _count(cell: str) -> int | None:
    return whole(tokens(cell), cell, least=0)


def _time(cell: str) -> float | None:
    milliseconds = positive(number(cell), cell)
    return None if milliseconds is None else milliseconds * 1e-3
