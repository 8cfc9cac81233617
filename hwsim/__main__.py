"""Entry point: answers ``--version`` at once, everything else through the CLI."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line."""
    if sys.argv[1:] in (["--version"], ["-V"]):
        from hwsim.version import __version__

        sys.stdout.write(f"hwsim {__version__}\n")
        return
    try:
        from hwsim.cli.app import run

        run()
    except KeyboardInterrupt:  # during imports; later ones are handled inside
        sys.stderr.write("hwsim: interrupted\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
