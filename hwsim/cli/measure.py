"""Commands that time real hardware: measure cpu, measure cuda."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from hwsim.cli.examples import examples
from hwsim.cli.output import note, print_json
from hwsim.errors import InputError

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    group = typer.Typer(
        no_args_is_help=True, help="Time this machine's hardware into tables."
    )
    group.command("cpu", epilog=examples("measure cpu"))(cpu)
    group.command(
        "cuda",
        epilog=examples("measure cuda"),
        # Its arguments are its own: the module also runs where hwsim is not.
        context_settings={
            "allow_extra_args": True,
            "ignore_unknown_options": True,
            "help_option_names": [],
        },
        add_help_option=False,
    )(cuda)
    app.add_typer(group, name="measure")


def cpu(
    out: Annotated[
        Path,
        typer.Option(help="Folder of the tables; what it holds is not redone."),
    ] = Path("measurements"),
    budget: Annotated[
        str, typer.Option(help="Wall time to keep to: 90, 5m, 1h.")
    ] = "10m",
    device: Annotated[
        str | None,
        typer.Option(help="Device to name in the rows.  [default: detected]"),
    ] = None,
    threads: Annotated[
        str | None,
        typer.Option(
            help="Numbers of threads, as 1,4,16.  [default: 1, powers of two, all]"
        ),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(help="Tables: gemm, attention, elementwise, memory, launch."),
    ] = None,
    redo_disturbed: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Measure again where other processes disturbed more than this share.",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Time operators on this CPU with NumPy, and PyTorch where installed."""
    from hwsim.measure.cpu import measure_cpu

    command = "hwsim " + " ".join(sys.argv[1:])
    allowed, counts, tables = seconds(budget), _threads(threads), _names(only)
    with _Progress() as progress:
        done = measure_cpu(
            out, device=device, budget=allowed, threads=counts,
            only=tables, redo_disturbed=redo_disturbed, command=command,
            report=progress.report,
        )  # fmt: skip
    if not done.known:
        note(
            f"no device {done.device!r} is in the catalog: write its spec.toml, or "
            "name a known one with --device"
        )
    _show(done, json=json)


def cuda(context: typer.Context) -> None:
    """Time operators and models on a CUDA GPU; --help lists its options."""
    from hwsim.measure.cuda.app import main

    raise typer.Exit(main(context.args))


def seconds(text: str) -> float:
    """Return a duration written as 90, 90s, 5m or 1h. [s]"""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip())
    if not found or float(found[1]) <= 0.0:
        raise InputError(f"--budget {text!r} is no time; write 90, 5m or 1h")
    return float(found[1]) * _UNITS[found[2]]


def _threads(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(
            f"--threads {text!r} are no numbers; write them as 1,4,16"
        ) from None


def _names(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def _show(done: Any, *, json: bool) -> None:
    summary = done.summary
    if json:
        print_json(
            {
                "folder": str(done.folder), "tables": [str(p) for p in done.tables],
                "device": done.device, "measured": summary.measured,
                "already": summary.already, "skipped": summary.skipped,
                "left": summary.left, "seconds": summary.seconds,
            }
        )  # fmt: skip
        return
    sys.stdout.write(
        f"{summary.measured} cases of {done.device} measured in "
        f"{summary.seconds:.0f} s ({summary.already} from before, "
        f"{summary.skipped} skipped, {summary.left} left for a larger budget)\n"
    )
    for path in done.tables:
        sys.stdout.write(f"  {path}\n")


class _Progress:
    """A bar on stderr: cases done, and the one before this."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._bar = Progress(
            TextColumn("{task.completed}/{task.total} cases"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}", markup=False),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task("starting", total=None)

    def __enter__(self) -> _Progress:
        self._bar.start()
        return self

    def __exit__(self, *fault: object) -> None:
        self._bar.stop()

    def report(self, case: Any, outcome: Any, so_far: Any, total: int) -> None:
        """Show one finished case."""
        done = so_far.measured + so_far.already + so_far.skipped
        what = f"{case.op} {case.dtype}"
        if outcome is not None:
            samples = sorted(outcome.samples)
            what += f" {samples[len(samples) // 2] * 1e6:.4g} us"
        self._bar.update(self._task, completed=done, total=total, description=what)
