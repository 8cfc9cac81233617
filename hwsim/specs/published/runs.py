"""Runs that others measured and published, to hold predictions against.

One file is one source; a row is one figure with the configuration it was
measured at. A row holds what the source says and nothing fitted to it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, model_validator

from hwsim.errors import SpecError, UnknownNameError
from hwsim.specs.base import (
    CatalogSpec,
    Count,
    Dtype,
    Identifier,
    Name,
    Source,
    Spec,
    Text,
)
from hwsim.specs.load import Catalog, fold, load_spec, looks_like_path

Task = Literal["train", "prefill", "decode", "generate", "forward"]
Metric = Literal[
    "step_time",
    "latency",
    "time_to_first_token",
    "next_token_latency",
    "tokens_per_s_per_device",
    "sequences_per_s",
    "prefill_tokens_per_s",
    "decode_tokens_per_s",
    "output_tokens_per_s",
    "output_tokens_per_s_per_device",
]
Length = Annotated[int, Field(ge=0, le=10**9, strict=True)]

METRIC_UNITS: dict[str, str] = {
    "step_time": "s",
    "latency": "s",
    "time_to_first_token": "s",
    "next_token_latency": "s",
    "tokens_per_s_per_device": "token/s",
    "sequences_per_s": "1/s",
    "prefill_tokens_per_s": "token/s",
    "decode_tokens_per_s": "token/s",
    "output_tokens_per_s": "token/s",
    "output_tokens_per_s_per_device": "token/s",
}
_METRICS_OF: dict[str, tuple[str, ...]] = {
    "train": ("step_time", "tokens_per_s_per_device", "sequences_per_s"),
    "prefill": ("latency", "time_to_first_token", "prefill_tokens_per_s"),
    "decode": ("next_token_latency", "decode_tokens_per_s"),
    "generate": ("latency", "output_tokens_per_s", "output_tokens_per_s_per_device"),
    "forward": ("latency", "sequences_per_s"),
}
_FIELDS_OF: dict[str, tuple[str, ...]] = {
    "train": ("global_batch", "seq"),
    "prefill": ("batch", "prompt"),
    "decode": ("batch", "prompt", "output"),
    "generate": ("batch", "prompt", "output"),
    "forward": ("batch", "seq"),
}
_SIZE_FIELDS = ("global_batch", "micro_batch", "seq", "batch", "prompt", "output")


class PublishedRow(Spec):
    """One published figure and the run it belongs to.

    Attributes
    ----------
    task : str
        ``train`` (one optimizer step), ``prefill`` (one pass over the prompt),
        ``decode`` (the mean step while ``output`` tokens follow ``prompt``),
        ``generate`` (prompt and all output), ``forward`` (one encoder pass).
    model, system, stack : str
        Catalog names; a device name is a system of one.
    num_devices : int
        Devices in the run: tp * pp * dp * cp. Experts are
        spread over data-parallel ranks, so ``ep`` does not multiply.
    vpp : int
        Interleaved model chunks per pipeline rank.
    micro_batch : int or None
        Sequences per data-parallel rank and pass; None where not stated.
    weight_dtype : str or None
        Storage of weights, block formats (``q4_k_m``) included.
    dp_shard : int or None
        Data-parallel ranks that share states out where the others hold copies.
    metric, value
        What was measured, in SI: see ``METRIC_UNITS``.
    printed : str
        The figure and unit as the source prints them.
    confidence : str
        ``high``: figure and configuration stand in the source; ``medium``: a
        part of the configuration is inferred, and ``note`` says which.
    """

    id: Identifier
    task: Task
    model: Name
    system: Name
    stack: Name
    num_devices: Count = 1
    tp: Count = 1
    pp: Count = 1
    vpp: Count = 1
    dp: Count = 1
    cp: Count = 1
    ep: Count = 1
    zero_stage: Literal[0, 1, 2, 3] = 0
    dp_shard: Count | None = None
    sequence_parallel: bool = False
    recompute: Literal["none", "selective", "full"] = "none"
    global_batch: Count | None = None
    micro_batch: Count | None = None
    seq: Count | None = None
    batch: Count | None = None
    prompt: Length | None = None
    output: Count | None = None
    dtype: Dtype
    weight_dtype: Name | None = None
    kv_dtype: Dtype | None = None
    metric: Metric
    value: Annotated[float, Field(gt=0.0, le=1e15)]
    printed: Name
    confidence: Literal["high", "medium"]
    note: Text | None = None

    @model_validator(mode="after")
    def _check(self) -> PublishedRow:
        known = _METRICS_OF[self.task]
        if self.metric not in known:
            raise ValueError(
                f"metric {self.metric!r} does not fit task {self.task!r}; "
                f"use {' or '.join(known)}"
            )
        for name in _FIELDS_OF[self.task]:
            if getattr(self, name) is None:
                raise ValueError(f"{name} is missing; task {self.task!r} needs it")
        degrees = self.tp * self.pp * self.dp * self.cp
        if degrees != self.num_devices:
            raise ValueError(
                f"tp * pp * dp * cp is {degrees}, "
                f"num_devices is {self.num_devices}; make them agree"
            )
        if self.confidence == "medium" and self.note is None:
            raise ValueError("note is missing; say what is inferred")
        return self

    @property
    def unit(self) -> str:
        """SI unit of ``value``."""
        return METRIC_UNITS[self.metric]

    @property
    def is_rate(self) -> bool:
        """Whether a higher value is the faster run."""
        return self.unit != "s"

    @property
    def needs(self) -> tuple[str, ...]:
        """What the run needs beyond tensor and data parallelism."""
        wants = (
            (self.pp, "pipeline parallelism"),
            (self.cp, "context parallelism"),
            (self.ep, "expert parallelism"),
        )
        return tuple(what for degree, what in wants if degree > 1)

    @property
    def seconds(self) -> float:
        """Time behind the figure: step, pass, mean decode step or request. [s]

        Examples
        --------
        A rate over a known amount of work gives a time: 8 sequences at 4 per
        second take 2 s.

        >>> PublishedRow(
        ...     id="x", task="forward", model="bert-base", system="t4",
        ...     stack="fastertransformer", batch=8, seq=128, dtype="fp16",
        ...     metric="sequences_per_s", value=4.0, printed="4 seq/s",
        ...     confidence="high",
        ... ).seconds
        2.0
        """
        return self._work() / self.value if self.is_rate else self.value

    def value_of(self, seconds: float) -> float:
        """Return a predicted time as this row's metric.

        Parameters
        ----------
        seconds : float
            Predicted time of what ``task`` names. [s]

        Returns
        -------
        float
            The same quantity and unit as ``value``.

        Raises
        ------
        ValueError
            If the time is not finite and positive.
        """
        if not (math.isfinite(seconds) and seconds > 0.0):
            raise ValueError(f"seconds is {seconds}; give a finite time above 0")
        return self._work() / seconds if self.is_rate else seconds

    def relative_error(self, seconds: float) -> float:
        """Return (predicted - published) / published of the metric, signed."""
        return self.value_of(seconds) / self.value - 1.0

    def _work(self) -> float:
        """Tokens or sequences (per device where the metric is) in ``seconds``."""
        size = {name: float(getattr(self, name) or 0) for name in _SIZE_FIELDS}
        step_tokens = size["global_batch"] * size["seq"]
        sequences = size["global_batch" if self.task == "train" else "batch"]
        answers = size["batch"] * size["output"]
        return {
            "tokens_per_s_per_device": step_tokens / self.num_devices,
            "sequences_per_s": sequences,
            "prefill_tokens_per_s": size["batch"] * size["prompt"],
            "decode_tokens_per_s": size["batch"],
            "output_tokens_per_s": answers,
            "output_tokens_per_s_per_device": answers / self.num_devices,
        }[self.metric]


class PublishedFile(CatalogSpec):
    """The figures taken from one document.

    Attributes
    ----------
    sources : tuple of Source
        The document: title, address, and its date or, for a page that has
        none, the date it was read.
    licence : str
        Licence of the document the figures were taken from.
    selection : str
        The rule by which rows were picked from the document's table.
    """

    licence: Text
    selection: Text
    rows: Annotated[tuple[PublishedRow, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _attributed(self) -> PublishedFile:
        if not self.sources or self.sources[0].url is None:
            raise ValueError("sources.0.url is missing; give the document's address")
        ids = [row.id for row in self.rows]
        twice = sorted({row_id for row_id in ids if ids.count(row_id) > 1})
        if twice:
            raise ValueError(f"row id {twice[0]!r} stands twice; make ids unique")
        return self

    @property
    def source(self) -> Source:
        """The document itself, as opposed to side notes on single columns."""
        return self.sources[0]


PUBLISHED = Catalog("published run", PublishedFile, "workloads", "published/*.toml")


def load_published(*names: str) -> tuple[PublishedFile, ...]:
    """Load published runs, all of them or the named files.

    Parameters
    ----------
    *names : str
        Ids or paths of files; none means every file of the catalog.

    Returns
    -------
    tuple of PublishedFile
        In the order asked for, else by id.

    Raises
    ------
    SpecError
        If a file is wrong, or two files share a row id.
    UnknownNameError
        If a name is no file of the catalog.
    """
    known = PUBLISHED.paths()
    for name in names:
        if not looks_like_path(name) and fold(name) not in known:
            raise UnknownNameError(PUBLISHED.what, name, known)
    wanted = names or tuple(sorted(known))
    files = tuple(load_spec(PUBLISHED, PublishedFile, name) for name in wanted)
    seen: dict[str, str] = {}
    for file, row in iter_rows(files):
        if row.id in seen:
            raise SpecError(
                f"published runs {seen[row.id]} and {file.id}",
                f"both have row id {row.id!r}",
                "rename one",
            )
        seen[row.id] = file.id
    return files


def iter_rows(
    files: tuple[PublishedFile, ...],
) -> Iterator[tuple[PublishedFile, PublishedRow]]:
    """Yield each row with its file, in order."""
    for file in files:
        for row in file.rows:
            yield file, row
