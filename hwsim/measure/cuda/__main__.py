"""Starts the command, as a module of a package or from a bare copy of the folder."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

if __name__ == "__main__":
    package = __package__
    if not package:  # started as a file: its folder becomes an importable package
        folder = Path(__file__).resolve().parent
        sys.path[0] = str(folder.parent)
        package = folder.name
    sys.exit(importlib.import_module(f"{package}.app").main(sys.argv[1:]))
