"""Prompts in passes, layers over several devices, answers of a batch."""

from __future__ import annotations

from typing import Any

import pytest

import hwsim
from hwsim.analysis.graph_result import run_graph
from hwsim.analysis.published.passes import hand_over, read_prompts
from hwsim.analysis.published.work import longest
from hwsim.graph.inference import decode_graph, prefill_graph
from hwsim.specs.catalogs import load_model, load_stack, load_system

MODEL, SYSTEM = load_model("llama-3-8b"), load_system("rtx-4090-pcie-4")
STACK = load_stack("llama-cpp")


def passes(**changes: Any) -> Any:
    asked: dict[str, Any] = {
        "batch": 1, "prompt": 2048, "tp": 1, "pp": 1, "microbatch": None,
        "in_flight": None, "fidelity": "auto", "dtype": "fp16",
    }  # fmt: skip
    return read_prompts(MODEL, SYSTEM, STACK, **(asked | changes))


def test_one_pass_is_the_prompt_of_infer() -> None:
    one = hwsim.infer(
        "llama-3-8b", "rtx-4090", batch=1, prompt=2048, output=1, dtype="fp16",
        stack="llama-cpp", engine="closed_form",
    )  # fmt: skip
    assert passes().time_s == pytest.approx(one.prefill_s)
    assert passes().count == 1


def test_pieces_of_a_prompt_see_what_is_before_them() -> None:
    found = passes(microbatch=512)
    assert found.count == 4
    assert found.first.time_s < found.last.time_s
    assert 4 * found.first.time_s < found.time_s < 4 * found.last.time_s


def test_stages_work_side_by_side_up_to_those_under_way() -> None:
    alone, four = passes(microbatch=512), passes(microbatch=512, pp=4)
    two = passes(microbatch=512, pp=4, in_flight=2)
    assert alone.time_s / 4 < four.time_s < two.time_s < alone.time_s
    over = 3 * hand_over(MODEL, SYSTEM, 512, "auto")
    # Four passes through four stages: (4 + 3) / 16 of the time, but for histories.
    assert four.time_s - over == pytest.approx(alone.time_s * 7 / 16, rel=0.1)


def test_a_single_pass_gains_nothing_from_stages() -> None:
    over = 3 * hand_over(MODEL, SYSTEM, 2048, "auto")
    assert passes(pp=4).time_s == pytest.approx(passes().time_s + over)
    assert over > 0


def test_whole_sequences_make_passes_of_a_batch() -> None:
    found = passes(batch=16, prompt=128, microbatch=512)
    assert found.count == 4
    assert found.time_s == pytest.approx(4 * found.first.time_s)


def test_a_batch_ends_with_its_longest_answer() -> None:
    assert longest(20, 1, 0.5) == 20
    assert longest(20, 64, None) == 20
    assert 20 < longest(20, 8, 0.5) < longest(20, 128, 0.5) < 100


def graph_time(stack: Any, *, decode: bool) -> float:
    shape: dict[str, Any] = {"batch": 1, "dtype": "fp16", "stack": stack}
    graph = (
        decode_graph(MODEL, context=4096, **shape)
        if decode
        else prefill_graph(MODEL, prompt=4096, **shape)
    )
    return run_graph(graph, load_system("rtx-4090"), stack).time_s


def test_wide_scores_move_more_bytes() -> None:
    fusion = STACK.fusion
    assert fusion.wide_scores
    # With 16-bit activations: wide ones make wide scores anyway.
    wide = STACK.model_copy(update={"wide_activations": False})
    narrow = wide.model_copy(
        update={"fusion": fusion.model_copy(update={"wide_scores": False})}
    )
    for decode in (True, False):
        assert graph_time(wide, decode=decode) > graph_time(narrow, decode=decode)


def test_time_per_token_is_of_decode_steps_alone() -> None:
    late = STACK.launch.model_copy(update={"token_overhead": 1e-3})
    slow = STACK.model_copy(update={"launch": late})
    decoding = [graph_time(s, decode=True) for s in (STACK, slow)]
    assert decoding[1] - decoding[0] == pytest.approx(1e-3)
    prompts = [graph_time(s, decode=False) for s in (STACK, slow)]
    assert prompts[1] == pytest.approx(prompts[0])
