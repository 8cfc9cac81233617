"""One look for all figures: colours that colour-blind readers tell apart.

Colours are Okabe and Ito's [1]_. Ink, grid and surface have values of their
own that nothing else uses, so that a page can swap them for dark ones.

References
----------
.. [1] M. Okabe, K. Ito, "Color Universal Design", 2008,
   https://jfly.uni-koeln.de/color/.
"""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from hwsim.errors import OutputError
from hwsim.report.write import write_atomic

P = ParamSpec("P")
R = TypeVar("R")

INK, MUTED, GRID, SURFACE = "#1b1f24", "#5c6672", "#dde2e8", "#fefefe"
BLACK, ORANGE, SKY, GREEN = "#000000", "#e69f00", "#56b4e9", "#009e73"
YELLOW, BLUE, VERMILLION, PURPLE = "#f0e442", "#0072b2", "#d55e00", "#cc79a7"
GREY = "#a7afb8"
CYCLE = (BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY, YELLOW, GREY)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*")

PART_COLOURS = {
    "compute": BLUE, "memory": ORANGE, "interconnect": GREEN,
    "overhead": PURPLE, "idle": GREY,
}  # fmt: skip

# Fourteen kinds of operator are more than eyes tell apart: seven families.
FAMILIES: dict[str, tuple[str, tuple[str, ...]]] = {
    "matrix product": (BLUE, ("matmul",)),
    "attention": (ORANGE, ("attention",)),
    "experts": (VERMILLION, ("moeexperts",)),
    "norm, activation": (SKY, ("norm", "elementwise", "softmax", "rotary")),
    "data movement": (PURPLE, ("embedding", "copy", "moedispatch", "moecombine")),
    "collective": (
        GREEN,
        ("collective", "send_recv", "gradient_reduction", "all_gather"),
    ),
    "loss, optimizer": (YELLOW, ("crossentropy", "optimizerupdate", "optimizer")),
}
# Passes of a pipeline are never drawn beside products, attention or norms.
PASSES: dict[str, tuple[str, tuple[str, ...]]] = {
    "forward": (BLUE, ("forward",)),
    "backward": (ORANGE, ("backward",)),
    "weight gradient": (SKY, ("weight",)),
}
OTHER = "other"
_ALL = PASSES | FAMILIES
_FAMILY_OF = {kind: name for name, (_, kinds) in _ALL.items() for kind in kinds}

RC: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9.0,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.facecolor": SURFACE,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "figure.facecolor": SURFACE,
    "figure.dpi": 100.0,
    "savefig.facecolor": SURFACE,
    "savefig.dpi": 160.0,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "hatch.linewidth": 0.6,
    "text.parse_math": False,  # a name may hold dollar signs
    "svg.fonttype": "none",
    "svg.hashsalt": "hwsim",
    "pdf.fonttype": 42,
    "path.simplify": True,
}
FORMATS = ("svg", "png", "pdf")
_METADATA: dict[str, dict[str, Any]] = {
    "svg": {"Date": None, "Creator": None},
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
}


class ReportFigure(Figure):
    """A figure in this style; notebooks show it without pyplot.

    Attributes
    ----------
    caption : str
        One or two sentences that say what is drawn and what is left out.
    """

    caption: str = ""

    def _repr_svg_(self) -> str:
        return render(self, "svg").decode("utf-8")


def styled(function: Callable[P, R]) -> Callable[P, R]:
    """Run a drawing function in this style; the caller's settings are kept."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        with mpl.rc_context(RC):
            return function(*args, **kwargs)

    return wrapper


def new_figure(width: float, height: float, caption: str = "") -> ReportFigure:
    """Return an empty figure that no global state knows of. [inch]"""
    engine = ConstrainedLayoutEngine(h_pad=0.06)
    figure = ReportFigure(figsize=(width, height), layout=engine)
    FigureCanvasAgg(figure)
    figure.caption = caption
    return figure


def family(kind: str) -> str:
    """Return the family that an operator kind is drawn as."""
    return _FAMILY_OF.get(kind, OTHER)


def family_colour(name: str) -> str:
    """Return the colour of a family."""
    return _ALL[name][0] if name in _ALL else GREY


def text_on(colour: str) -> str:
    """Return black or white, whichever reads better on a fill (WCAG contrast)."""
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in to_rgb(colour)
    ]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#ffffff" if 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.05 else BLACK


def render(figure: Figure, suffix: str) -> bytes:
    """Return a figure as a file's content; equal figures give equal bytes."""
    buffer = io.BytesIO()
    engine = figure.get_layout_engine()
    with mpl.rc_context(RC):
        settle(figure)
        figure.savefig(buffer, format=suffix, metadata=_METADATA[suffix])
        figure.set_layout_engine(engine)
    return buffer.getvalue()


def settle(figure: Figure) -> None:
    """Lay a figure out once and for all; saving would do so twice."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine("none")


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure as its suffix says: svg, png or pdf.

    Raises
    ------
    OutputError
        If the suffix is another one, or the path cannot be written.
    """
    suffix = Path(path).suffix.lower().removeprefix(".")
    if suffix not in FORMATS:
        raise OutputError(
            f"{path}: figures are written as {', '.join(f'.{f}' for f in FORMATS)}; "
            "give the file one of these suffixes"
        )
    return write_atomic(path, render(figure, suffix))
