"""Tables of published training runs: one row is one figure and its run."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hwsim.specs.published.cells import CellRow, Cells, cell_rows, positive, whole
from hwsim.specs.published.names import published_device
from hwsim.specs.published.units import MOST_SEQUENCES, cell_number, headline

TEXTS = (
    "source", "model", "device", "recompute", "dtype", "flash_attention", "metric",
    "unit", "confidence", "notes", "stack", "system", "optimizer",
)  # fmt: skip
COUNTS = (
    "layers", "hidden", "heads", "kv_heads", "ffn", "vocab", "seq_len",
    "global_batch", "micro_batch", "num_devices", "tp", "pp", "vpp", "dp", "cp", "ep",
    "etp", "dp_shard", "recompute_every", "lora_rank",
    "decoder_seq",
)  # fmt: skip
NUMBERS = (
    "params_b", "value", "iter_time_s", "tflops_per_device", "mfu",
    "tokens_per_s_per_device",
)  # fmt: skip
REQUIRED = ("model", "device", "num_devices")
# What is compared, the first that is given: see ``PublishedRun.figure``.
FIGURES = ("iter_time_s", "tokens_per_s_per_device", "tflops_per_device", "mfu")
_FIGURES = (*FIGURES, "value")
# Sharing out of states by a framework's name for it.
_STAGES = (
    (r"^(fsdp|hsdp|hybrid|fully[ -]shard)", 3),
    (r"^(ddp|data[ -]parallel|replicat)", 0),
    (r"^(dist\w*[ -]opt|opt\w*[ -]stat)", 1),
)
_DEGREES = ("tp", "pp", "vpp", "cp", "ep", "etp")
_PRODUCT = re.compile(r"(\d{1,6})\s*[x×*]\s*(\d{1,6})(?:\s*[a-zA-Z].*)?")
_TWO = re.compile(r"[~≈<> ]*\d[\d,]*\s*(?:[-–/:x×*]|to)\s*\d")
_WORDS = {
    "yes": True, "true": True, "1": True, "on": True,
    "no": False, "false": False, "0": False, "off": False,
}  # fmt: skip


@dataclass(frozen=True)
class PublishedRun:
    """One row as it stands: a blank cell is None, or empty text.

    Attributes
    ----------
    file, row
        Where it stands; rows count from 1 below the heading.
    ffn_words : str
        The feed-forward cell as printed (it may hold several widths).
    value : float or None
        The headline figure, in ``unit``.
    iter_time_s, tokens_per_s_per_device, mfu, tflops_per_device
        The figure as a time [s], rate [1/s], share of the peak, or TFLOP/s.
    offload_optimizer, offload_activations : bool
        Optimizer states; what layers keep for backward is on the host: mappings say so.
    lora_targets : tuple of str
        Where adapters stand; mappings say so.
    cp_mode : str
        How context-parallel ranks exchange; mappings say so.
    fault : str
        Why the row cannot be used; empty where it can.
    """

    file: str
    row: int
    source: str = ""
    model: str = ""
    device: str = ""
    recompute: str = ""
    dtype: str = ""
    flash_attention: str = ""
    metric: str = ""
    unit: str = ""
    confidence: str = ""
    notes: str = ""
    stack: str = ""
    system: str = ""
    optimizer: str = ""
    ffn_words: str = ""
    layers: int | None = None
    hidden: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    ffn: int | None = None
    vocab: int | None = None
    seq_len: int | None = None
    global_batch: int | None = None
    micro_batch: int | None = None
    num_devices: int | None = None
    tp: int | None = None
    pp: int | None = None
    vpp: int | None = None
    dp: int | None = None
    cp: int | None = None
    ep: int | None = None
    etp: int | None = None
    dp_shard: int | None = None
    recompute_every: int | None = None
    lora_rank: int | None = None
    decoder_seq: int | None = None
    lora_targets: tuple[str, ...] = ()
    cp_mode: str = ""
    zero_stage: int | None = None
    sequence_parallel: bool | None = None
    offload_optimizer: bool = False
    offload_activations: bool = False
    params_b: float | None = None
    value: float | None = None
    iter_time_s: float | None = None
    tflops_per_device: float | None = None
    mfu: float | None = None
    tokens_per_s_per_device: float | None = None
    fault: str = ""

    @property
    def device_id(self) -> str:
        """The catalog's id of the device; the cell itself where it has none."""
        return published_device(self.device)

    @property
    def slices(self) -> int:
        """Parts of a TPU cluster that the data-centre network joins, of the remarks."""
        if "tpu" not in self.device_id.casefold():
            return 1
        found = re.search(r"\b(\d{1,4})\s+slices?\b", self.notes.casefold())
        return max(int(found[1]), 1) if found else 1

    @property
    def figure(self) -> str:
        """Column compared: time, then rate, then utilisation; empty if none."""
        return next((n for n in FIGURES if getattr(self, n) is not None), "")


@dataclass(frozen=True)
class PublishedTable:
    """Rows of some files, and the files."""

    runs: tuple[PublishedRun, ...]
    files: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.runs)


