"""Engines and traffic as they are written."""

import math

import pytest

from hwsim.errors import InputError, SpecError, UnknownNameError
from hwsim.schedule.batching import POLICIES, policy_named
from hwsim.specs.catalogs import load_stack
from hwsim.specs.engine import ENGINES, load_engine
from hwsim.specs.traffic import parse_lengths

SHIPPED = {
    "vllm-v0",
    "vllm-v1",
    "vllm-v1-sync",
    "tensorrt-llm",
    "sglang",
    "static",
    "llama-cpp",
}


def test_the_engines_are_there_and_name_what_exists():
    assert set(ENGINES) >= SHIPPED
    for name in ENGINES:
        engine = load_engine(name)
        assert load_stack(engine.stack)
        assert policy_named(engine.policy).name == engine.policy
        assert list(engine.captured_batches) == sorted(set(engine.captured_batches))
        kind = "measured" if name == "vllm-v1-sync" else "assumed"
        assert engine.source_of("sequence_overhead").kind == kind


def test_engines_differ_where_the_real_ones_do():
    engines = {name: load_engine(name) for name in SHIPPED}
    assert engines["vllm-v0"].policy == engines["sglang"].policy == "prefill_first"
    assert not engines["vllm-v0"].chunked_prefill
    assert engines["vllm-v1"].chunked_prefill
    assert engines["tensorrt-llm"].reserve == 1.0
    assert engines["vllm-v1"].reserve == 0.0
    assert engines["llama-cpp"].max_num_seqs == 1
    assert load_engine("vllm") == engines["vllm-v1"]


def test_an_engine_without_sources_is_refused(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'schema_version = 1\nid = "mine"\nname = "Mine"\nstack = "vllm"\n'
        'policy = "mixed"\nchunked_prefill = true\nmax_num_seqs = 8\n'
        "max_num_batched_tokens = 512\nblock_size = 16\n"
    )
    with pytest.raises(SpecError, match="source"):
        load_engine(str(path))


@pytest.mark.parametrize(
    ("text", "kind", "mean"),
    [
        ("fixed:128", "fixed", 128),
        ("128", "fixed", 128),
        ("uniform:10:20", "uniform", 15),
        ("lognormal:1000", "lognormal", 1000),
        ("lognormal:1000:0.5", "lognormal", 1000),
    ],
)
def test_lengths_are_read(text, kind, mean):
    lengths = parse_lengths("input_len", text)
    assert (lengths.kind, lengths.mean) == (kind, mean)


def test_lengths_of_a_file_have_no_mean_yet():
    assert math.isnan(parse_lengths("input_len", "file:x.txt").mean)


@pytest.mark.parametrize(
    "text",
    [
        "", "fixed", "fixed:0", "fixed:-3", "fixed:1.5", "fixed:nan", "uniform:5",
        "uniform:20:10", "lognormal:inf", "lognormal:100:9", "normal:5", "file:",
        "fixed:1e9",
    ],
)  # fmt: skip
def test_bad_lengths_are_one_clear_line(text):
    with pytest.raises(InputError, match="input_len") as caught:
        parse_lengths("input_len", text)
    assert "\n" not in str(caught.value)


def test_policies_say_who_may_join_and_how_many_tokens():
    mixed, first, static = (POLICIES[n] for n in ("mixed", "prefill_first", "static"))
    assert mixed.budget(512, 40) == 472
    assert first.budget(512, 40) == 512
    assert mixed.opens(3)
    assert first.opens(3)
    assert static.opens(0)
    assert not static.opens(1)
    with pytest.raises(UnknownNameError, match="mixed"):
        policy_named("mixt")
