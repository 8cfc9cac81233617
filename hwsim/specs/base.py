"""The base of every spec: frozen, strict, with units and sources."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from hwsim.units import (
    DIMENSIONS,
    Dimension,
    check_magnitude,
    format_quantity,
    parse_quantity,
)

# Validation context key: text files must write units, programs need not.
UNITS_REQUIRED = "units_required"


class Spec(BaseModel):
    """Base of all spec models: immutable, no unknown keys, no NaN."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, ser_json_inf_nan="constants"
    )


def _quantity(dimension: Dimension) -> Any:
    def parse(value: object, info: ValidationInfo) -> float:
        if isinstance(value, str):
            return parse_quantity(value, dimension)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(
                f"{value!r} is not a quantity; write it as {dimension.example!r}"
            )
        if info.context and info.context.get(UNITS_REQUIRED):
            raise ValueError(
                f"{value!r} has no unit; write it as text with one, "
                f"as in {dimension.example!r}"
            )
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        return check_magnitude(number, dimension)

    return Annotated[
        float,
        BeforeValidator(parse),
        dimension,
        WithJsonSchema(
            {
                "type": ["string", "number"],
                "description": f"quantity in {dimension.unit} "
                f"(text with a unit in TOML, SI number in JSON), "
                f"for example {dimension.example!r}",
            }
        ),
    ]


Bytes = _quantity(DIMENSIONS["bytes"])
BytesPerSecond = _quantity(DIMENSIONS["bandwidth"])
FlopPerSecond = _quantity(DIMENSIONS["rate"])
Seconds = _quantity(DIMENSIONS["time"])
Hertz = _quantity(DIMENSIONS["frequency"])
Watts = _quantity(DIMENSIONS["power"])
Joules = _quantity(DIMENSIONS["energy"])
Flop = _quantity(DIMENSIONS["work"])
BytesPerClock = _quantity(DIMENSIONS["bytes_per_clock"])
Count = Annotated[int, Field(ge=1, le=10**9, strict=True)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=120)]
Identifier = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.+_-]*$", max_length=80)
]
Text = Annotated[str, StringConstraints(min_length=1, max_length=2000)]

DTYPES = (
    "fp64", "fp32", "tf32", "bf16", "fp16", "fp8", "int8", "fp6", "fp4", "int4",
)  # fmt: skip
Dtype = Literal[
    "fp64", "fp32", "tf32", "bf16", "fp16", "fp8", "int8", "fp6", "fp4", "int4"
]
DTYPE_BYTES: dict[str, float] = {
    "fp64": 8, "fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2, "fp8": 1, "int8": 1,
    "fp6": 0.75, "fp4": 4.5 / 8, "int4": 0.5,
    # Block formats of weights alone, scales included: 32 values and one 16-bit
    # scale (q8_0, q4_0), 256 and their scales (q6_k), fp4 with an 8-bit scale per
    # 32 (OCP Microscaling 1.0); the mixed q5_k_m and q4_k_m as llama.cpp's
    # quantize README counts them for Llama-3-8B.
    "q8_0": 8.5 / 8, "q6_k": 6.5625 / 8, "q5_k_m": 5.7036 / 8,
    "q4_k_m": 4.8944 / 8, "q4_0": 4.5 / 8, "mxfp4": 4.25 / 8,
}  # fmt: skip

# Formats of whole files: their bits per weight count embeddings and output too.
WHOLE_MODEL_FORMATS = frozenset({"q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0"})


class Source(Spec):
    """Where figures come from.

    Attributes
    ----------
    kind : str
        ``datasheet``, ``measured``, ``derived`` or ``assumed``.
    covers : tuple of str
        Dotted key prefixes of the figures it stands for; ``*`` is all. The
        longest matching prefix wins, the first listed on a tie.
    """

    kind: Literal["datasheet", "measured", "derived", "assumed"]
    title: Text
    url: Text | None = None
    date: dt.date
    covers: tuple[Name, ...] = ("*",)
    note: Text | None = None


