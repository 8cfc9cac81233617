"""Traffic as it is described: how requests arrive and how long they are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from hwsim.errors import InputError
from hwsim.resources import builtin_path

ARRIVALS = ("poisson", "gamma", "deterministic")
MAX_TOKENS = 10**7
_LENGTHS = "fixed:N, uniform:LOW:HIGH, lognormal:MEAN[:SIGMA] or file:PATH"
# Sigma of logarithms where none is given: lengths of conversations in public
# traces spread by a factor of about 2.7 either way.
_SIGMA = 1.0


@dataclass(frozen=True, slots=True)
class Lengths:
    """A distribution of tokens per request.

    Attributes
    ----------
    kind : str
        ``fixed``, ``uniform``, ``lognormal`` or ``file``.
    first, second : float
        The length; least and most; mean and sigma of the logarithm.
    path : Path or None
        File of one length a line, drawn from at random.
    """

    kind: str
    first: float = 0.0
    second: float = 0.0
    path: Path | None = None

    @property
    def mean(self) -> float:
        """Mean tokens; NaN of a file not yet read."""
        if self.kind == "file":
            return math.nan
        if self.kind == "uniform":
            return (self.first + self.second) / 2.0
        return self.first


def parse_lengths(name: str, text: str) -> Lengths:
    """Return a distribution of lengths from text.

    Examples
    --------
    >>> parse_lengths("input_len", "lognormal:1000").second
    1.0
    """
    kind, _, rest = str(text).strip().partition(":")
    if kind == "file" and rest:
        return Lengths("file", path=Path(rest).expanduser())
    values = _numbers(name, text, rest or kind)
    if kind.replace(".", "", 1).isdigit() and not rest:
        kind = "fixed"
    wanted = {"fixed": (1,), "uniform": (2,), "lognormal": (1, 2)}.get(kind, ())
    if len(values) not in wanted:
        raise InputError(f"{name} {text!r} is not understood; write {_LENGTHS}")
    if not all(1 <= v <= MAX_TOKENS for v in values[: 2 if kind == "uniform" else 1]):
        raise InputError(f"{name} {text!r}: lengths are from 1 to {MAX_TOKENS} tokens")
    if kind == "uniform" and values[0] > values[1]:
        raise InputError(f"{name} {text!r}: the least length comes first")
    if kind == "lognormal":
        sigma = values[1] if len(values) > 1 else _SIGMA
        if not 0.0 <= sigma <= 5.0:
            raise InputError(f"{name} {text!r}: sigma is from 0 to 5")
        return Lengths(kind, values[0], sigma)
    if any(v != int(v) for v in values):
        raise InputError(f"{name} {text!r}: lengths are whole numbers of tokens")
    return Lengths(kind, values[0], values[-1])


def _numbers(name: str, text: str, rest: str) -> list[float]:
    try:
        values = [float(part) for part in rest.split(":")]
    except ValueError:
        raise InputError(
            f"{name} {text!r} is not understood; write {_LENGTHS}"
        ) from None
    if not all(math.isfinite(v) for v in values):
        raise InputError(f"{name} {text!r}: lengths must be finite")
    return values


@dataclass(frozen=True, slots=True)
class Traffic:
    """Requests to serve.

    Attributes
    ----------
    requests : int
        How many.
    rate : float or None
        Mean arrivals. None: all at once, or as clients wait. [1/s]
    arrival : str
        ``poisson``, ``gamma`` or ``deterministic``.
    burstiness : float
        Gamma only: squared coefficient of variation of the gaps; 1 is Poisson.
    concurrency : int or None
        Closed loop: so many clients, each with one request under way.
    inputs, outputs : Lengths
        Tokens of prompts and answers.
    profile : str or None
        How the rate changes over time, its mean being ``rate``:
        ``ramp:FIRST:LAST`` (factors, over the run) or
        ``daily:AMPLITUDE[:PERIOD]`` (a sine; seconds, a day unless given).
    trace : Path or None
        File whose arrivals and lengths are replayed instead.
    turns : int
        Requests of a session; each prompt has all that was said before.
    think_time : float
        Mean of the exponential time from an answer to the next turn. [s]
    """

    requests: int | None = None
    rate: float | None = None
    arrival: str = "poisson"
    burstiness: float = 1.0
    concurrency: int | None = None
    inputs: Lengths = Lengths("lognormal", 1000.0, _SIGMA)
    outputs: Lengths = Lengths("lognormal", 250.0, _SIGMA)
    trace: Path | None = None
    profile: str | None = None
    turns: int = 1
    think_time: float = 0.0


def parse_profile(text: str) -> tuple[str, float, float]:
    """Return kind and figures of a rate's course over time.

    Examples
    --------
    >>> parse_profile("daily:0.5")
    ('daily', 0.5, 86400.0)
    """
    kind, _, rest = text.strip().partition(":")
    try:
        values = [float(part) for part in rest.split(":")]
    except ValueError:
        values = []
    if kind == "daily" and len(values) == 1:
        values.append(86400.0)
    fits = len(values) == 2 and all(math.isfinite(v) and v >= 0 for v in values)
    if fits and kind == "ramp" and sum(values) > 0:
        return kind, values[0], values[1]
    if fits and kind == "daily" and values[0] <= 1 and values[1] > 0:
        return kind, values[0], values[1]
    raise InputError(
        f"rate_profile {text!r} is not understood; write ramp:FIRST:LAST (factors of "
        "the rate) or daily:AMPLITUDE[:PERIOD] (amplitude 0 to 1, period in seconds)"
    )


def trace_path(text: str) -> Path:
    """Return a trace's file: a path, or the name of one that ships with hwsim.

    Examples
    --------
    >>> trace_path("mooncake-shape").name
    'mooncake-shape.jsonl'
    """
    given = Path(text).expanduser()
    if given.exists() or given.parent != Path():
        return given
    shipped = sorted((builtin_path("workloads") / "traces").glob(f"{text}*"))
    return next((f for f in shipped if text in {f.name, f.stem}), given)
