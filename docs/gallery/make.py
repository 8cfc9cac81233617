"""Make the published reports: ``python docs/gallery/make.py [NAME…] [--check]``.

Every study asks hwsim, saves the answer as JSON and writes it as HTML, Markdown
and PDF to ``reports/published``. ``--check`` computes the headline figures again
and compares them with those in the JSON files; ``--stale`` makes only those
reports again whose figures have moved; ``--pages`` writes the pages again from the
JSON files.
"""

from __future__ import annotations

import importlib
import json
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PUBLISHED = ROOT / "reports" / "published"
STUDIES = {
    "serving-llama-70b": "serving_70b",
    "gpt3-then-and-now": "gpt3",
    "ten-billion-on-a100": "ten_billion",
    "cpu-or-gpu-8b": "cpu_or_gpu",
    "bert-six-generations": "bert",
}
TOLERANCE = 0.02  # a figure that moves by more makes its report stale
HEADLINES = (
    "ttft_s", "tpot_s", "latency_s", "prefill_s", "tokens_per_s", "step_s", "mfu",
    "tokens_per_s_per_device", "memory_bytes", "interval_90",
)  # fmt: skip
COMMAND = "python docs/gallery/make.py {}"

sys.path.insert(0, str(HERE))


def figures(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Yield every number of an answer by its path."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from figures(item, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for at, item in enumerate(value):
            yield from figures(item, f"{path}.{at}")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, float(value)


def moved(saved: Any, now: Any) -> list[str]:
    """Return what differs between two answers by more than the tolerance.

    Figures that answers have gained since do not make a report stale.
    """
    old, new = dict(figures(saved)), dict(figures(json.loads(json.dumps(now))))
    lost = [f"{path} is gone" for path in old.keys() - new.keys()]
    return lost + [
        f"{path}: {old[path]:.4g} there, {new[path]:.4g} now"
        for path in old.keys() & new.keys()
        if not math.isclose(old[path], new[path], rel_tol=TOLERANCE, abs_tol=1e-9)
    ]


def headlines(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of an answer that readers act on."""
    return {key: answer[key] for key in HEADLINES if key in answer}


def stale(name: str) -> list[str]:
    """Return what has moved in a published report since it was made."""
    saved = json.loads((PUBLISHED / f"{name}.json").read_text(encoding="utf-8"))
    found = []
    for label, result in importlib.import_module(STUDIES[name]).probes().items():
        found += [
            f"{name}: {label}{what}"
            for what in moved(
                headlines(saved["results"][label]), headlines(result.to_dict())
            )
        ]
    return found


def make(name: str) -> None:
    """Compute a study and write its report."""
    import hwsim

    module = importlib.import_module(STUDIES[name])
    study = module.study(module.probes())
    saved = hwsim.save_result(
        study, PUBLISHED / f"{name}.json", command=COMMAND.format(name)
    )
    pages(name, saved)


def pages(name: str, saved: Path) -> None:
    """Write the pages of a saved study, in place of those that are there."""
    import hwsim

    for old in PUBLISHED.glob(f"{name}-*.svg"):
        old.unlink()
    for path in hwsim.write_reports([saved], PUBLISHED):
        print(f"wrote {path.relative_to(ROOT)}")


def index() -> None:
    """Write the list of all reports."""
    import hwsim
    from hwsim.report.page import page_of
    from hwsim.report.reports import Entry
    from hwsim.report.templates import Templates

    pages = {
        name: page_of(hwsim.load_result(PUBLISHED / f"{name}.json"))
        for name in STUDIES
        if (PUBLISHED / f"{name}.json").is_file()
    }
    entries = [Entry(page, f"{name}.html") for name, page in pages.items()]
    place = PUBLISHED / "index.html"
    place.write_text(Templates().index(entries), encoding="utf-8")
    lines = [
        "# Published reports\n",
        "Real questions, answered by hwsim. `make gallery` makes them again; the JSON",
        "beside each page is the saved result that it was made from.\n",
    ]
    for name, page in pages.items():
        links = ", ".join(
            f"[{kind}]({name}.{suffix})"
            for kind, suffix in (("HTML", "html"), ("Markdown", "md"), ("PDF", "pdf"))
        )
        lines += [f"## {page.title}\n", f"{page.answer}\n", f"{links}\n"]
    (PUBLISHED / "README.md").write_text("\n".join(lines), encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Make or check the reports named, or all."""
    names = [a for a in arguments if not a.startswith("-")] or list(STUDIES)
    unknown = [n for n in names if n not in STUDIES]
    if unknown:
        print(f"no study {unknown[0]!r}; choose {', '.join(STUDIES)}", file=sys.stderr)
        return 2
    if "--check" in arguments:
        found = [what for name in names for what in stale(name)]
        print("\n".join(found) or "all reports are fresh")
        return 1 if found else 0
    if "--stale" in arguments:
        names = [name for name in names if stale(name)]
    for name in names:
        if "--pages" in arguments:
            pages(name, PUBLISHED / f"{name}.json")
        else:
            make(name)
    index()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
