"""Reference pages that follow from code: commands, Python functions, specs."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel

import hwsim
from hwsim.cli.app import app
from hwsim.cli.examples import shown as commands_shown
from hwsim.specs.device import DeviceSpec
from hwsim.specs.engine import EngineSpec
from hwsim.specs.model import ModelSpec
from hwsim.specs.scenario import Scenario
from hwsim.specs.stack import StackSpec
from hwsim.specs.system import SystemFile

SPECS = {
    "Device": DeviceSpec, "System": SystemFile, "Model": ModelSpec, "Stack": StackSpec,
    "Engine": EngineSpec, "Scenario": Scenario,
}  # fmt: skip
MADE = "<!-- made by docs/refresh_reference.py when the site is built -->\n\n"


def commands(command: Any, trail: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Yield every command with the words that call it."""
    children = getattr(command, "commands", None)
    if children is None:
        yield " ".join(trail), command
        return
    for name, child in sorted(children.items()):
        yield from commands(child, (*trail, name))


def cell(text: Any) -> str:
    """Return text as a cell of a table."""
    words = " ".join(str(text or "").split())
    return words.replace("|", "\\|").replace("<", "&lt;").replace("[", "\\[")


def command_page() -> str:
    """Return the page of all commands and their options."""
    lines = [
        "# Commands",
        "",
        "Every option of every command, as `--help` prints it.",
        "",
    ]
    for name, command in commands(typer.main.get_command(app), ("hwsim",)):
        lines += [f"## {name}", "", " ".join((command.help or "").split()), ""]
        if command.epilog:
            lines += ["```sh", *commands_shown(command.epilog), "```", ""]
        lines += ["| Option | Meaning |", "| --- | --- |"]
        for option in command.params:
            names = [*option.opts, *option.secondary_opts]
            shown = ", ".join(f"`{n}`" for n in names)
            lines.append(f"| {shown} | {cell(getattr(option, 'help', ''))} |")
        lines.append("")
    return MADE + "\n".join(lines)


def python_page() -> str:
    """Return the page of everything that ``hwsim`` exports."""
    functions, classes = [], []
    for name in sorted(hwsim.__all__):
        found = getattr(hwsim, name)
        if inspect.isclass(found):
            classes.append((f"hwsim.{name}", not issubclass(found, BaseModel)))
        elif callable(found):
            functions.append(f"hwsim.{name}")
    lines = ["# Python", "", "Import from `hwsim` only.", "", "## Functions", ""]
    for home in functions:
        lines += [f"```{{eval-rst}}\n.. autofunction:: {home}\n```", ""]
    lines += ["## Classes", ""]
    for home, members in classes:
        body = "\n   :members:" if members else ""
        lines += [f"```{{eval-rst}}\n.. autoclass:: {home}{body}\n```", ""]
    return MADE + "\n".join(lines)


def spec_page() -> str:
    """Return the page of every key of every kind of file."""
    lines = [
        "# Specs", "",
        "Keys of the TOML files; `hwsim schema KIND` prints the JSON Schema.", "",
    ]  # fmt: skip
    for name, spec in SPECS.items():
        schema = spec.model_json_schema()
        lines += [f"## {name}", ""]
        tables = [("", schema), *schema.get("$defs", {}).items()]
        for title, part in tables:
            if "properties" not in part:
                continue
            if title:
                lines += [f"### {name}: {title}", ""]
            lines += ["| Key | Type | Default |", "| --- | --- | --- |"]
            needed = part.get("required", [])
            for key, field in part["properties"].items():
                default = "required" if key in needed else field.get("default", "")
                lines.append(f"| `{key}` | {cell(kind(field))} | {cell(default)} |")
            lines.append("")
    return MADE + "\n".join(lines)


def kind(field: dict[str, Any]) -> str:
    """Return the type of a key in words."""
    if "$ref" in field:
        return str(field["$ref"]).rsplit("/", 1)[-1]
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(kind(option) for option in field["anyOf"]))
    if "enum" in field:
        return ", ".join(map(str, field["enum"]))
    if "const" in field:
        return str(field["const"])
    if field.get("type") == "array":
        return f"list of {kind(field.get('items', {})) or 'values'}"
    if field.get("type") == "object":
        return f"table of {kind(field.get('additionalProperties') or {}) or 'values'}"
    return str(field.get("type", ""))


def write_reference(folder: Path) -> None:
    """Write the three pages."""
    folder.mkdir(exist_ok=True)
    pages = {"commands": command_page, "python": python_page, "specs": spec_page}
    for name, page in pages.items():
        path, text = folder / f"{name}.md", page()
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
