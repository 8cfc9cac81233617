"""Parameters that can be varied: figures of specs, and options of the question."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwsim.analysis.case import Case, known_options
from hwsim.errors import InputError, SpecError, nearest
from hwsim.specs.base import Spec, dimension_of, iter_figures
from hwsim.specs.override import canonical_path
from hwsim.units import Dimension, format_quantity, parse_quantity

MOST = 2001  # points of one axis
_FACTOR = re.compile(r"^(?:x(\S+)|(\S+?)x)$")
_PERCENT = re.compile(r"^([+-]?\d+(?:\.\d*)?)%$")
_RANGE = re.compile(r"^(.+?)\.\.(.+?)(?::(\d+))?(?::(log|lin))?$")


@dataclass(frozen=True)
class Parameter:
    """One figure that can be varied.

    Attributes
    ----------
    key : str
        ``device.…``, ``system.…``, ``stack.…``, ``model.…``, or an option.
    value : float or None
        What it is now; None where the default is not a number. [SI]
    dimension : Dimension or None
        What it measures.
    whole : bool
        Whether it is a whole number.
    """

    key: str
    value: float | None
    dimension: Dimension | None
    whole: bool

    @property
    def is_option(self) -> bool:
        """Whether it is an option of the question, not a figure of a spec."""
        return "." not in self.key

    @property
    def unit(self) -> str:
        """SI unit; empty for plain numbers."""
        return self.dimension.unit if self.dimension else ""

    def shown(self, value: float | str) -> str:
        """Return a value as people read it."""
        if isinstance(value, str):
            return value
        if self.dimension is not None:
            return format_quantity(value, self.unit)
        return f"{value:,.4g}" if not self.whole else f"{round(value):,}"

    def set(self, case: Case, value: float | str) -> Case:
        """Return a question with this parameter at a value. [SI]"""
        if self.is_option:
            given = round(value) if self.whole and not isinstance(value, str) else value
            return case.with_options(**{self.key: given})
        if isinstance(value, str):
            return case.changed([f"{self.key}={value}"])
        if self.whole:
            return case.changed([f"{self.key}={round(value)}"])
        return case.changed([f"{self.key}={value!r} {self.unit}".rstrip()])


def _spec(case: Case, target: str) -> Spec:
    if target == "device":
        return case.system.device
    found: Spec = getattr(case, target)
    return found


def parameter(case: Case, key: str) -> Parameter:
    """Return a parameter by key or short name.

    Short names: ``bandwidth`` (main memory), ``capacity``, ``peak`` (of the
    question's dtype) and ``link`` (the innermost network of the system).

    Raises
    ------
    InputError, SpecError
        If there is no such figure or option.
    """
    key = short_names(case).get(key, key.replace("-", "_"))
    target, _, rest = key.partition(".")
    if target not in case.targets or not rest:
        return _option(case, key)
    spec = _spec(case, target)
    path = canonical_path(spec, tuple(rest.split(".")))
    figures = {p: v for p, v, _ in iter_figures(spec)}
    name = ".".join(path)
    if name not in figures:
        if dimension_of(spec, path) is None:
            close = nearest(name, figures) or list(figures)[:6]
            told = ", ".join(f"{target}.{c}" for c in close)
            raise SpecError(key, "is no figure", f"there is {told}")
        return Parameter(f"{target}.{name}", None, dimension_of(spec, path), False)
    value = figures[name]
    whole = isinstance(value, int)
    return Parameter(f"{target}.{name}", value, dimension_of(spec, path), whole)


def short_names(case: Case) -> dict[str, str]:
    """Return short names of the figures that most questions turn on."""
    device = case.system.device
    dtype = case.options.get("dtype", "bf16")
    unit = "matrix" if dtype in device.compute.matrix else "vector"
    main = f"device.memory.{device.main_memory_name}"
    found = {
        "bandwidth": f"{main}.bandwidth", "capacity": f"{main}.size",
        "peak": f"device.compute.{unit}.{dtype}",
    }  # fmt: skip
    if case.system.networks:
        found["link"] = f"system.networks.{case.system.networks[0].name}.bandwidth"
    return found


def _option(case: Case, key: str) -> Parameter:
    known = _known_options(case)
    if key not in known:
        short = ", ".join(short_names(case))
        close = ", ".join(nearest(key, known) or sorted(known)[:8])
        raise InputError(
            f"{key!r} is no option of {case.task} (there is {close}), no short name "
            f"({short}) and no figure such as device.memory.main.bandwidth"
        )
    value = case.options.get(key, known[key])
    number = isinstance(value, int | float) and not isinstance(value, bool)
    whole = isinstance(value, int) or (value is None and key != "rate")
    return Parameter(key, float(value) if number else None, None, whole)


def _known_options(case: Case) -> dict[str, Any]:
    found = known_options(case.task, case.ask)
    if case.task != "serve":
        found.pop("engine", None)
    return found


@dataclass(frozen=True)
class Axis:
    """A parameter and the values that it takes.

    Attributes
    ----------
    values : tuple of float or str
        In SI, ascending; text for names such as dtypes.
    """

    parameter: Parameter
    values: tuple[float | str, ...]

    @property
    def numeric(self) -> bool:
        """Whether the values are numbers."""
        return not any(isinstance(v, str) for v in self.values)

    def relative(self, value: float | str) -> float | None:
        """Return a value over today's."""
        now = self.parameter.value
        return None if isinstance(value, str) or not now else value / now

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "parameter": self.parameter.key, "now": self.parameter.value,
            "unit": self.parameter.unit, "values": list(self.values),
        }  # fmt: skip