def read_published(paths: Sequence[str | Path]) -> PublishedTable:
    """Read tables of published runs.

    A cell that cannot be read makes its row one that cannot be used and says
    why; it is never dropped. A missing column of the run is blank in all rows.

    Raises
    ------
    SpecError
        If a file cannot be read or lacks the columns that name a run.
    """
    runs: list[PublishedRun] = []
    for text in paths:
        path = Path(text).expanduser()
        rows = cell_rows(path, "published training runs", REQUIRED, _FIGURES)
        runs += [_run(str(path), row) for row in rows]
    return PublishedTable(tuple(runs), tuple(str(path) for path in paths))


def _run(file: str, row: CellRow) -> PublishedRun:
    if row.fault:
        return PublishedRun(file, row.number, fault=row.fault)
    cells = Cells(row.cells)
    # "none" is an answer in these columns, not a blank.
    fields: dict[str, Any] = {name: row.cells.get(name, "") for name in TEXTS}
    fields["ffn_words"] = row.cells.get("ffn", "")
    for name in (*COUNTS, *NUMBERS, "zero_stage"):
        if name != "value":
            fields[name] = cells.read(name, functools.partial(_number, name))
    fields["sequence_parallel"] = cells.read("sequence_parallel", _flag)
    headline_cells = Cells(row.cells)
    fields["value"] = headline_cells.read("value", functools.partial(_number, "value"))
    if not any(fields[name] for name in FIGURES):
        cells.faults += headline_cells.faults  # it alone says what was measured
    if fields["global_batch"]:
        fields["global_batch"] = _in_sequences(
            fields["global_batch"], row.cells["global_batch"], fields["seq_len"]
        )
    if fields["num_devices"] is None and not cells.faults:
        fields["num_devices"] = _counted(fields)
        if fields["num_devices"] is None:
            cells.faults.append("num_devices is not given, nor what it follows from")
    if not cells.faults and not any(fields[name] for name in FIGURES):
        fields |= _headline(fields)
    return PublishedRun(
        file, row.number, **{"fault": "; ".join(cells.faults), **fields}
    )


def _counted(fields: Mapping[str, Any]) -> int | None:
    """Return how many devices the degrees make, or the device's name says."""
    if fields["dp"]:
        return int(math.prod(fields[name] or 1 for name in ("dp", "tp", "pp", "cp")))
    name = str(fields["device"]).casefold()
    if found := re.match(r"(\d{1,5})\s*[x×*]\s*[a-z]", name):
        return int(found[1])
    if found := re.search(r"v(\d)([a-z]*)-(\d{1,5})$", name.replace(" ", "-")):
        cores = found[1] in "234" or found[2] == "p"  # two a chip
        return max(int(found[3]) // (2 if cores else 1), 1)
    return None


def _headline(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the headline figure as one of the columns; else what is wrong."""
    value, unit = fields.get("value"), str(fields["unit"])
    if value is None:
        return {}
    metric, devices = str(fields["metric"]), fields.get("num_devices") or 1
    found = headline(value, unit, metric, devices, fields.get("seq_len"))
    if found is not None:
        return {found.column: found.value}
    if fields.get("seq_len") is None and headline(value, unit, metric, devices, 1):
        return {"fault": "seq_len is not given, and a rate of sequences goes with it"}
    what = f"unit {unit!r} of metric {metric!r} is not known as a step's"
    remedy = "write for example s, tokens/s/device, sequences/s or TFLOP/s/device"
    return {"fault": f"{what}; {remedy}"}


def _number(name: str, cell: str) -> float | int | None:
    if name == "zero_stage":
        return _zero_stage(cell)
    if name in NUMBERS:
        return positive(cell_number(name, cell), cell)
    if product := _PRODUCT.fullmatch(cell) if name == "num_devices" else None:
        return int(product[1]) * int(product[2])
    if name in _DEGREES and _WORDS.get(cell.casefold()) is False:
        return 1  # not used
    if name != "ffn" and _TWO.match(cell):
        raise ValueError(f"{cell[:60]!r} is more than one number")
    if name == "num_devices" and re.search(r"\bnodes?\b", cell.casefold()):
        raise ValueError(f"{cell[:60]!r} counts nodes: write the devices")
    return whole(cell_number(name, cell), cell)


def _zero_stage(cell: str) -> int | None:
    """Return how far states are shared out, by number or as frameworks call it."""
    word = cell.casefold()
    named = next((stage for words, stage in _STAGES if re.search(words, word)), None)
    if named is not None:
        return named
    found = re.search(r"(?:zero|stage|sharding)\D{0,9}(\d)", word)
    return whole(cell_number("zero_stage", found[1] if found else cell), cell, least=0)


def _in_sequences(batch: int, cell: str, seq_len: int | None) -> int:
    """Return a batch that may be printed in tokens."""
    tokens = "tok" in cell.casefold() or batch >= MOST_SEQUENCES
    return max(round(batch / seq_len), 1) if tokens and seq_len else batch


def _flag(cell: str) -> bool | None:
    if not cell:
        return None
    known = _WORDS.get(cell.casefold())
    if known is None:
        raise ValueError(f"{cell!r} is neither yes nor no")
    return known
