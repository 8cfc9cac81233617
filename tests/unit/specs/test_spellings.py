"""Names as papers, drivers and hubs print them, resolved by every loader."""

from __future__ import annotations

import pytest

from hwsim.errors import UnknownNameError
from hwsim.specs.catalogs import load_device, load_model, load_system
from hwsim.specs.spellings import device_spellings, model_spellings

DEVICES = {
    "NVIDIA GH200 480GB": "gh200-96gb",
    "Grace Hopper": "gh200-96gb",
    "AMD Instinct MI300X OAM": "mi300x",
    "Ampere A100": "a100-80gb-sxm",
    "A100-80G": "a100-80gb-sxm",
    "A100 PCIe 80GB": "a100-80gb-pcie",
    "H200 141GB HBM3": "h200-sxm",
    "4xH100": "h100-80gb-sxm",
    "8 x A100": "a100-80gb-sxm",
    "DGX A100 (80GB)": "a100-80gb-sxm",
    "TPU v5e-8": "tpu-v5e",
    "v5litepod-8": "tpu-v5e",
    "v6e-1": "tpu-v6e",
    "Trillium": "tpu-v6e",
    "M1 (7-core GPU)": "m1-7core",
    "M1 Max 24-Core GPU": "m1-max-24core",
    "M1 Max 32-core": "m1-max",
    "Apple M3 Max (30-core GPU)": "m3-max-30core",
    "M4 Max 40C": "m4-max",
    "Tesla V100S-PCIE-32GB": "v100s-pcie-32gb",
    "H200 NVL": "h200-nvl",
    "H20 141GB": "h20-141gb",
    "H20": "h20",
    "H800 PCIe": "h800-80gb-pcie",
    "A800 PCIe 80GB": "a800-80gb-pcie",
    "A800-SXM4-80GB": "a800-80gb-sxm",
    "RTX 3080 12GB": "rtx-3080-12gb",
    "GeForce RTX 3080": "rtx-3080-10gb",
    "RTX 4060 Ti 8GB": "rtx-4060-ti-8gb",
    "RTX 4060 Ti 16GB": "rtx-4060-ti",
    "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition": (
        "rtx-pro-6000-blackwell-max-q"
    ),
    "Jetson AGX Orin 32GB": "jetson-agx-orin-32gb",
    "AMD Instinct MI350X": "mi350x",
    "Ascend 910B3": "ascend-910b3",
    "NVIDIA RTX 6000 Ada Generation": "rtx-6000-ada",
    "RTX6000 Ada": "rtx-6000-ada",
    "AMD MI300X-NPS1-SPX-192GB-750W": "mi300x",
    "NVIDIA B200-SXM-180GB-1000W": "b200-sxm",
    "NVIDIA H200-SXM-141GB-CTS": "h200-sxm",
    "Intel® Gaudi® 2 AI Accelerator": "gaudi2",
    "Intel(R) Gaudi(R) 3 AI accelerator": "gaudi3",
    "TPU-trillium": "tpu-v6e",
    "Mac Studio M2 Ultra 192GB": "m2-ultra",
    "MacBook Pro M3 Max 128GB": "m3-max",
    "MacBook Pro M3 Pro": "m3-pro",
    "2S Xeon Platinum 8480+": "xeon-platinum-8480+",
    "MI250X (1 GCD)": "mi250x-gcd",
    "MI250X": "mi250x",
    "MI250 128GB": "mi250",
    "H100 94GB": "h100-nvl",
    "T4 15GB": "t4",
    "DGX A100 320GB": "a100-40gb-sxm",
    "4x A100 (160GB)": "a100-40gb-sxm",
    "EPYC 7763 512GB": "epyc-7763",
    "Intel Max 1550 (1 tile)": "max-1550-tile",
    "Ryzen AI Max+ 395": "ryzen-ai-max+-395",
    "Ryzen AI Max+ 395 (Radeon 8060S)": "ryzen-ai-max+-395",
    "Radeon AI PRO R9700": "radeon-ai-pro-r9700",
    "HL-225B": "gaudi2",
    "Apple M1 Max 32": "m1-max",
    "M2 Ultra 76-Core GPU 192GB": "m2-ultra",
    "Intel(R) Xeon(R) Platinum 8480+": "xeon-platinum-8480+",
    "AMD EPYC 9654 96-Core Processor": "epyc-9654",
    "MI250X GCD": "mi250x-gcd",
    "Trainium1-NeuronCore": "trainium1-neuroncore",
    "NeuronCore-v2": "trainium1-neuroncore",
    "L40S 48GB": "l40s",
    "GB200 NVL72": "gb200",
    "RTX 6000 Ada Generation": "rtx-6000-ada",
}
MODELS = {
    "meta-llama/Meta-Llama-3-70B-Instruct": "llama-3-70b",
    "llama2-70b-99.9": "llama-2-70b",
    "LLaMA-v2-7B": "llama-2-7b",
    "llama-v3.1-8b": "llama-3.1-8b",
    "Llama-2-70B (LoRA)": "llama-2-70b",
    "GPT-175B": "gpt-3-175b",
    "gptj-99": "gpt-j-6b",
    "Phi-3-mini-128k-instruct": "phi-3-mini",
    "Qwen2.5-14B-Instruct-AWQ": "qwen2.5-14b",
    "bert-large-uncased": "bert-large",
    "EleutherAI/pythia-6.9b-deduped": "pythia-6.9b",
    "codellama/CodeLlama-7b-Python-hf": "code-llama-7b",
    "mistralai/Mistral-Small-Instruct-2409": "codestral-22b",
    "mistralai/Mistral-Small-3.2-24B-Instruct-2506": "mistral-small-24b",
    "stabilityai/stablelm-base-alpha-3b": "stablelm-alpha-3b",
    "Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8": "qwen3-coder-480b-a35b",
    "deepseek-ai/DeepSeek-Coder-V2-Lite-Instruct": "deepseek-v2-lite",
    "llama 7B Q4_0": "llama-7b",
    "llama 7B mostly Q4_0": "llama-7b",
    "llama 8B Q4_K - Medium": "llama-3-8b",
    "llama 13B all F32": "llama-13b",
    "qwen3moe 30B.A3B Q4_K - Medium": "qwen3-30b-a3b",
    "gpt-oss 20B MXFP4 MoE": "gpt-oss-20b",
    "gemma3 4B Q8_0": "gemma-3-4b",
}


