"""Entry point: answers ``--version`` at once, everything else through the CLI."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line."""
    if sys.argv[1:] in (["--version"], ["-V"]):
        from hwsim.version import __version__

        sys.stdout.write(f"hwsim {__version__}\n")
        return
    from hwsim.cli.app import run

    run()


if __name__ == "__main__":
    main()
