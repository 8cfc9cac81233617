"""What is known behind a prediction of training, and the terms that go with it."""

from dataclasses import replace

import numpy as np
import pytest

import hwsim
from hwsim.analysis.fitting.training_terms import (
    LEAST_DOCUMENTS,
    TrainingRow,
    stack_families,
    training_knowledge,
)
from hwsim.analysis.published.rows import RunPredictor, left_open
from hwsim.analysis.training.knowledge import (
    CLASSES,
    Facts,
    Knowledge,
    Told,
    class_of,
    least_sure,
    with_term,
)
from hwsim.analysis.validation.published import validate_published
from hwsim.cost.interval import LogInterval
from hwsim.specs.calibration import load_intervals
from hwsim.specs.calibration_file import KnowledgeTerm
from hwsim.specs.published.documents import document_of
from hwsim.specs.published.training import PublishedRun
from hwsim.specs.published.training_map import load_mappings, mapped

CHECKED, KINDS = {"gpu": ("nemo",), "tpu": ("maxtext",)}, ("gpu", "tpu")
WORDS, OPEN = Told(stack=False), Told(chosen=("recompute",))


@pytest.mark.parametrize(
    ("facts", "name"),
    [
        (Facts("nemo", "gpu", "generation"), "known"),
        (Facts("nemo", "gpu", "generation", experts=True), "known in part"),
        (Facts("nemo", "gpu", "generation", OPEN), "known in part"),
        (Facts("nemo", "gpu", "generation", WORDS), "stack unchecked"),
        (Facts("maxtext", "gpu", "generation"), "stack unchecked"),
        (Facts("mine", "gpu", "generation", OPEN), "settings chosen"),
        (Facts("nemo", "gpu", "kind"), "device unmeasured"),
        (Facts("maxtext", "tpu", "assumed"), "whole runs"),
        (Facts("maxtext", "tpu", "assumed", OPEN), "whole runs"),
        (Facts("maxtext", "asic", "assumed"), "device unmeasured"),
    ],
)
def test_class_of_what_is_known(facts, name):
    assert class_of(facts, CHECKED, KINDS) == name
    assert name in CLASSES


def test_least_sure_is_the_last_class():
    found = [Knowledge(name, "") for name in ("known", "settings chosen", "whole runs")]
    assert least_sure(found).name == "settings chosen"


def test_interval_of_a_step_keeps_a_share_of_its_operators():
    term = KnowledgeTerm(low=0.3, high=0.3, rows=9, sources=3, coverage=0.9, width=1.0,
                         operators=0.5)  # fmt: skip
    found = with_term(LogInterval(-0.8, 0.2), term)
    assert found.low == pytest.approx(-0.5)
    assert found.high == pytest.approx(np.hypot(0.1, 0.3))


@pytest.mark.parametrize(
    ("source", "document"),
    [
        ("github NVIDIA-NeMo/NeMo docs/x 25.09", "nvidia-nemo/nemo"),
        ("github NVIDIA-NeMo/NeMo docs/x 26.08", "nvidia-nemo/nemo"),
        ("https://github.com/NVIDIA/Megatron-LM#training", "nvidia/megatron-lm"),
        ("LLaMA (arXiv 2302.13971) section 2.4", "2302.13971"),
        ("MosaicML MPT-7B blog", "mosaicml mpt-"),
        ("42", "42"),
    ],
)  # fmt: skip
def test_document_of_a_source(source, document):
    assert document_of(source) == document


def rows_of(seed=0, documents=8, each=12, spread=0.2, **facts):
    made = np.random.default_rng(seed)
    found = []
    for number in range(documents):
        shift = made.normal(0.0, spread)
        found += [
            TrainingRow(
                f"table-{number % 3}", f"document-{number}",
                shift + made.normal(0.0, 0.05), LogInterval(-0.05, 0.05),
                Facts(**({"stack": "nemo", "kind": "gpu", "origin": "generation"}
                         | facts)), True,
            )
            for _ in range(each)
        ]  # fmt: skip
    return found


def test_terms_cover_documents_left_out():
    known = training_knowledge(rows_of())
    term = known.terms["known"]
    assert 0.85 <= term.coverage <= 1.0
    assert 0.15 < term.high < 0.8
    assert (term.rows, term.sources) == (96, 8)
    assert [t.table for t in known.tables] == ["table-0", "table-1", "table-2"]
    assert "nemo-graphs" in known.checked["gpu"]  # of one line with nemo
    assert known.kinds == ("gpu",)


def test_less_error_makes_narrower_terms():
    high = [
        training_knowledge(rows_of(spread=s)).terms["known"].high for s in (0.05, 0.3)
    ]
    assert high[0] < high[1]


def test_few_documents_check_no_stack():
    known = training_knowledge(rows_of(documents=LEAST_DOCUMENTS - 1))
    assert not known.checked
    assert set(known.terms) == {"stack unchecked"}


