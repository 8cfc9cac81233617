"""The model of a published row: from the catalog, or built from its shape."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from hwsim.errors import InputError
from hwsim.specs.base import Source
from hwsim.specs.load import spec_error
from hwsim.specs.model import ModelSpec
from hwsim.specs.published.names import published_model
from hwsim.specs.published.training import PublishedRun
from hwsim.specs.published.training_map import Family, MappedRun

SHAPE = ("layers", "hidden", "heads", "kv_heads", "ffn")
NEEDED = ("layers", "hidden", "heads")
# How far a built model's parameters may be from those the row states.
NEAR, FAR = 0.02, 0.25
# Of a model that only its size is known of.
USUAL_VOCAB, HEAD_WIDTH = 50_304, 128


def run_model(mapped: MappedRun) -> ModelSpec:
    """Return the model of a row, for its sequence length.

    A catalog model (by the mapping's name, then by the row's) is taken where
    the row's shape columns agree with it; else one is built from them.

    Raises
    ------
    InputError
        If there is neither a name that is known nor a shape.
    """
    run = mapped.run
    for name in (mapped.model, run.model):
        model = published_model(name) if name else None
        if model is not None and _agrees(model, run):
            return _for_run(model, run)
    return _for_run(_built(mapped), run)


def _agrees(model: ModelSpec, run: PublishedRun) -> bool:
    """Whether the shape columns that are given are those of a model."""
    for name in SHAPE:
        wanted, own = getattr(run, name), getattr(model, name)
        if name == "ffn" and model.moe is not None:
            # Cells of mixtures print the dense width, an expert's, or both.
            known = {own, model.moe.expert_ffn, model.moe.shared_ffn}
            if wanted is not None and not known & set(_widths(run.ffn_words)):
                return False
        elif wanted is not None and wanted != own:
            return False
    return True


def _widths(words: str) -> list[int]:
    return [int(n.replace(",", "")) for n in re.findall(r"\d[\d,]*", words)]


def _for_run(model: ModelSpec, run: PublishedRun) -> ModelSpec:
    """Return a model with the row's vocabulary, long enough for its sequence."""
    if run.vocab is not None and run.vocab != model.vocab:
        model = _changed(model, vocab=run.vocab)
    seq = run.seq_len
    if seq is None or model.max_context is None or seq <= model.max_context:
        return model
    return model.with_context(seq)


def _changed(model: ModelSpec, **changes: Any) -> ModelSpec:
    return _model(model.model_dump() | changes)


def _model(fields: Mapping[str, Any]) -> ModelSpec:
    try:
        return ModelSpec.model_validate(fields)
    except ValidationError as error:
        raise InputError(str(spec_error(error, f"model {fields['id']}"))) from None


def _built(mapped: MappedRun) -> ModelSpec:
    run = mapped.run
    missing = [name for name in NEEDED if getattr(run, name) is None]
    size = usual_size(run) if len(missing) == len(NEEDED) else None
    if size is not None:
        layers, hidden = usual_shape(size)
        run = dataclasses.replace(
            run, layers=layers, hidden=hidden, heads=hidden // HEAD_WIDTH
        )
    elif missing == ["heads"] and (run.hidden or 0) % HEAD_WIDTH == 0:
        run = dataclasses.replace(run, heads=(run.hidden or 0) // HEAD_WIDTH)
    elif missing:
        raise InputError(
            f"model {run.model!r} is not in the catalog and {', '.join(missing)} "
            "of it is not given"
        )
    family = mapped.family
    if family is None:
        raise InputError(f"the architecture of model {run.model!r} is not known")
    if "expert" in run.ffn_words.casefold():
        raise InputError(
            f"model {run.model!r} is not in the catalog, and the columns do not say "
            "how many experts it has"
        )
    models = [_model(_fields(run, family, c)) for c in _candidates(run, family)]
    if run.params_b is None:
        return models[0]
    # The parameter count tells a gated from a plain feed-forward block, and
    # tied from separate embeddings.
    wanted = run.params_b * 1e9
    off = [abs(m.num_parameters / wanted - 1.0) for m in models]
    if off[0] <= NEAR:
        return models[0]
    best = min(range(len(models)), key=off.__getitem__)
    if off[best] > FAR:
        found = models[best].num_parameters / 1e9
        raise InputError(
            f"model {run.model!r}: its shape has {found:.3g} billion parameters, "
            f"params_b says {run.params_b:g}"
        )
    return models[best]


def usual_size(run: PublishedRun) -> float | None:
    """Return the parameters of a dense decoder that only its size is known of. [1]

    Names of mixtures, which tell other counts too, give none.

    Examples
    --------
    >>> usual_size(PublishedRun("t", 1, model="Novel-13B-chat"))
    13000000000.0
    """
    name = run.model.casefold()
    mixed = re.search(r"\bmoe|\d+x\d|[-_]a\d+(\.\d+)?b|expert|diffusion|vision", name)
    if mixed or "expert" in run.ffn_words.casefold() or run.ffn is not None:
        return None
    if run.params_b is not None:
        return run.params_b * 1e9
    found = re.findall(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)b(?![a-z0-9])", name)
    return float(found[0]) * 1e9 if len(found) == 1 else None


def usual_shape(size: float) -> tuple[int, int]:
    """Return layers and width of a decoder of so many parameters.

    Layers are about a 128th of the width, as in GPT-3 and Llama;
    ``12 layers hidden**2`` and the embeddings are the size. Width and layers are
    round, so that eight and four ranks share them.

    Examples
    --------
    >>> usual_shape(6.7e9)
    (32, 4096)
    """
    wide = (128.0 * size / 12.0) ** (1.0 / 3.0)
    unit = 1024 if wide >= 3500 else 256
    hidden = max(round(wide / unit), 1) * unit
    deep = (size - 2.0 * USUAL_VOCAB * hidden) / (12.0 * hidden**2)
    return max(round(deep / 4.0) * 4, 4), hidden


def _candidates(run: PublishedRun, family: Family) -> Iterator[dict[str, Any]]:
    gated = bool(family.fields.get("gated_ffn", False))
    if not family.match and run.ffn in {None, 4 * (run.hidden or 0)}:
        gated = False  # a gated block of as much work is narrower
    tied = bool(family.fields.get("tied_embeddings", False))
    for gate in (gated, not gated):
        for tie in (tied, not tied):
            yield {"gated_ffn": gate, "tied_embeddings": tie}


def _fields(
    run: PublishedRun, family: Family, changes: Mapping[str, Any]
) -> dict[str, Any]:
    hidden = int(run.hidden or 0)
    name = re.sub(r"[^a-z0-9.+_-]+", "-", run.model.casefold()).strip("-._+")
    width = 8 * hidden // 3 if changes["gated_ffn"] else 4 * hidden
    fields: dict[str, Any] = {
        "id": name[:60] or "model", "name": run.model[:100] or "model",
        "layers": run.layers, "hidden": hidden, "heads": run.heads,
        "kv_heads": run.kv_heads or run.heads, "ffn": run.ffn or width,
        "vocab": run.vocab or family.vocab, "max_context": run.seq_len or 2048,
        "sources": (_source(run),),
    }  # fmt: skip
    return fields | dict(family.fields) | dict(changes)


def _source(run: PublishedRun) -> Source:
    return Source(
        kind="derived",
        title=f"shape columns of row {run.row}: {run.source or run.file}"[:2000],
        date="2026-11-22",
    )