def parse_axis(case: Case, text: str, points: int) -> Axis:
    """Return an axis from text.

    Parameters
    ----------
    text : str
        ``KEY=FROM..TO``, with ``:N`` for the number of points and ``:lin`` or
        ``:log`` for their spacing, or ``KEY=A,B,C``. A value is a quantity
        (``4.8TB/s``), a factor (``0.5x``), a change (``+20%``) or a number.
    points : int
        How many, where the text does not say.

    Raises
    ------
    InputError, SpecError
        If it cannot be read; the message has an example.
    """
    key, equals, rest = (part.strip() for part in text.partition("="))
    if not equals or not rest:
        raise InputError(
            f"--vary {text!r} is not KEY=RANGE; write for example "
            "device.memory.hbm.bandwidth=0.5x..4x or batch=1,8,64"
        )
    found = parameter(case, key)
    match = _RANGE.match(rest)
    if match is None:
        items = [part.strip() for part in rest.split(",")]
        values = [_value(found, item, text) for item in items if item]
        return Axis(found, tuple(dict.fromkeys(values)))
    low, high = (_number(found, match[i], text) for i in (1, 2))
    count = int(match[3]) if match[3] else points
    if not 2 <= count <= MOST:
        raise InputError(f"--vary {text!r}: {count} points; take 2 to {MOST}")
    if low > high:
        low, high = high, low
    return Axis(found, tuple(spaced(low, high, count, found.whole, match[4])))


def spaced(
    low: float, high: float, count: int, whole: bool, how: str | None = None
) -> list[float]:
    """Return values from low to high, by equal factors unless one is not above 0.

    Whole numbers are rounded, and stand once.

    Examples
    --------
    >>> spaced(1, 64, 7, True)
    [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0]
    """
    log = how == "log" or (how is None and low > 0)
    if log and low <= 0:
        raise InputError(f"a range from {low:g} has no logarithm; write :lin")
    if whole and log and how is None and math.log2(high / low) <= count - 1:
        doubled = low * 2.0 ** np.arange(math.floor(math.log2(high / low)) + 1)
        return sorted({*map(float, map(round, doubled)), float(high)})
    values = np.geomspace(low, high, count) if log else np.linspace(low, high, count)
    if not whole:
        return [float(v) for v in values]
    return sorted({float(round(v)) for v in values})


def _value(found: Parameter, item: str, text: str) -> float | str:
    try:
        return _number(found, item, text)
    except InputError:
        if found.is_option and found.value is None and found.dimension is None:
            return item  # a name: a dtype, an engine
        raise


def _number(found: Parameter, item: str, text: str) -> float:
    item = item.strip()
    scale = _scale(item)
    if scale is not None:
        if found.value is None:
            raise InputError(
                f"--vary {text!r}: {found.key} has no number now; give values"
            )
        return found.value * scale
    try:
        if found.dimension is not None:
            return parse_quantity(item, found.dimension)
        value = float(item)
    except ValueError as error:
        what = str(error) if found.dimension is not None else f"{item!r} is no number"
        raise InputError(f"--vary {text!r}: {what}") from None
    if not math.isfinite(value):
        raise InputError(f"--vary {text!r}: {item!r} is not finite")
    return value


def _scale(item: str) -> float | None:
    factor, percent = _FACTOR.match(item), _PERCENT.match(item)
    try:
        if factor is not None:
            return float(factor[1] or factor[2])
        return None if percent is None else 1.0 + float(percent[1]) / 100.0
    except ValueError:
        return None


def grid_size(axes: Sequence[Axis]) -> int:
    """Return how many points axes span."""
    return math.prod(len(axis.values) for axis in axes)