def test_words_of_a_source_check_a_stack_but_no_kind():
    known = training_knowledge(rows_of(told=WORDS))
    assert "nemo" in known.checked["gpu"]
    assert known.kinds == ()
    assert set(known.terms) == {"stack unchecked"}


def test_documents_that_are_far_off_bear_out_nothing():
    far = [replace(row, ratio=row.ratio + 0.5) for row in rows_of(spread=0.02)]
    known = training_knowledge(far)
    assert not known.checked
    near = rows_of(spread=0.02, documents=3)
    some = [replace(row, document=f"near {row.document}") for row in near]
    assert not training_knowledge([*far, *some]).checked  # three of eleven
    assert training_knowledge(some).checked


def test_no_class_is_narrower_than_a_surer_one():
    known = rows_of(spread=0.12)
    # Of a stack that nobody bears out, but near all the same.
    other = rows_of(spread=0.02, documents=2, stack="torchtitan")
    renamed = [replace(row, document=f"x {row.document}") for row in other]
    terms = training_knowledge([*known, *renamed]).terms
    assert terms["stack unchecked"].high == terms["known"].high


def test_generic_stack_is_never_checked():
    known = training_knowledge(rows_of(stack="default-training"))
    assert set(known.terms) == {"stack unchecked"}


def test_families_begin_with_what_stacks_are_based_on():
    families = stack_families()
    assert families["nemo-graphs-drop"] == "nemo"
    assert families["megatron-core"] == "megatron-core"


def asked(stack, system="dgx-a100-80gb", **options):
    return hwsim.train("gpt2", system, stack=stack, engine="closed_form", **options)


def test_answers_say_what_is_known():
    generic, known = asked("default-training"), asked("megatron-2022")
    assert generic.knowledge.name == "stack unchecked"
    assert "no stack is named" in generic.knowledge.why
    assert known.knowledge.name == "known"
    assert known.to_dict()["knowledge"] == known.knowledge.to_dict()
    assert known.accuracy()["whole_runs"]["class"] == "known"

    def width(result):
        low, high = result.interval_90["step_s"]
        return (high - low) / result.step_s

    assert width(generic) > 1.3 * width(known)


def test_unmeasured_devices_are_less_sure():
    result = asked("megatron-2022", "rtx-3090-pcie-8")
    assert result.knowledge.name == "device unmeasured"
    assert "generation" in result.knowledge.why


def test_a_bound_has_no_class():
    told = asked("megatron-2022", fidelity="roofline").to_dict()
    assert told["knowledge"] is None
    assert told["interval_90"] is None


def row(**cells):
    return PublishedRun(
        "t.csv", 1, model="Llama-2-7B", device="A100-80GB-SXM", num_devices=8,
        seq_len=4096, global_batch=8, tokens_per_s_per_device=3000.0, zero_stage=3,
        **cells,
    )  # fmt: skip


def predicted(**cells):
    return RunPredictor().predict(mapped(row(**cells), load_mappings()))


def test_rows_say_what_they_leave_open():
    named = {"stack": "pytorch-fsdp", "recompute": "full"}
    stated = predicted(source="x", micro_batch=1, **named)
    assert stated.result.told == Told(stack=True)
    assert stated.result.knowledge.name == "known"
    open_ = predicted(source="x", micro_batch=1)
    assert open_.result.told == Told(stack=False, chosen=("recompute",))
    assert open_.result.knowledge.name == "settings chosen"
    assert (open_.upper / open_.lower) > 1.5 * (stated.upper / stated.lower)


def test_a_mapping_of_the_source_states_the_stack():
    found = predicted(
        source="github mosaicml/llm-foundry scripts/train/benchmarking README",
        micro_batch=1, recompute="full",
    )  # fmt: skip
    assert found.result.told.stack


def test_tables_are_summed_up_by_what_is_known(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(
        "source,model,device,num_devices,seq_len,global_batch,micro_batch,recompute,"
        "stack,tokens_per_s_per_device\n"
        "x,Llama-2-7B,H100,8,4096,8,1,none,megatron-core,9000\n"
        "x,Llama-2-7B,H100,8,4096,8,,none,,9000\n",
        encoding="utf-8",
    )
    found = validate_published([path])
    assert [r["knowledge"] for r in found.records] == ["known", "settings chosen"]
    assert set(found.to_dict()["by_knowledge"]) == {"known", "settings chosen"}


def test_only_some_settings_count_as_open():
    assert left_open(("zero_stage = 1", "vpp = 2", "dp = 8", "vpp = 4")) == ("vpp",)


def test_terms_that_ship_are_in_order():
    known = load_intervals().training
    assert known is not None
    assert set(known.terms) == set(CLASSES)
    halves = [known.terms[name].high for name in CLASSES if name != "whole runs"]
    assert halves == sorted(halves)
    assert halves[0] < halves[2] < halves[-1]
