"""Tables of published inference figures: one row is one figure and its run."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hwsim.specs.published.cells import (
    DIGITS,
    Cells,
    cell_rows,
    is_blank,
    number,
    plain,
    positive,
    tokens,
    whole,
)

Load = Literal["", "fixed", "closed", "open", "max"]
Metric = Literal["", "ttft", "tpot", "latency", "throughput"]

TEXTS = (
    "source", "model", "device", "dtype", "kv_dtype", "weight_dtype", "backend",
    "metric", "unit", "confidence", "notes", "stack", "system", "engine",
)  # fmt: skip
COUNTS = (
    "layers", "hidden", "heads", "kv_heads", "ffn", "vocab", "num_devices", "tp",
    "pp", "dp", "ep",
)  # fmt: skip
REQUIRED = ("model", "device", "metric", "value")
_AMOUNTS = {"params_b", "value"}
_STATISTICS = {
    "mean": None, "avg": None, "average": None, "median": 0.5, "min": 0.0, "max": 1.0,
}  # fmt: skip


@dataclass(frozen=True)
class InferenceRow:
    """One row as it stands: a blank cell is None, or empty text.

    Attributes
    ----------
    file, row
        Where it stands; rows count from 1 below the heading.
    isl, osl : float or None
        Tokens of the prompt and of the answer; 0 where a phase is absent.
    load : str
        How requests come: ``fixed`` (one batch), ``closed`` (so many clients),
        ``open`` (a rate), ``max`` (all at once); empty: not said.
    size : float or None
        Batch, clients, or requests per second, by ``load``.
    requests : int or None
        How many were sent.
    kind : str
        What ``metric`` is: ``ttft``, ``tpot``, ``latency``, ``throughput``.
    quantile : float or None
        Which of the distribution; None is its mean.
    published : float or None
        The figure in SI: s, or 1/s of ``counts``.
    counts : str
        What a throughput counts: ``output``, ``input``, ``total``,
        ``requests``; the words of metric and unit decide.
    per_device : bool
        Whether a throughput is that of one device.
    phase : str
        ``prefill`` or ``decode`` where the metric is of that phase alone.
    fault : str
        Why the row cannot be used; empty where it can.
    """

    file: str
    row: int
    source: str = ""
    model: str = ""
    device: str = ""
    dtype: str = ""
    kv_dtype: str = ""
    weight_dtype: str = ""
    backend: str = ""
    metric: str = ""
    unit: str = ""
    confidence: str = ""
    notes: str = ""
    stack: str = ""
    system: str = ""
    engine: str = ""
    ffn_words: str = ""
    layers: int | None = None
    hidden: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    ffn: int | None = None
    vocab: int | None = None
    num_devices: int | None = None
    tp: int | None = None
    pp: int | None = None
    dp: int | None = None
    ep: int | None = None
    params_b: float | None = None
    isl: float | None = None
    osl: float | None = None
    load: Load = ""
    size: float | None = None
    requests: int | None = None
    kind: Metric = ""
    quantile: float | None = None
    published: float | None = None
    counts: str = ""
    per_device: bool = False
    phase: str = ""
    fault: str = ""

    @property
    def version(self) -> tuple[int, ...] | None:
        """Release in the backend's words: (0, 17) of ``TensorRT-LLM 0.17``.

        Of one that counts its builds, that count: (6918,) of ``llama.cpp b6918``.
        """
        found = re.search(r"(?:^|[\s\-(@=])v?(\d+(?:\.\d+)+)", self.backend)
        found = found or re.search(r"\bb(?:uild)?[\s:]*(\d{3,5})\b", self.backend)
        return version_of(found[1]) if found else None

    @property
    def ubatch(self) -> int | None:
        """Tokens of a pass over prompts, where the row's words name them.

        Examples
        --------
        >>> InferenceRow("t", 1, notes="n_ubatch 2048, fa 1").ubatch
        2048
        """
        words = f"{self.backend} {self.notes}"
        found = re.search(r"(?:\bn_|\b|-)ub(?:atch)?[\s=]+(\d{2,6})\b", words)
        return int(found[1]) if found else None

    @property
    def most_at_once(self) -> int | None:
        """Most requests of the engine, where the row's remarks name them.

        Examples
        --------
        >>> InferenceRow("t", 1, notes="--max-num-seqs 512").most_at_once
        512
        """
        found = re.search(r"max[-_ ]num[-_ ]seqs[\s=:]+(\d{1,6})\b", self.notes)
        return int(found[1]) if found else None


def version_of(text: str) -> tuple[int, ...]:
    """Return a release's numbers, to be compared.

    Examples
    --------
    >>> version_of("0.9") < version_of("0.17.1")
    True
    """
    return tuple(int(part) for part in text.split("."))


def read_inference(path: Path) -> tuple[InferenceRow, ...]:
    """Read a table of published inference figures.

    A cell that cannot be read makes its row one that cannot be used and says
    why; it is never dropped. A missing column is blank in all rows.

    Raises
    ------
    SpecError
        If the file cannot be read or lacks the columns that name a figure.
    """
    rows = cell_rows(path, "published inference figures", REQUIRED)
    return tuple(
        InferenceRow(str(path), row.number, fault=row.fault)
        if row.fault
        else inference_row(str(path), row.number, row.cells)
        for row in rows
    )


def inference_row(file: str, row: int, cells: Mapping[str, str]) -> InferenceRow:
    """Return the row of some cells; what cannot be read is its fault."""
    reader = Cells(cells)
    fields = reader.texts(TEXTS)
    fields["ffn_words"] = cells.get("ffn", "")
    for name in (*COUNTS, "params_b", "isl", "osl"):
        fields[name] = reader.read(name, functools.partial(_number, name))
    value = reader.read("value", functools.partial(_number, "value"))
    loads = "batch_or_concurrency"
    words = loads if cells.get(loads) else "batch"
    fields |= reader.read(words, load_words) or {}
    fields |= metric_words(fields["metric"], fields["unit"])
    if not reader.faults:
        try:
            fields["published"] = _in_si(value, fields)
        except ValueError as error:
            reader.faults.append(str(error))
    if not fields.get("requests"):
        fields["requests"] = _requests(fields["notes"])
    return InferenceRow(file, row, **fields, fault="; ".join(reader.faults))


def _number(name: str, cell: str) -> float | int | None:
    if name in {"isl", "osl"}:
        value = tokens(cell)
        if value is not None and not 0.0 <= value <= 1e8:
            raise ValueError(f"{cell!r} is not a number of tokens")
        return value
    value = number(cell)
    return positive(value, cell) if name in _AMOUNTS else whole(value, cell)


def load_words(words: str) -> dict[str, Any]:
    """Return load, size and requests from the words of a cell.

    Examples
    --------
    >>> load_words("QPS 4")["load"], load_words("max load (3000 requests)")["requests"]
    ('open', 3000)
    """
    text = words.casefold()
    found: dict[str, Any] = {"load": "", "size": None, "requests": _requests(text)}
    if is_blank(text):
        return found
    numbers = [plain(digits) for digits in re.findall(DIGITS, text)]
    rated = re.search(r"qps|req(uest)?s?\s*(/|per)\s*s|rps|rate", text)
    if "inf" in text.replace("inference", "") or "max" in text or "offline" in text:
        return found | {"load": "max"}
    if not numbers or numbers[0] <= 0:
        raise ValueError(f"{words!r} has no number above zero")
    if rated:
        return found | {"load": "open", "size": numbers[0]}
    load = "closed" if re.search(r"conc|client|user|\bc\s*=|closed", text) else ""
    if not load and "batch" in text:
        load = "fixed"
    if not numbers[0].is_integer():
        raise ValueError(f"{words!r} is not a whole number")
    return found | {"load": load, "size": numbers[0]}


def _requests(text: str) -> int | None:
    found = re.search(r"(\d[\d,]*)\s*(?:requests|prompts)\b", text.casefold())
    return int(found[1].replace(",", "")) if found else None


def metric_words(metric: str, unit: str) -> dict[str, Any]:
    """Return what a metric is, by its words and those of its unit.

    Examples
    --------
    >>> metric_words("p90_next_token_latency", "ms")["kind"]
    'tpot'
    >>> metric_words("total_throughput", "tokens/s/gpu")["per_device"]
    True
    """
    name, of = metric.casefold(), unit.casefold()
    words = set(re.split(r"[^a-z0-9.]+", name))
    found: dict[str, Any] = {
        "kind": _kind(name, words, of), "quantile": None, "counts": "",
        "per_device": False, "phase": _phase(name),
    }  # fmt: skip
    for word in words:
        if re.fullmatch(r"p\d{2}(\.\d+)?", word):
            found["quantile"] = float(word[1:]) / 100.0
        elif word in _STATISTICS and found["quantile"] is None:
            found["quantile"] = _STATISTICS[word]
    if found["kind"] == "throughput":
        found["counts"] = _counts(name, of)
        whole = re.search(r"whole|system|total|all", of)
        found["per_device"] = not whole and bool(
            re.search(
                r"(/|per)[\s-]*(device|gpu|chip|card|accelerator)", f"{name} {of}"
            )
        )
        found["quantile"] = None
    return found


def _phase(name: str) -> str:
    if re.search(r"prefill|prompt|forward|encod|\bpp\d*\b", name):
        return "prefill"
    return "decode" if re.search(r"decode|generation|\btg\d*\b", name) else ""


def _kind(name: str, words: set[str], unit: str) -> Metric:
    rate = bool(re.search(r"/\s*s|per[ _]s|ps\b|toks\b", unit)) and "/tok" not in unit
    if (
        rate
        or re.search("throughput|speed|per_s", name)
        or words & {"tps", "rps", "qps"}
    ):
        return "throughput"
    if "ttft" in name or "first_token" in name or "first token" in name:
        return "ttft"
    if words & {"tpot", "itl", "tbt"} or re.search(
        r"inter[_ -]?token|per[_ ](output[_ ])?token|next[_ ]token|token[_ ]latency"
        r"|time[_ ]between", name,
    ):  # fmt: skip
        return "tpot"
    if re.search(r"latency|time|e2e|ttlt|duration|makespan", name):
        return "latency"
    return ""


def _counts(name: str, unit: str) -> str:
    text = f"{name} {unit}"
    if re.search(r"sequence|sample|sentence|request|req/|quer|image|img", unit) or (
        "request" in name
    ):
        return "requests"
    if re.search(r"prefill|prompt|input|\bpp\b", text):
        return "input"
    if re.search(r"total[_ ](token|throughput)", name):
        return "total"
    return "output"


_SECONDS = {
    "s": 1.0, "sec": 1.0, "secs": 1.0, "second": 1.0, "seconds": 1.0, "ms": 1e-3,
    "msec": 1e-3, "msecs": 1e-3, "millisecond": 1e-3, "milliseconds": 1e-3,
    "usec": 1e-6, "h": 3600.0, "us": 1e-6, "µs": 1e-6, "min": 60.0,
    "minutes": 60.0,
}  # fmt: skip


def _in_si(value: float | None, fields: Mapping[str, Any]) -> float | None:
    if value is None or not fields["kind"]:
        return value
    unit = fields["unit"].casefold()
    if fields["kind"] == "throughput":
        thousand = re.match(r"k[ -]?(tok|req)|thousand", unit)
        minute = re.search(r"/\s*min|per[ _]min", unit)
        return value * (1e3 if thousand else 1.0) / (60.0 if minute else 1.0)
    first = re.split(r"[\s/(]", unit.strip())[0]
    if first not in _SECONDS:
        raise ValueError(f"unit: {fields['unit']!r} is no unit of time")
    return value * _SECONDS[first]
