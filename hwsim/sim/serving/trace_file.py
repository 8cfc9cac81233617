"""Traces of requests as files: CSV or a JSON object a line, plain or gzipped."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from hwsim.errors import InputError
from hwsim.sim.serving.prefixes import PrefixColumns
from hwsim.specs.measurement.file import separator_fault
from hwsim.specs.traffic import MAX_TOKENS

# Column names of public traces, folded: Azure LLM inference, BurstGPT,
# Mooncake, Splitwise and our own. Mooncake's timestamps are in milliseconds.
_ARRIVAL = (
    "arrival_s", "arrival", "arrived_at", "arrival_time", "arrival_timestamp",
    "timestamp", "time",
)  # fmt: skip
_INPUT = (
    "input_tokens", "inputtokens", "contexttokens", "request tokens", "input_length",
    "prompt_size", "prompt_tokens", "num_prefill_tokens",
)  # fmt: skip
_OUTPUT = (
    "output_tokens", "outputtokens", "generatedtokens", "response tokens",
    "output_length", "token_size", "completion_tokens", "num_decode_tokens",
)  # fmt: skip
_JSON = (".jsonl", ".ndjson", ".json")

Rows = Iterator[tuple[int, dict[str, Any]]]


@dataclass
class Columns:
    """Requests of a trace that generate a token, in order.

    Attributes
    ----------
    times : list of float
        Arrivals. [s]
    inputs, outputs : list of int
        Tokens of prompts and answers.
    prefixes : PrefixColumns
        What prompts begin with.
    """

    prefixes: PrefixColumns
    times: list[float] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)


def read_columns(path: Path, limit: int | None) -> Columns:
    """Read a trace; see :func:`hwsim.sim.serving.arrivals.read_trace`."""
    rows = _rows(path)
    found: Columns | None = None
    for number, (row, fields) in enumerate(rows, 1):
        try:
            if found is None:
                names = {str(key).strip().casefold(): key for key in fields}
                keys = _columns(path, names)
                scale = 1e-3 if {"input_length", "timestamp"} <= set(names) else 1.0
                found = Columns(PrefixColumns(path, names))
            _add(found, path, row, fields, keys, scale)
        except InputError as error:
            if row == number:
                raise
            raise InputError(f"{error} (request {number} of the file)") from None
        if limit is not None and len(found.times) >= limit:
            break
    if found is None:
        raise InputError(f"{path}: is empty; a trace has a row per request")
    if not found.times:
        raise InputError(f"{path}: no row generates a token; nothing can be served")
    return found


def _add(
    found: Columns,
    path: Path,
    row: int,
    fields: dict[str, Any],
    keys: list[Any],
    scale: float,
) -> None:
    """Add the request of one row."""
    at, prompt, answer = (fields.get(key) for key in keys)
    time = _time(path, row, at) * scale
    if found.times and time < found.times[-1]:
        raise InputError(
            f"{path}: row {row}: arrives before the row above it; sort the trace by "
            "arrival"
        )
    tokens = token_count(path, row, str(keys[1]), prompt)
    generated = token_count(path, row, str(keys[2]), answer, least=0)
    if generated:
        found.times.append(time)
        found.inputs.append(tokens)
        found.outputs.append(generated)
        found.prefixes.add(row, fields, tokens, generated)


def text_lines(path: Path) -> io.StringIO:
    """Return the text of a file, plain or gzipped, to be read line by line.

    Raises
    ------
    InputError
        If it cannot be read or is not text.
    """
    try:
        data = path.read_bytes()
        if path.suffix.casefold() == ".gz":
            data = gzip.decompress(data)
        return io.StringIO(data.decode("utf-8-sig"), newline="")
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not text in UTF-8") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: cannot be unpacked: {error}") from None
    except OSError as error:
        reason = (error.strerror or "error").lower()
        raise InputError(f"{path}: cannot be read: {reason}") from None


def _rows(path: Path) -> Rows:
    """Yield (line of the file, fields)."""
    name = path.name.casefold().removesuffix(".gz")
    text = text_lines(path)
    if name.endswith(_JSON):
        for row, line in enumerate(text, 1):
            if line.strip():
                yield row, _object(path, row, line)
        return
    table = csv.DictReader(text)
    try:
        _check_heading(path, list(table.fieldnames or ()))
        for fields in table:
            yield table.line_num, fields
    except csv.Error as error:
        raise InputError(f"{path}: row {table.line_num + 1}: {error}") from None


def _check_heading(path: Path, names: list[str]) -> None:
    folded = [name.strip().casefold() for name in names]
    twice = sorted({name for name in folded if name and folded.count(name) > 1})
    if twice:
        raise InputError(f"{path}: has column {twice[0]!r} twice; rename one")
    if fault := separator_fault(names):
        raise InputError(f"{path}: {fault}; save it as plain CSV")


def _object(path: Path, row: int, line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InputError(f"{path}: row {row}: is not a JSON object")
    return value


def _columns(path: Path, names: dict[str, Any]) -> list[Any]:
    """Return the names of the columns of arrival, prompt and answer."""
    return [
        _column(path, names, known, what)
        for known, what in ((_ARRIVAL, "arrival"), (_INPUT, "input tokens"),
                            (_OUTPUT, "output tokens"))
    ]  # fmt: skip


def _column(
    path: Path, names: dict[str, Any], known: tuple[str, ...], what: str
) -> Any:
    for name in known:
        if name in names:
            return names[name]
    found = ", ".join(str(n)[:40] for n in list(names.values())[:8])
    raise InputError(f"{path}: no column of {what} among {found}; name it {known[0]!r}")


def token_count(path: Path, row: int, name: str, text: object, least: int = 1) -> int:
    """Return a number of tokens, or raise ``InputError`` that names its row."""
    if text is None:
        raise InputError(f"{path}: row {row}: {name} is missing; give all columns")
    try:
        value = math.nan if "_" in str(text) else float(str(text))
    except ValueError:
        value = math.nan
    if not least <= value <= MAX_TOKENS or value != int(value):
        raise InputError(
            f"{path}: row {row}: {name} is {str(text).strip()[:40]!r}; "
            f"give a whole number from {least} to {MAX_TOKENS}"
        )
    return int(value)


def _time(path: Path, row: int, text: object) -> float:
    try:
        value = float(str(text))
    except ValueError:
        value = _date(str(text))
    if not math.isfinite(value):
        raise InputError(
            f"{path}: row {row}: arrival is {str(text)[:40]!r}; give seconds or a date"
        )
    return value


def _date(text: str) -> float:
    # Azure's traces have seven digits of a second; datetime reads six.
    head, dot, tail = text.strip().partition(".")
    if dot:
        digits = len(tail) - len(tail.lstrip("0123456789"))
        tail = tail[: min(digits, 6)].ljust(6, "0") + tail[digits:]
    try:
        moment = datetime.fromisoformat(f"{head}{dot}{tail}")
    except ValueError:
        return math.nan
    epoch = datetime(1970, 1, 1, tzinfo=moment.tzinfo)
    return (moment - epoch).total_seconds()
