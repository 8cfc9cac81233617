"""Small results to draw and report, built by hand apart from the catalogs."""

from __future__ import annotations

import datetime as dt
from html.parser import HTMLParser
from typing import Any

import pytest

from hwsim.analysis.graph_result import Engine, GraphResult, run_graph
from hwsim.analysis.inference import InferResult, run_inference
from hwsim.analysis.published.runs import ComparedRow, PublishedComparison
from hwsim.analysis.training.train import TrainResult, run_training
from hwsim.graph.op import Copy, Elementwise, Matmul, Op, Operand
from hwsim.graph.opgraph import Block, Node, OpGraph
from hwsim.specs.device import DeviceSpec
from hwsim.specs.model import ModelSpec
from hwsim.specs.published.runs import PublishedFile
from hwsim.specs.stack import StackSpec
from hwsim.specs.system import SystemSpec, single_device_system

SOURCE = {
    "kind": "datasheet",
    "title": "A & B <datasheet>",
    "url": "https://example.org/a?b=1&c=2",
    "date": dt.date(2025, 1, 1),
}


def make_device(name: str = "Fixture 9000", **changes: Any) -> DeviceSpec:
    base: dict[str, Any] = {
        "id": "fixture",
        "name": name,
        "kind": "gpu",
        "vendor": "Nobody",
        "architecture": "hopper",
        "year": 2023,
        "sources": [SOURCE],
        "compute": {
            "units": 132,
            "unit_kind": "SM",
            "clock": 1.83e9,
            "matrix": {"bf16": 1e15, "fp16": 1e15, "fp8": 2e15},
            "vector": {"fp32": 67e12},
        },
        "memory": {
            "shared": {"size": 256 * 1024, "scope": "unit"},
            "l2": {"size": 50 * 2**20, "bandwidth": 10e12},
            "hbm": {"size": 80e9, "bandwidth": 4e12},
        },
        "launch": {"eager": 4e-6, "graph": 1e-6},
    }
    return DeviceSpec.model_validate({**base, **changes})


def make_system(name: str = "Fixture 9000", **changes: Any) -> SystemSpec:
    return single_device_system(make_device(name, **changes))


def make_stack(name: str = "Plain stack") -> StackSpec:
    return StackSpec(id="plain", name=name, sources=(SOURCE,))


def make_model(name: str = "Tiny 2L") -> ModelSpec:
    return ModelSpec.model_validate(
        {
            "id": "tiny", "name": name, "kind": "decoder", "family": "tiny",
            "year": 2024, "layers": 2,
            "hidden": 256, "heads": 4, "ffn": 1024, "vocab": 1000,
            "max_context": 4096, "activation": "silu", "norm": "rmsnorm",
            "position": "rotary", "sources": [SOURCE],
        }
    )  # fmt: skip


def matmul(name: str, m: float, n: float, k: float) -> Matmul:
    return Matmul(
        name=name, dtype="bf16", m=m, n=n, k=k, a_bytes=2, b_bytes=2, c_bytes=2,
        reads=(Operand("weight", 2 * (m * k + n * k), "bf16"),),
        writes=(Operand("activation", 2 * m * n, "bf16"),),
    )  # fmt: skip


def make_graph(name: str = "prefill", layers: int = 3, rows: float = 4096) -> OpGraph:
    moved = (Operand("activation", 2 * rows * 4096, "bf16"),)
    layer: tuple[Op, ...] = (
        matmul("qkv", rows, 6144, 4096),
        Elementwise(
            name="silu", dtype="bf16", numel=rows * 4096, function="silu",
            reads=moved, writes=moved,
        ),
        matmul("down", rows, 4096, 14336),
    )  # fmt: skip
    copy = Copy(name="lookup", dtype="bf16", reads=moved, writes=moved)
    nodes = tuple(Node(op, deps=(i - 1,) if i else ()) for i, op in enumerate(layer))
    return OpGraph(
        name, (Block("start", (Node(copy),)), Block("layer", nodes, layers)), rows
    )


def make_result(engine: Engine = "simulate", **graph: Any) -> GraphResult:
    return run_graph(make_graph(**graph), make_system(), make_stack(), engine=engine)


def make_infer(
    model: ModelSpec | None = None, system: SystemSpec | None = None, **asked: Any
) -> InferResult:
    shapes = {"batch": 2, "prompt": 128, "output": 16, "tp": 1, "dtype": "bf16"}
    return run_inference(
        model or make_model(), system or make_system(), make_stack(),
        **{**shapes, **asked},
    )  # fmt: skip


def make_train(**asked: Any) -> TrainResult:
    shapes = {
        "devices": 1, "tp": 1, "dp": 1, "micro_batch": 1, "global_batch": 4,
        "seq": 256, "dtype": "bf16", "recompute": "none", "optimizer": "adamw",
        "zero_stage": 0, "sequence_parallel": False,
    }  # fmt: skip
    return run_training(
        make_model(), make_system(), make_stack(), **{**shapes, **asked}
    )


def make_comparison() -> PublishedComparison:
    run = {
        "model": "tiny", "system": "fixture", "stack": "plain", "dtype": "bf16",
        "confidence": "high",
    }  # fmt: skip
    train = {**run, "task": "train", "global_batch": 8, "seq": 100}
    file = PublishedFile.model_validate(
        {
            "id": "somebody", "name": "Somebody's table", "licence": "CC0",
            "selection": "all of it", "sources": [{**SOURCE, "kind": "measured"}],
            "rows": [
                {
                    **train, "id": "run-time", "metric": "step_time", "value": 2.0,
                    "printed": "2.0 s",
                },
                {
                    **train, "id": "run-rate", "metric": "sequences_per_s",
                    "value": 4.0, "printed": "4 seq/s", "confidence": "medium",
                    "note": "GPU <inferred>",
                },
                {
                    **train, "id": "run-pipeline", "metric": "step_time",
                    "value": 9.0, "printed": "9 s", "pp": 4, "num_devices": 4,
                },
            ],
        }
    )  # fmt: skip
    time, rate, pipeline = file.rows
    return PublishedComparison(
        (
            ComparedRow(file, time, 1.8, bound="compute"),  # -10 %
            ComparedRow(file, rate, 1.6, bound="memory"),  # 5 for 4: +25 %
            ComparedRow(file, pipeline, None, "needs pipeline parallelism: not yet"),
        ),
        "structured",
    )


class PageReader(HTMLParser):
    """Reads a page, checking that every element is closed in order."""

    VOID = frozenset({"meta", "br", "link", "img", "input", "hr", "wbr"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.faults: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(html.replace("<wbr>", ""))  # may break there, no space
        self.close()
        self.faults += [f"<{tag}> never closed" for tag in self.open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open[-1] != tag:
            self.faults.append(f"</{tag}> closes {self.open[-1:]} at {self.getpos()}")
        else:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text.append(data)

    def find(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag]

    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


@pytest.fixture(scope="session")
def result() -> GraphResult:
    return make_result()


@pytest.fixture(scope="session")
def comparison() -> PublishedComparison:
    return make_comparison()
