"""Names as drivers, hubs and logs print them."""

from __future__ import annotations

import pytest

from hwsim.errors import InputError, UnknownNameError
from hwsim.specs.given_names import (
    GivenDtypes,
    given_device,
    given_dtypes,
    given_model,
    given_system,
)


@pytest.mark.parametrize(
    ("text", "device"),
    [
        ("NVIDIA A100-SXM4-80GB", "a100-80gb-sxm"),
        ("NVIDIA A100-PCIE-40GB", "a100-40gb-pcie"),
        ("NVIDIA H100 80GB HBM3", "h100-80gb-sxm"),
        ("NVIDIA H100 PCIe", "h100-80gb-pcie"),
        ("RTX A6000", "rtx-a6000"),
        ("NVIDIA RTX A6000", "rtx-a6000"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition",
         "rtx-pro-6000-blackwell-server"),
        ("Tesla P100-PCIE-16GB", "p100-pcie-16gb"),
        ("AMD Instinct MI300X", "mi300x"),
        ("a100-80g-sxm", "a100-80gb-sxm"),
        ("NVIDIA GB200", "gb200"),
    ],
)  # fmt: skip
def test_devices(text: str, device: str) -> None:
    assert given_device(text).id == device


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b"),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", "qwen3-30b-a3b"),
        ("neuralmagic/Meta-Llama-3.1-8B-Instruct-FP8", "llama-3.1-8b"),
        ("RedHatAI/Qwen3-32B-FP8-dynamic", "qwen3-32b"),
        ("/models/Qwen2.5-7B-Instruct/", "qwen2.5-7b"),
        ("TheBloke/Llama-2-70B-AWQ", "llama-2-70b"),
    ],
)
def test_checkpoints(text: str, model: str) -> None:
    assert given_model(text).id == model


def test_unknown_names_say_so() -> None:
    with pytest.raises(UnknownNameError, match="unknown device 'NVIDIA Z900'"):
        given_device("NVIDIA Z900")
    with pytest.raises(UnknownNameError, match="unknown model 'Nothing-900B'"):
        given_model("lab/Nothing-900B")


def test_weights_are_of_the_checkpoint() -> None:
    hopper, ampere = given_device("H100"), given_device("A100")
    assert given_dtypes("bfloat16", "Qwen/Qwen3-8B", hopper) == GivenDtypes(
        "bf16", "bf16", "bf16"
    )
    fp8 = given_dtypes("auto", "Qwen/Qwen3-8B-FP8", hopper)
    assert fp8 == GivenDtypes("fp8", "fp8", "bf16")
    # No rate for it: weights are kept small and multiplied in 16 bit.
    assert given_dtypes("bf16", "Qwen/Qwen3-8B-FP8", ampere) == GivenDtypes(
        "bf16", "fp8", "bf16"
    )
    assert given_dtypes("half", "x/y-AWQ", hopper).weight_dtype == "int4"
    assert given_dtypes("bf16", "x/y", hopper, "fp8_e4m3").kv_dtype == "fp8"
    with pytest.raises(InputError, match="dtype 'float9'"):
        given_dtypes("float9", "x/y", hopper)


def test_systems_have_enough_devices() -> None:
    assert given_system(given_device("H100"), 1).num_devices == 1
    assert given_system(given_device("RTX A6000"), 2).num_devices >= 2
    assert given_system(given_device("H200"), 64).num_devices >= 64


@pytest.mark.parametrize(
    ("cell", "dtype", "weight"),
    [
        ("w8a8", "int8", "int8"), ("fp8_w8a8", "fp8", "fp8"), ("None", "bf16", "bf16"),
        ("awq_marlin", "bf16", "int4"), ("w4a16", "bf16", "int4"),
        ("compressed-tensors", "bf16", "bf16"),
    ],
)  # fmt: skip
def test_methods_of_quantisation_are_formats(
    cell: str, dtype: str, weight: str
) -> None:
    found = given_dtypes(cell, "meta-llama/Llama-3.1-8B", given_device("H100"))
    assert (found.dtype, found.weight_dtype) == (dtype, weight)
    assert found.kv_dtype == "bf16"


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-70B", "llama-3.3-70b"),
        ("Qwen/QwQ-32B-AWQ", "qwen2.5-32b"),
        ("lmsys/vicuna-7b-v1.5", "llama-2-7b"),
        ("Qwen/Qwen3-Coder-30B-A3B-Instruct-FP8", "qwen3-30b-a3b"),
        ("/hub/models--meta-llama--Llama-3.1-8B/snapshots/0e9e39f", "llama-3.1-8b"),
    ],
)
def test_tuned_checkpoints_have_the_shape_of_their_base(text: str, model: str) -> None:
    assert given_model(text).id == model


def test_cards_of_servers_have_nodes() -> None:
    assert given_system(given_device("RTX PRO 6000 Blackwell"), 2).num_devices >= 2
