"""Numbers and headline figures as papers and tables print them."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from hwsim.specs.published.cells import number, tokens

_SCALE = {"k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9, "t": 1e12}
_TIMES = {
    "us": 1e-6, "ms": 1e-3, "msec": 1e-3, "millisecond": 1e-3, "s": 1.0, "sec": 1.0,
    "second": 1.0, "min": 60.0, "minute": 60.0, "h": 3600.0, "hr": 3600.0,
    "hour": 3600.0, "day": 86_400.0,
}  # fmt: skip
_DEVICES = {
    "device", "gpu", "chip", "accelerator", "hpu", "card", "gcd", "core", "tpu",
    "rank", "a100", "h100",
}  # fmt: skip
# A metric that says so where its unit does not: tokens/s/GPU in tokens/s.
_PER_DEVICE = re.compile(
    rf"(?:\bper\b|/)[ _]*(?:each[ _]*)?(?:{'|'.join(sorted(_DEVICES))})s?\b"
)
_STEPS = {"step", "iteration", "iter", "it", "batch", "update"}
_SAMPLES = {
    "sequence", "seq", "sample", "sentence", "example", "image", "img", "prompt",
}  # fmt: skip
_TOKENS = {"token", "tok"}
_FLOP = re.compile(r"^([kmgtpe]?)flops?$")
_PREFIX = {"": 1e-12, "k": 1e-9, "m": 1e-6, "g": 1e-3, "t": 1.0, "p": 1e3, "e": 1e6}
# Batches of more sequences than this are counts of tokens.
MOST_SEQUENCES = 500_000


def cell_number(name: str, cell: str) -> float | None:
    """Return the number of a cell as its column means it.

    Lengths in ``k`` are powers of two, parameters are in billions, a share
    above 1.5 is in percent, times may have a unit.

    Raises
    ------
    ValueError
        If it is no number.

    Examples
    --------
    >>> cell_number("seq_len", "8k"), cell_number("mfu", "40%")
    (8192.0, 0.4)
    >>> cell_number("params_b", "7B"), cell_number("params_b", "350M")
    (7.0, 0.35)
    """
    value = number(cell)
    if value is None:
        return value
    if name == "seq_len":
        return tokens(cell)
    if name == "params_b":
        return value / 1e9 if value >= 1e5 else value
    if name == "mfu":
        return value / 100.0 if value > 1.5 or "%" in cell else value
    if name == "iter_time_s":
        unit = re.sub(r"^[^a-zA-Z]*", "", cell).strip().casefold()
        return value * _TIMES.get(unit.rstrip("."), 1.0)
    return value


class Headline(NamedTuple):
    """A headline figure as a column of the table has it."""

    column: str
    value: float


def headline(
    value: float, unit: str, metric: str, devices: int, seq_len: int | None
) -> Headline | None:
    """Return a headline figure as time, rate per device, TFLOP/s or MFU.

    Parameters
    ----------
    unit, metric : str
        As printed; the metric says what a blank unit or ``%`` is of, and whether a
        rate is per device where the unit does not.
    devices : int
        That a figure of the whole system is shared by.
    seq_len : int or None
        Tokens of a sequence, which a rate of sequences needs.

    Returns
    -------
    Headline or None
        None where the unit is not known.

    Examples
    --------
    >>> headline(1200.0, "samples/min", "throughput", 8, 512)
    Headline(column='tokens_per_s_per_device', value=1280.0)
    """
    words = _words(unit or metric)
    if not words:
        return None
    what, *per = words = sorted(words, key=lambda word: word in {"whole", "total"})
    if (of_time := _time(words, metric, value)) is not None:
        return of_time[0]
    share = unit.strip() in {"", "%"} or what in {"fraction", "percent", "mfu"}
    named = f"{metric} {unit}".casefold()
    if share and re.search(r"mfu|model flops? utili[sz]ation", named):
        mark = "%" if "%" in unit or "percent" in words else ""
        return Headline("mfu", cell_number("mfu", f"{value}{mark}") or 0.0)
    own = any(word in _DEVICES for word in per) or _PER_DEVICE.search(metric.casefold())
    each = 1.0 if own else 1.0 / devices
    if "whole" in per or "total" in per or "node" in per:
        each = 1.0 / devices if "node" not in per else math.nan
    if math.isnan(each):
        return None
    if flop := _FLOP.match(what):
        # Rates of work are told per device, but for those of whole systems.
        whole = (flop[1] in {"p", "e"} and each != 1.0) or "whole" in per
        return Headline(
            "tflops_per_device", value * _PREFIX[flop[1]] * (each if whole else 1.0)
        )
    return _rate(value, what, per, each, seq_len)


def _time(words: list[str], metric: str, value: float) -> tuple[Headline | None] | None:
    """Return the time of a step; nothing in it where the time is a whole run's.

    None where the words are of no time.
    """
    units = [word for word in words if word in _TIMES]
    if len(units) != 1 or not set(words) <= {*units, *_STEPS, "time"}:
        return None
    if words[0] != units[0] and "time" not in words:
        return None  # steps per second
    of_step = _STEPS & {*words, *_words(metric)}
    of_run = _TIMES[units[0]] >= 60.0 or re.search(
        r"\btrain|total|time to", metric.casefold()
    )
    if of_run and not of_step:
        return (None,)
    return (Headline("iter_time_s", value * _TIMES[units[0]]),)


def _rate(
    value: float, what: str, per: list[str], each: float, seq_len: int | None
) -> Headline | None:
    seconds = next((_TIMES[word] for word in per if word in _TIMES), None)
    scale = 1.0
    if what[:1] in _SCALE and what[1:] in _TOKENS | _SAMPLES:
        scale, what = _SCALE[what[0]], what[1:]
    if seconds is None:
        return None
    if what in _STEPS:
        return Headline("iter_time_s", seconds / value)
    if what in _TOKENS:
        return Headline("tokens_per_s_per_device", value * scale * each / seconds)
    if what in _SAMPLES and seq_len:
        rate = value * scale * seq_len * each / seconds
        return Headline("tokens_per_s_per_device", rate)
    return None


def _words(unit: str) -> list[str]:
    """Return a unit's quantity, and what it is per."""
    text = unit.casefold().replace("tok/s", "token/s").replace("tps", "token/s")
    text = re.sub(r"\btgs\b", "token/gpu/s", text)
    text = re.sub(r"\b(tera|peta|giga)(?=flop)", lambda m: m[0][0], text)
    text = re.sub(r"\b([kmbt]) (?=tok)", r"\1", text)
    text = re.sub(r"whole system|\b(aggregate|overall|global)\b", "whole", text)
    text = text.replace("%", "percent")
    text = re.sub(r"\bper\b|[/(),·*-]|_per_", " / ", text.replace("^", ""))
    text = re.sub(r"[_\d]+", " ", text)
    found = [_singular(word) for word in text.replace("/", " ").split()]
    return [
        word for word in found if word not in {"of", "the", "each", "and", "second^"}
    ]


def _singular(word: str) -> str:
    word = word.rstrip(".")
    known = _STEPS | _SAMPLES | _TOKENS | _DEVICES | set(_TIMES)
    for ending in ("", "s", "es"):
        if word.endswith(ending) and word[: len(word) - len(ending)] in known:
            return word[: len(word) - len(ending)]
    batches = {"secs": "sec", "batches": "batch", "ktokens": "ktoken"}
    if word[:1] in _SCALE and word[1:].rstrip("s") in _TOKENS | _SAMPLES:
        return word.rstrip("s")
    return batches.get(word, word)
