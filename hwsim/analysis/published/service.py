"""Runs behind published inference figures: fixed batches and loaded services."""

from __future__ import annotations

from typing import Any

from hwsim.analysis.inference import InferResult, run_inference
from hwsim.analysis.published.fixed import fixed_figure
from hwsim.analysis.published.load import served_figure, traffic_of
from hwsim.analysis.published.passes import hand_over, read_prompts
from hwsim.analysis.published.work import (
    BatchTimes,
    Figure,
    Work,
    batch_size,
    filled,
    lengths,
    longest,
)
from hwsim.analysis.serving.serve import ServeResult, run_serving
from hwsim.cost.evaluate import Fidelity


class InferenceRuns:
    """Runs; equal ones once."""

    def __init__(self, fidelity: Fidelity) -> None:
        self.fidelity: Fidelity = fidelity
        self._done: dict[tuple[Any, ...], Any] = {}

    def figure(self, work: Work) -> Figure:
        """Return the figure of a row.

        Raises
        ------
        InputError
            If the row cannot be run.
        """
        if work.row.load == "fixed":
            return fixed_figure(work, self._times(work))
        return served_figure(work, self._service(work))

    def _times(self, work: Work) -> BatchTimes:
        """Return the times of a fixed batch, in passes and stages if so run."""
        result = self._batch(work)
        prompt, _ = lengths(work.row)
        pp, passes, over = work.row.pp or 1, None, 0.0
        if prompt and (pp > 1 or work.microbatch is not None):
            key = ("passes", *_identity(work), pp, work.microbatch, work.in_flight)
            key = (*key, batch_size(work), filled(prompt, work))
            if key not in self._done:
                self._done[key] = read_prompts(
                    work.model, work.system, work.stack, batch=batch_size(work),
                    prompt=filled(prompt, work), tp=work.row.tp or 1, pp=pp,
                    microbatch=work.microbatch, in_flight=work.in_flight,
                    fidelity=self.fidelity, **vars(work.precise),
                )  # fmt: skip
            passes = self._done[key]
        if pp > 1:
            over = (pp - 1) * hand_over(
                work.model, work.system, batch_size(work), self.fidelity
            )
        return BatchTimes(result, passes, over)

    def _batch(self, work: Work) -> InferResult:
        row = work.row
        prompt, output = lengths(row)
        prompt = filled(prompt, work)
        if work.model.kind == "encoder":
            output = 0
        batch = batch_size(work)
        output = longest(output, batch, work.spread)
        key = ("batch", *_identity(work), batch, prompt, output)
        if key not in self._done:
            self._done[key] = run_inference(
                work.model, work.system, work.stack, batch=batch, prompt=prompt,
                output=output, tp=row.tp or 1, fidelity=self.fidelity,
                engine="closed_form", **vars(work.precise),
            )  # fmt: skip
        found: InferResult = self._done[key]
        return found

    def _service(self, work: Work) -> ServeResult:
        traffic = traffic_of(work)
        apart = work.attention_dp
        key = ("service", *_identity(work), work.engine, traffic, apart)
        if key not in self._done:
            row, tp = work.row, work.row.tp or 1
            groups = tp if apart else 1
            self._done[key] = run_serving(
                work.model, work.system, work.stack, work.engine, traffic,
                tp=tp // groups, pp=row.pp or 1, replicas=row.dp or 1,
                ep=groups, attention_dp=groups, fidelity=self.fidelity,
                **vars(work.precise),
            )  # fmt: skip
        found: ServeResult = self._done[key]
        return found


def _identity(work: Work) -> tuple[Any, ...]:
    row = work.row
    return (work.model, work.system.id, work.stack.id, row.tp, row.pp, work.precise)
