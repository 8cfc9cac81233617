"""What a published inference figure asks for, and what its prediction is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from hwsim.analysis.inference import InferResult
from hwsim.analysis.published.passes import Passes
from hwsim.analysis.published.setting import Precisions
from hwsim.cost.interval import LogInterval
from hwsim.specs.engine import EngineSpec
from hwsim.specs.model import ModelSpec
from hwsim.specs.published.inference import InferenceRow
from hwsim.specs.stack import StackSpec
from hwsim.specs.system import SystemSpec


@dataclass(frozen=True)
class Work:
    """What a row asks for, resolved.

    Attributes
    ----------
    row : InferenceRow
        Degrees, load and size filled.
    spread : float or None
        Sigma of log-normal answers, where it is known; 0 is equal ones.
    microbatch : int or None
        Most tokens of a pass.
    in_flight : int or None
        Most passes under way at a time.
    filled : float
        Share of a prompt that is no padding.
    assumed : tuple of str
        What the row left open.
    attention_dp : bool
        Devices of a mixture attend to requests of their own and share experts out.
    """

    row: InferenceRow
    model: ModelSpec
    system: SystemSpec
    stack: StackSpec
    engine: EngineSpec
    precise: Precisions
    spread: float | None
    microbatch: int | None
    in_flight: int | None
    filled: float
    assumed: tuple[str, ...]
    attention_dp: bool = False


@dataclass(frozen=True)
class BatchTimes:
    """Times of a fixed batch.

    Attributes
    ----------
    result : InferResult
        All layers on one group of tensor-parallel devices, in one pass.
    passes : Passes or None
        How the prompts are read where that is not so.
    hand_over_s : float
        Of one decode step, between the stages of a pipeline. [s]
    """

    result: InferResult
    passes: Passes | None
    hand_over_s: float

    @property
    def ttft_s(self) -> float:
        """Time to first token. [s]"""
        if self.passes is None:
            return self.result.ttft_s
        return self.result.ttft_s - self.result.prefill_s + self.passes.time_s

    @property
    def tpot_s(self) -> float:
        """Mean time of a decode step; 0 where there is none. [s]"""
        step = self.result.tpot_s
        return step + self.hand_over_s if step else 0.0

    @property
    def latency_s(self) -> float:
        """First to last token. [s]"""
        prompt = self.result.prefill_s if self.passes is None else self.passes.time_s
        return prompt + self.result.decode_steps * self.tpot_s


@dataclass(frozen=True)
class Figure:
    """The prediction of a row, in its metric, SI.

    Attributes
    ----------
    op : str
        ``prefill``, ``decode``, ``generate``, ``forward`` or ``serve``.
    lower, upper : float or None
        90 % interval.
    inside : LogInterval or None
        Of the time, by the errors of operators alone.
    stretch : float
        Its error over that of the steps behind it, as logarithms.
    """

    work: Work
    op: str
    value: float
    lower: float | None
    upper: float | None
    fits: bool
    bound: str
    inside: LogInterval | None = None
    stretch: float = 1.0

    @property
    def task(self) -> str:
        """Whose term is beside the operators in the interval."""
        return "serve" if self.op == "serve" else "infer"

    @property
    def ratio(self) -> float:
        """ln(published / predicted) of the time behind the figure."""
        ratio = math.log((self.work.row.published or math.nan) / self.value)
        return -ratio if self.work.row.kind == "throughput" else ratio

    def cells(self) -> dict[str, Any]:
        """Return the cells of a record."""
        work, rate = self.work, self.work.row.kind == "throughput"
        published = work.row.published or math.nan
        return {
            "op": self.op, "predicted": self.value, "lower": self.lower,
            "upper": self.upper, "stack": work.stack.id, "system": work.system.id,
            "devices": work.row.num_devices, "fits": self.fits, "bound": self.bound,
            "assumed": "; ".join(work.assumed),
            "published_step_s": 1.0 / published if rate else published,
            "step_s": 1.0 / self.value if rate else self.value,
        }  # fmt: skip


def batch_size(work: Work) -> int:
    """Return the sequences of one replica's batch."""
    return max(round((work.row.size or 1.0) / (work.row.dp or 1)), 1)


def longest(output: int, batch: int, sigma: float | None) -> int:
    """Return the tokens of a batch's longest answer: it ends the batch.

    The expected largest of some log-normal lengths, by Blom's approximation.
    """
    if not sigma or batch < 2 or output < 2:
        return output
    normal = NormalDist().inv_cdf((batch - 0.375) / (batch + 0.25))
    return round(output * max(math.exp(sigma * normal - sigma**2 / 2.0), 1.0))


def filled(prompt: int, work: Work) -> int:
    """Return the tokens of a prompt that are no padding."""
    return max(round(prompt * work.filled), 1) if prompt else 0


def lengths(row: InferenceRow) -> tuple[int, int]:
    """Return prompt and output tokens that a row's figure takes."""
    prompt, output = round(row.isl or 0), round(row.osl or 0)
    if row.phase == "prefill":
        output = 0 if not prompt else 1
    if row.kind == "ttft" and row.load == "fixed":
        output = 1
    return prompt, max(output, 1) if not prompt else output
