"""The application: commands, and errors as one line on stderr."""

from __future__ import annotations

import io
import os
import sys
import time
from typing import Annotated, Any

import typer

from hwsim.cli import (
    ask,
    calibrate,
    catalog,
    compare,
    demo,
    inspect,
    measure,
    mixed,
    picture,
    plan,
    report,
    serve,
    train_mixed,
    validate,
    whatif,
)
from hwsim.cli.output import INTERRUPTED, drop_stdout
from hwsim.cli.settings import PREFIX, config_files, defaults, manners
from hwsim.errors import HwsimError, InputError
from hwsim.units import Units, use_units
from hwsim.version import __version__

# Typer keeps its base of usage errors to itself; BadParameter is public.
_UsageFault: type[Exception] = next(
    cls for cls in typer.BadParameter.__mro__ if cls.__name__ == "ClickException"
)

app = typer.Typer(
    name="hwsim",
    help="Predict how long a Transformer takes on CPUs, GPUs and TPUs: time, "
    "memory, what limits it. Try: hwsim infer llama-3.1-8b --system h100-80gb-sxm",
    epilog="Every option can have a default in the environment, such as "
    "HWSIM_INFER_SYSTEM, or in a file hwsim.toml.",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
ask.register(app)
catalog.register(app)
inspect.register(app)
picture.register(app)
plan.register(app)
demo.register(app)
validate.register(app)
calibrate.register(app)
measure.register(app)
serve.register(app)
report.register(app)
compare.register(app)
whatif.register(app)
mixed.register(app)
train_mixed.register(app)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"hwsim {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            "-V",
            callback=_show_version,
            is_eager=True,
            help="Print the version and exit.",
        ),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No notes, no progress.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say what was read, and the time.")
    ] = False,
    units: Annotated[
        Units,
        typer.Option(help="human: 12.3 ms, 80 GB; si: 0.0123 s, 8e+10 B."),
    ] = Units.human,
) -> None:
    """Root options; ``--version`` is answered by its callback."""
    del version
    if quiet and verbose:
        raise InputError("--quiet and --verbose exclude each other; give one")
    manners.quiet, manners.verbose = quiet, verbose
    use_units(units)


def run(arguments: list[str] | None = None) -> None:
    """Run the command line; errors are one line on stderr, exit code 2."""
    sys.exit(run_code(arguments))


def run_code(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    if sys.stdout is None:
        return _fail("standard output is closed: there is nowhere to answer", 2)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    try:
        return _run(arguments)
    except BrokenPipeError:
        # The reader of a pipe has gone: not an error, but nothing can be said.
        drop_stdout()
        return 0
    except SystemExit as ended:
        # The command-line library ends the process when a pipe breaks.
        if not isinstance(ended.__context__, BrokenPipeError):
            raise
        sys.stdout = sys.__stdout__
        drop_stdout()
        return 0
    except OSError as error:
        if error.filename is not None:
            raise
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123
        return _fail(f"cannot write the answer: {error.strerror or error}", 2)


def _run(arguments: list[str] | None) -> int:
    started = time.perf_counter()
    manners.quiet = manners.verbose = False
    use_units(Units.human)
    try:
        command = typer.main.get_command(app)
        _tidy_help(command)
        code = command(
            args=arguments, standalone_mode=False, prog_name="hwsim",
            default_map=defaults(command), auto_envvar_prefix=PREFIX,
        )  # fmt: skip
        sys.stdout.flush()
    except HwsimError as error:
        return _fail(str(error), error.exit_code)
    except _UsageFault as error:
        return _usage(error)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", INTERRUPTED)
    if code == INTERRUPTED:
        return _fail("interrupted", INTERRUPTED)
    if manners.verbose:
        _tell(time.perf_counter() - started)
    return int(code or 0)


def _tidy_help(command: Any) -> None:
    """Leave variables that follow from names, and types of flags, out of help.

    Defaults in square brackets are text, not markup.
    """
    for parameter in command.params:
        parameter.show_envvar = False
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
        if getattr(parameter, "help", None):
            parameter.help = parameter.help.replace(" [default:", r" \[default:")
    for child in getattr(command, "commands", {}).values():
        _tidy_help(child)


def _tell(wall: float) -> None:
    """Say what the answer rests on besides the command, and how long it took."""
    read = ", ".join(map(str, config_files())) or "none"
    named = ", ".join(sorted(k for k in os.environ if k.startswith(f"{PREFIX}_")))
    sys.stderr.write(
        f"hwsim {__version__}; defaults from files: {read}; from the environment: "
        f"{named or 'none'}; {wall:.2f} s\n"
    )


def _usage(error: Any) -> int:
    """Say what is wrong with the command line, in one line."""
    if type(error).__name__ == "NoArgsIsHelpError":
        sys.stderr.write(f"{error.format_message()}\n")
        return 2
    context = getattr(error, "ctx", None)
    where = context.command_path if context else "hwsim"
    return _fail(f"{error.format_message()} (see {where} --help)", 2)


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"hwsim: {' '.join(message.split())}\n")
    return code
