"""Reads a Hugging Face ``config.json`` as a model spec."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hwsim.errors import SpecError, nearest
from hwsim.specs.huggingface.classic import CLASSIC_DECODERS
from hwsim.specs.huggingface.config import Config
from hwsim.specs.huggingface.decoders import DECODERS
from hwsim.specs.huggingface.encoders import ENCODERS
from hwsim.specs.huggingface.hybrid import HYBRIDS
from hwsim.specs.huggingface.moe import MOE_DECODERS
from hwsim.specs.load import read_table, spec_error
from hwsim.specs.model import ModelSpec

FAMILIES = {
    **DECODERS,
    **CLASSIC_DECODERS,
    **MOE_DECODERS,
    **HYBRIDS,
    **ENCODERS,
}


def is_huggingface(table: Mapping[str, Any]) -> bool:
    """Return whether a JSON table is a Hugging Face config, not a spec."""
    marks = {"model_type", "architectures", "transformers_version", "text_config"}
    return "schema_version" not in table and not marks.isdisjoint(table)


def load_huggingface(path: Path) -> ModelSpec:
    """Read a ``config.json``, or the one in a folder, as a model spec.

    Raises
    ------
    SpecError
        If the file cannot be read, its architecture is not known, or a key
        is missing or wrong.
    """
    if path.is_dir():
        path = path / "config.json"
    table = read_table(path)
    stamp = dt.datetime.fromtimestamp(path.stat().st_mtime, tz=dt.UTC).date()
    stem = path.resolve().parent.name if path.name == "config.json" else path.stem
    return model_from_config(table, str(path), stem, stamp)


def model_from_config(
    table: Mapping[str, Any], where: str, name: str, date: dt.date
) -> ModelSpec:
    """Turn the keys of a Hugging Face config into a model spec.

    Parameters
    ----------
    table : mapping
        Contents of ``config.json``; keys that say nothing about the
        architecture are ignored.
    where : str
        File name, for errors.
    name : str
        What to call the model.
    date : datetime.date
        Date of the file, for the source entry.
    """
    config, notes = _language_part(Config(table, where))
    family = FAMILIES[config.model_type]
    title = str(table.get("_name_or_path") or name).rstrip("/").split("/")[-1] or name
    identifier = re.sub(r"[^a-z0-9.+_-]+", "-", title.casefold())[:80].strip("-._+")
    fields = {
        "id": identifier or "model",
        "name": title[:120],
        "family": config.model_type,
        "notes": notes,
        "sources": [{"kind": "datasheet", "title": f"{where}"[-2000:], "date": date}],
        **family(config),
    }
    try:
        return ModelSpec.model_validate(fields)
    except ValidationError as error:
        raise spec_error(error, where) from None


def _language_part(config: Config) -> tuple[Config, tuple[str, ...]]:
    if config.model_type in FAMILIES:
        return config, ()
    inner = config.table.get("text_config")
    if isinstance(inner, Mapping) and inner.get("model_type") in FAMILIES:
        note = f"The language model alone of a {config.model_type} model."
        return Config(inner, f"{config.where}: text_config"), (note,)
    known = ", ".join(sorted(FAMILIES))
    close = nearest(config.model_type, FAMILIES)
    hint = f"did you mean {', '.join(close)}? " if close else ""
    raise SpecError(
        f"{config.where}: model_type",
        f"unknown architecture {config.model_type[:60]!r}",
        f"{hint}known: {known}",
    )
