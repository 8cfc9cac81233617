"""Refresh the generated parts of the README and the docs.

``python docs/refresh.py`` rewrites them, ``--check`` only says whether they are
stale. A generated part stands between ``<!-- begin NAME -->`` and
``<!-- end NAME -->``; a console block after ``<!-- run: ARGUMENTS -->`` is what
``hwsim ARGUMENTS`` prints, its first lines only after ``<!-- run 5: ... -->``.
Examples' ``.out`` files are what the examples print; ``docs/pictures`` is drawn anew.
"""

from __future__ import annotations

import contextlib
import io
import re
import runpy
import shlex
import sys
from pathlib import Path

from error_correlations import PARTS as CORRELATIONS
from refresh_accuracy import PARTS as ACCURACY
from refresh_accuracy import TASKS, comparison
from refresh_models import PARTS as MODELS
from refresh_published import PARTS as PUBLISHED
from refresh_serving import PARTS as SERVING
from refresh_targets import PARTS as TARGETS

from hwsim.cli.app import run_code
from hwsim.report import format as fmt
from hwsim.report.figures.graphs import scatter_figure

ROOT = Path(__file__).resolve().parent.parent
FILES = (
    "README.md", "docs/tutorial.md", "docs/guides/add-a-device.md", "docs/accuracy.md",
    "docs/calibration.md",
    "docs/guides/compare.md",
    "docs/guides/whatif.md",
    "docs/guides/mixed.md",
    *(
        f"docs/models/{path.name}"
        for path in sorted((ROOT / "docs" / "models").glob("*.md"))
    ),
)  # fmt: skip
EXAMPLE = (
    "infer llama-3.1-70b --system dgx-h100 --tp 8 --batch 16 --prompt 2048 --output 256"
)
PART = re.compile(r"(<!-- begin (\w+) -->\n).*?(<!-- end \2 -->)", re.DOTALL)
RUN = re.compile(r"(<!-- run ?(\d*): (.*?) -->\n)```console\n.*?```\n", re.DOTALL)


def console(arguments: str, first: int | None = None) -> str:
    """Return a console block: a command and the first lines that it prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = run_code(shlex.split(arguments))
    if code:
        raise SystemExit(f"hwsim {arguments} ended with {code}")
    lines = [line.rstrip() for line in printed.getvalue().splitlines()]
    shown = lines[:first] + (["..."] if len(lines[:first]) < len(lines) else [])
    return "\n".join(["```console", f"$ hwsim {arguments}", *shown, "```", ""])


def published() -> str:
    """Return the table of errors on the published runs."""
    found = comparison()
    lines = [
        "| published runs | rows | median error, absolute | mean | median, signed |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    groups = [("all", found.summary()), *found.by("task").items()]
    for name, part in groups:
        lines.append(
            f"| {TASKS.get(name, name)} | {part['rows']} "
            f"| {fmt.percent(part['median_ape'], 0)} | {fmt.percent(part['mape'], 0)} "
            f"| {fmt.signed_percent(part['bias'], 0)} |"
        )
    missing = len(found.unanswered)
    if missing:
        lines += ["", f"{fmt.plural(missing, 'further row')} has no answer yet."]
    lines.append("")
    return "\n".join(lines)


PARTS = {
    "example": lambda: console(EXAMPLE),
    "published": published,
    **ACCURACY,
    **PUBLISHED,
    **SERVING,
    **MODELS,
    **CORRELATIONS,
    **TARGETS,
}


def refreshed(text: str) -> str:
    """Return a text with its generated parts made anew."""
    text = RUN.sub(lambda m: m[1] + console(m[3], int(m[2]) if m[2] else None), text)
    return PART.sub(lambda m: m[1] + PARTS[m[2]]() + m[3], text)


def examples() -> None:
    """Write what each example prints beside it; a test of its own compares."""
    for path in sorted((ROOT / "docs" / "examples").glob("*.py")):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            runpy.run_path(str(path), run_name="__main__")
        path.with_suffix(".out").write_text(printed.getvalue(), encoding="utf-8")


def pictures() -> None:
    """Draw the picture of the README, from the rows of its table."""
    folder = ROOT / "docs" / "pictures"
    folder.mkdir(exist_ok=True)
    scatter_figure(comparison().rows, path=folder / "published-runs.svg")


def main() -> int:
    """Rewrite or check; return the exit code."""
    stale = []
    if "--check" not in sys.argv[1:]:
        examples()
        pictures()
    for name in FILES:
        path = ROOT / name
        old = path.read_text(encoding="utf-8")
        new = refreshed(old)
        if new != old:
            stale.append(name)
            if "--check" not in sys.argv[1:]:
                path.write_text(new, encoding="utf-8")
    if "--check" in sys.argv[1:] and stale:
        print(f"stale: {', '.join(stale)}; run python docs/refresh.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