@pytest.mark.parametrize(("text", "device"), DEVICES.items())
def test_devices(text: str, device: str) -> None:
    assert load_device(text).id == device
    assert load_system(text).device.id == device


# Instances of clouds, as tables name what they ran on.
INSTANCES = {
    "p4d.24xlarge": ("a100-40gb-sxm", "aws-p4d"),
    "p5en.48xlarge": ("h200-sxm", "aws-p5en"),
    "p6-b200.48xlarge": ("b200-sxm", "dgx-b200"),
    "g5.12xlarge": ("a10g", "a10g-pcie-4"),
    "g6e.xlarge": ("l40s", "l40s"),
    "trn1.32xlarge": ("trainium1", "trn1-32xlarge"),
    "inf2.48xlarge": ("inferentia2", "inf2-48xlarge"),
    "ND96asr_v4": ("a100-40gb-sxm", "azure-ndv4"),
    "Standard_ND96amsr_A100_v4": ("a100-80gb-sxm", "azure-ndm-a100-v4"),
    "a3-highgpu-8g": ("h100-80gb-sxm", "gcp-a3-high"),
    "a2-highgpu-1g": ("a100-40gb-sxm", "a100-40gb-sxm"),
}


@pytest.mark.parametrize(("text", "wanted"), INSTANCES.items())
def test_instances_stand_for_systems_and_their_devices(
    text: str, wanted: tuple[str, str]
) -> None:
    device, system = wanted
    assert load_device(text).id == device
    assert load_system(text).id == system


@pytest.mark.parametrize(("text", "model"), MODELS.items())
def test_models(text: str, model: str) -> None:
    assert load_model(text).id == model


@pytest.mark.parametrize("text", ["RTX 4090 Mobile", "H1000", "NVIDIA Z99 (8 cores)"])
def test_another_chip_is_not_taken_for_a_known_one(text: str) -> None:
    with pytest.raises(UnknownNameError, match="unknown device"):
        load_device(text)


@pytest.mark.parametrize(
    "text", ["A100 60GB", "V100 64GB", "RTX 3080 20GB", "P100 12GB", "A800 40GB"]
)
def test_a_board_of_another_memory_is_not_the_usual_one(text: str) -> None:
    with pytest.raises(UnknownNameError, match=f"None has {text[-4:-2]} GB"):
        load_device(text)


def test_another_model_is_not_taken_for_a_known_one() -> None:
    with pytest.raises(UnknownNameError, match="unknown model"):
        load_model("lab/llama-9-70b")


def test_the_name_as_it_stands_comes_first() -> None:
    assert next(device_spellings("H100 PCIe")) == "h100-pcie"
    assert next(model_spellings("org/Some-Model")) == "Some-Model"
    assert list(device_spellings("")) == []