class CatalogSpec(Spec):
    """Base of specs that stand in a catalog under an id and aliases."""

    schema_version: Literal[1] = 1
    id: Identifier
    name: Name
    aliases: tuple[Name, ...] = ()
    notes: tuple[Text, ...] = ()
    sources: tuple[Source, ...] = ()

    @model_validator(mode="after")
    def _every_figure_has_a_source(self) -> CatalogSpec:
        for path, _, _ in iter_figures(self):
            if self.source_of(path) is None:
                raise ValueError(
                    f"{path} has no source; add a [[sources]] entry whose "
                    f'covers names it (or "*")'
                )
        return self

    def source_of(self, path: str) -> Source | None:
        """Return the source that stands for the figure at a dotted path."""
        return find_source(self.sources, path)

    def _repr_html_(self) -> str:
        """Return every figure with its SI value, unit and source, for notebooks."""
        return figures_html(self, f"{self.name} ({self.id})", self.source_of)


def figures_html(
    spec: Spec, title: str, source_of: Callable[[str], Source | None]
) -> str:
    """Return a spec's figures as an HTML table; text in it is escaped."""
    rows = []
    for path, value, dimension in iter_figures(spec):
        unit = dimension.unit if dimension else ""
        shown = format_quantity(value, unit) if unit else f"{value:,.6g}"
        source = source_of(path)
        told = f"{source.kind}: {source.title}" if source else ""
        cells = "".join(f"<td>{escape(text)}</td>" for text in (path, shown, told))
        rows.append(f"<tr>{cells}</tr>")
    head = "<tr><th>Figure</th><th>Value</th><th>Source</th></tr>"
    return f"<table><caption>{escape(title)}</caption>{head}{''.join(rows)}</table>"


def find_source(sources: Iterable[Source], path: str) -> Source | None:
    """Return the source whose prefix fits a dotted path most closely."""
    best: tuple[int, Source] | None = None
    for source in sources:
        for prefix in source.covers:
            length = _match(prefix, path)
            if length >= 0 and (best is None or length > best[0]):
                best = (length, source)
    return best[1] if best else None


def _match(prefix: str, path: str) -> int:
    if prefix == "*":
        return 0
    if path == prefix or path.startswith(prefix + "."):
        return len(prefix)
    return -1


def iter_figures(
    spec: Spec, prefix: str = ""
) -> Iterator[tuple[str, float, Dimension | None]]:
    """Yield (dotted path, SI value, dimension) of every numeric figure.

    Items of a list stand under their ``name``, or their index without one.
    Identity fields (schema version, sources) are not figures; booleans and
    text are settings, not figures.
    """
    for name, info in type(spec).model_fields.items():
        if name in {"schema_version", "sources"}:
            continue
        dimension = next((m for m in info.metadata if isinstance(m, Dimension)), None)
        yield from _walk(
            getattr(spec, name), f"{prefix}{name}", dimension, info.annotation
        )


def _walk(
    value: Any, path: str, dimension: Dimension | None, annotation: Any
) -> Iterator[tuple[str, float, Dimension | None]]:
    if isinstance(value, Spec):
        yield from iter_figures(value, f"{path}.")
    elif isinstance(value, Mapping):
        inner = dimension or _dimension_in(annotation)
        for key, item in value.items():
            yield from _walk(item, f"{path}.{key}", inner, None)
    elif isinstance(value, tuple):
        inner = dimension or _dimension_in(annotation)
        for index, item in enumerate(value):
            key = getattr(item, "name", index) if isinstance(item, Spec) else index
            yield from _walk(item, f"{path}.{key}", inner, None)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, value, dimension or _dimension_in(annotation)


def dimension_of(spec: Spec, path: Sequence[str]) -> Dimension | None:
    """Return what the figure at a path measures, set or not; None if a number."""
    holder: Any = spec
    found: Dimension | None = None
    for key in path:
        if isinstance(holder, Spec) and key in type(holder).model_fields:
            info = type(holder).model_fields[key]
            own = (m for m in info.metadata if isinstance(m, Dimension))
            found = next(own, None) or _dimension_in(info.annotation)
            holder = getattr(holder, key)
        elif isinstance(holder, Mapping):
            holder = holder.get(key)
        elif isinstance(holder, tuple):
            named = {
                str(getattr(item, "name", i)): item for i, item in enumerate(holder)
            }
            holder = named.get(key)
        else:
            return None
    return found


def _dimension_in(annotation: Any) -> Dimension | None:
    for meta in getattr(annotation, "__metadata__", ()):
        if isinstance(meta, Dimension):
            return meta
    for arg in get_args(annotation):
        found = _dimension_in(arg)
        if found is not None:
            return found
    return None
