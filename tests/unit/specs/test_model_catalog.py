"""The models that ship: counts as published, names that resolve."""

from __future__ import annotations

import pytest

from hwsim.errors import SpecError, UnknownNameError
from hwsim.specs.catalogs import MODELS, load_model
from hwsim.specs.load import fold
from hwsim.specs.model import ModelSpec

# Parameters of the published checkpoints.
EXACT = {
    "aya-23-8b": 8_028_033_024,
    "baichuan-13b": 13_264_901_120,
    "baichuan-7b": 7_000_559_616,
    "baichuan2-13b": 13_896_668_160,
    "baichuan2-7b": 7_505_973_248,
    "bge-m3": 567_754_752,
    "cerebras-gpt-1.3b": 1_315_723_264,
    "chatglm2-6b": 6_243_584_000,
    "clip-text-large": 123_060_480,
    "code-llama-70b": 68_976_910_336,
    "codestral-22b": 22_247_282_688,
    "command-r-35b": 34_980_831_232,
    "command-r-plus-104b": 103_810_674_688,
    "command-r7b": 8_028_033_024,
    "deepseek-coder-1.3b": 1_346_471_936,
    "deepseek-coder-33b": 33_342_991_360,
    "deepseek-llm-7b": 6_910_365_696,
    "deepseek-moe-16b": 16_375_728_128,
    "dots-llm1-142b": 142_774_381_696,
    "ernie-4.5-21b-a3b": 21_825_437_888,
    "exaone-3.5-2.4b": 2_405_327_360,
    "exaone-3.5-7.8b": 7_818_448_896,
    "falcon-mamba-7b": 7_272_665_088,
    "falcon3-10b": 10_305_653_760,
    "falcon3-1b": 1_669_408_768,
    "falcon3-3b": 3_227_655_168,
    "falcon3-7b": 7_455_550_464,
    "gemma-3-270m": 268_098_176,
    "glm-4-32b": 32_566_081_536,
    "gpt-neo-1.3b": 1_315_575_808,
    "gpt-neo-125m": 125_198_592,
    "gpt-neo-2.7b": 2_651_307_520,
    "granite-3-2b": 2_533_531_648,
    "granite-3-8b": 8_170_848_256,
    "hunyuan-a13b": 80_393_183_232,
    "internlm2-1.8b": 1_889_110_016,
    "internlm2-20b": 19_861_149_696,
    "mamba-1.4b": 1_372_178_432,
    "mamba-130m": 129_135_360,
    "mamba-2.8b": 2_768_345_600,
    "mamba-370m": 371_516_416,
    "mamba-790m": 793_204_224,
    "minicpm-2b": 2_724_880_896,
    "minilm-l12": 33_360_000,
    "minilm-l6": 22_713_216,
    "ministral-8b": 8_019_808_256,
    "olmo-2-13b": 13_716_198_400,
    "olmo-2-1b": 1_484_916_736,
    "olmo-2-7b": 7_298_617_344,
    "olmo-3-32b": 32_233_522_176,
    "olmo-3-7b": 7_298_011_136,
    "olmoe-1b-7b": 6_919_161_856,
    "open-llama-3b": 3_426_473_600,
    "phi-3.5-moe": 41_873_153_344,
    "phi-4-mini": 3_836_021_760,
    "pythia-14m": 14_067_712,
    "pythia-31m": 30_494_720,
    "qwen1.5-0.5b": 463_987_712,
    "qwen1.5-1.8b": 1_836_828_672,
    "qwen1.5-110b": 111_209_914_368,
    "qwen1.5-14b": 14_167_290_880,
    "qwen1.5-32b": 32_512_218_112,
    "qwen1.5-4b": 3_950_369_280,
    "qwen1.5-72b": 72_287_920_128,
    "qwen1.5-moe-a2.7b": 14_315_784_192,
    "redpajama-3b": 2_775_864_320,
    "santacoder-1.1b": 1_124_886_528,
    "seed-oss-36b": 36_151_104_512,
    "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
    "stablelm-2-1.6b": 1_644_515_328,
    "stablelm-3b": 2_795_443_200,
    "starcoder2-15b": 15_957_889_024,
    "starcoder2-3b": 3_030_371_328,
    "starcoder2-7b": 7_173_923_840,
    "xlm-roberta-base": 278_043_648,
    "xlm-roberta-large": 559_890_432,
    "yi-1.5-9b": 8_829_407_232,
    "tinyllama": 1_100_048_384,
    "yi-6b": 6_061_035_520,
    "yi-34b": 34_388_917_248,
    "solar-10.7b": 10_731_524_096,
    "smollm2-1.7b": 1_711_376_384,
    "smollm3-3b": 3_075_098_624,
    "starcoder": 15_517_456_384,
    "mistral-small": 23_572_403_200,
    "internlm2-7b": 7_737_708_544,
    "deepseek-coder-6.7b": 6_740_512_768,
    "qwen1.5-7b": 7_721_324_544,
    "dbrx": 131_596_523_520,
    "mamba2-130m": 128_989_632,
    "nemotron-3-nano": 31_577_940_288,
    "nemotron-nano-9b-v2": 8_888_227_328,
    "gpt-1": 116_534_784,
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-30b": 32_528_943_616,
    "llama-65b": 65_285_660_672,
    "code-llama-34b": 33_743_970_304,
    "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-405b": 405_853_388_800,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "mistral-7b": 7_241_732_096,
    "mistral-7b-v0.3": 7_248_023_552,
    "mistral-nemo": 12_247_782_400,
    "mistral-large": 122_610_069_504,
    "mixtral-8x7b": 46_702_792_704,
    "mixtral-8x22b": 140_630_071_296,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-3b": 3_085_938_688,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-14b": 14_770_033_664,
    "qwen2.5-32b": 32_763_876_352,
    "qwen2.5-72b": 72_706_203_648,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-14b": 14_768_307_200,
    "qwen3-32b": 32_762_123_264,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-235b-a22b": 235_093_634_560,
    "gemma-2b": 2_506_172_416,
    "gemma-7b": 8_537_680_896,
    "gemma-2-2b": 2_614_341_888,
    "gemma-2-9b": 9_241_705_984,
    "gemma-2-27b": 27_227_128_320,
    "gemma-3-1b": 999_885_952,
    "gemma-3-27b": 27_009_346_304,
    "phi-1.5": 1_418_270_720,
    "phi-2": 2_779_683_840,
    "phi-3-mini": 3_821_079_552,
    "phi-3-medium": 13_960_238_080,
    "phi-4": 14_659_507_200,
    "opt-125m": 125_239_296,
    "opt-350m": 331_196_416,
    "opt-1.3b": 1_315_758_080,
    "opt-2.7b": 2_651_596_800,
    "opt-6.7b": 6_658_473_984,
    "opt-13b": 12_853_473_280,
    "opt-30b": 29_974_540_288,
    "bloom-560m": 559_214_592,
    "bloom-1b1": 1_065_314_304,
    "bloom-1b7": 1_722_408_960,
    "bloom-3b": 3_002_557_440,
    "bloom-7b1": 7_069_016_064,
    "bloom": 176_247_271_424,
    "mpt-7b": 6_649_286_656,
    "gpt-neox-20b": 20_554_567_680,
    "pythia-70m": 70_426_624,
    "pythia-410m": 405_334_016,
    "pythia-1b": 1_011_781_632,
    "pythia-6.9b": 6_857_302_016,
    "pythia-12b": 11_846_072_320,
    "gpt-j-6b": 6_050_882_784,
    "glm-4-9b": 9_399_951_360,
    "falcon-7b": 6_921_720_704,
    "falcon-40b": 41_303_293_952,
    "falcon-180b": 179_522_565_120,
    "deepseek-v2": 235_741_434_880,
    "deepseek-v2-lite": 15_706_484_224,
    "deepseek-v3": 671_026_419_200,
    "deepseek-r1": 671_026_419_200,
    "gpt-oss-20b": 20_914_757_184,
    "gpt-oss-120b": 116_829_156_672,
    "bert-base": 109_482_240,
    "bert-large": 335_141_888,
    "roberta-base": 124_645_632,
    "roberta-large": 355_359_744,
    "distilbert": 66_362_880,
    "t5-small": 60_506_624,
    "t5-base": 222_903_552,
    "t5-large": 737_668_096,
    "t5-3b": 2_851_598_336,
    "t5-11b": 11_307_321_344,
    "t5-v1.1-small": 76_961_152,
    "t5-v1.1-base": 247_577_856,
    "flan-t5-large": 783_150_080,
    "flan-t5-xl": 2_849_757_184,
    "flan-t5-xxl": 11_135_332_352,
}
# Totals, and active parameters, that papers round.
ROUNDED = {
    "starcoderbase-1b": (1.14e09, None),
    "starcoderbase-3b": (3.04e09, None),
    "starcoderbase-7b": (7.33e09, None),
    "granite-20b-code": (2.01e10, None),
    "granite-34b-code": (3.37e10, None),
    "codegen-2b": (2.78e09, None),
    "codegen-16b": (1.6e10, None),
    "ul2-20b": (1.95e10, None),
    "internlm3-8b": (8.8e09, None),
    "exaone-3.5-32b": (3.2e10, None),
    "galactica-120b": (1.21e11, None),
    "hunyuan-7b": (7.5e09, None),
    "minicpm3-4b": (4.07e09, None),
    "mistral-nemo-minitron-8b": (8.41e09, None),
    "minitron-8b": (8.27e09, None),
    "minitron-4b": (4.19e09, None),
    "llama-3.1-minitron-4b-width": (4.51e09, None),
    "whisper-large-v3": (1.55e09, None),
    "whisper-large-v3-turbo": (8.09e08, None),
    "whisper-small": (2.44e08, None),
    "vit-base-16": (8.6e07, None),
    "vit-large-16": (3.04e08, None),
    "vit-huge-14": (6.32e08, None),
    "stablelm-alpha-3b": (3.64e09, None),
    "stablelm-alpha-7b": (7.87e09, None),
    "mimo-7b": (7.63e09, None),
    "deepseek-moe-16b": (16.4e9, 2.8e9),
    "moonlight-16b-a3b": (15.96e9, 2.9e9),
    "ernie-4.5-300b-a47b": (300e9, 47e9),
    "ernie-4.5-21b-a3b": (21.8e9, None),
    "hunyuan-a13b": (80.4e9, 13e9),
    "dots-llm1-142b": (142e9, 14e9),
    "olmo-7b": (6.888e9, None),
    "command-r": (34.98e9, None),
    "grok-1": (314e9, None),
    "apertus-70b": (70.6e9, None),
    "gpt-3-175b": (174.6e9, None),
    "opt-175b": (174.6e9, None),
    "palm-8b": (8.63e9, None),
    "palm-62b": (62.50e9, None),
    "palm-540b": (540.35e9, None),
    "megatron-1.7b": (1.7e9, None),
    "megatron-3.6b": (3.6e9, None),
    "megatron-7.5b": (7.5e9, None),
    "megatron-18b": (18.4e9, None),
    "megatron-39b": (39.1e9, None),
    "megatron-76b": (76.1e9, None),
    "megatron-145b": (145.6e9, None),
    "megatron-310b": (310.1e9, None),
    "mt-nlg-530b": (529.6e9, None),
    "megatron-1t": (1008e9, None),
    "megatron-core-177b": (177e9, None),
    "megatron-core-462b": (462e9, None),
    "megatron-lm-8.3b": (8.3e9, None),
    "turing-nlg-17b": (17e9, None),
    "glm-130b": (130e9, None),
    "transformer-base": (65e6, None),
    "transformer-big": (213e6, None),
    "ernie-3.0-base": (118e6, None),
    "nemotron-4-340b": (340e9, None),
    "mpt-70b": (64.86e9, None),
    "maxtext-128b": (128e9, None),
    "mixtral-8x7b": (46.7e9, 12.9e9),
    "mixtral-8x22b": (140.6e9, 39.1e9),
    "deepseek-v2": (236e9, 21e9),
    "deepseek-v3": (671e9, 37e9),
    "qwen3-30b-a3b": (30.5e9, 3.3e9),
    "qwen3-235b-a22b": (235e9, 22e9),
    "qwen2-57b-a14b": (57.4e9, 14.2e9),
    "llama-4-maverick": (400e9, 17e9),
    "llama-4-scout": (108e9, 17e9),
    "minimax-m2.5": (229e9, 10.6e9),
    "glm-4.5": (355e9, 32.5e9),
    "kimi-k2": (1.03e12, 32.6e9),
}
# Names that result tables and repositories use for them.
NAMES = {
    "meta-llama/Llama-3.1-70B": "llama-3.1-70b",
    "Meta-Llama-3.1-8B-Instruct": "llama-3.1-8b",
    "deepseek-ai/DeepSeek-R1": "deepseek-r1",
    "MiniMaxAI/MiniMax-M2.5": "minimax-m2.5",
    "Qwen/Qwen3-32B": "qwen3-32b",
    "Llama-3-70B (LoRA)": "llama-3-70b",
    "LLaMA-65B": "llama-65b",
    "GPT-52B": "bigscience-gpt-52b",
    "GPT-1T": "megatron-1t",
    "GPT-8B": "megatron-2020-8b",
    "GPT-7.1B": "megatron-core-7.1b",
    "GPT-2-1558M": "gpt-2-1.5b",
    "GPT-J-6B": "gpt-j-6b",
    "GPT-OSS-120B": "gpt-oss-120b",
    "GPT3-5B": "gpt3-5b",
    "Nemotron-340B": "nemotron-4-340b",
    "BERT_Large": "bert-large",
    "bert-large-uncased-whole-word-masking-finetuned-squad": "bert-large",
    "deepset/roberta-base-squad2": "roberta-base",
    "DeepSeek-R1-Zero": "deepseek-r1",
    "google/medgemma-27b-text-it": "gemma-3-27b",
    "mosaicml/mpt-7b-storywriter": "mpt-7b",
    "bert base uncased": "bert-base",
    "MPT-760m": "mpt-760m",
    "MaxText-16B": "maxtext-16b",
}


@pytest.mark.parametrize(("name", "count"), EXACT.items())
def test_counts_match_the_published_integer(name: str, count: int) -> None:
    assert load_model(name).num_parameters == count


@pytest.mark.parametrize(("name", "counts"), ROUNDED.items())
def test_counts_match_rounded_figures(
    name: str, counts: tuple[float, float | None]
) -> None:
    total, active = counts
    model = load_model(name)
    assert model.num_parameters == pytest.approx(total, rel=0.035)
    if active is not None:
        assert model.num_active_parameters == pytest.approx(active, rel=0.05)


def cached_values(model: ModelSpec) -> int:
    return model.cached_values(model.layer_kinds[-1])


def test_every_model_loads_under_its_file_name() -> None:
    names = list(MODELS)
    assert len(names) >= 200
    for name in names:
        model = load_model(name)
        assert fold(model.id) == name
        assert model.num_parameters > 1e6
        assert model.sources[0].url


def test_no_two_models_share_a_name() -> None:
    owner: dict[str, str] = {}
    for name in MODELS:
        model = load_model(name)
        for alias in {fold(n) for n in (model.id, *model.aliases)}:
            assert owner.setdefault(alias, model.id) == model.id, alias


@pytest.mark.parametrize(("name", "identifier"), NAMES.items())
def test_names_in_use_resolve(name: str, identifier: str) -> None:
    assert load_model(name).id == identifier


def test_windows_of_shipped_models() -> None:
    kinds = {k.window: n for k, n in load_model("gpt-oss-120b").layer_groups()}
    assert kinds == {128: 18, None: 18}
    kinds = {k.window: n for k, n in load_model("gemma-3-27b").layer_groups()}
    assert kinds == {1024: 52, None: 10}
    assert load_model("mistral-7b").layer_groups()[0][0].window == 4096


def test_cached_values_per_token() -> None:
    assert cached_values(load_model("llama-2-70b")) == 2048
    assert cached_values(load_model("deepseek-v3")) == 576


@pytest.mark.parametrize("name", ["lama-3-8b", "someone/lama-3-8b"])
def test_unknown_name_shows_the_nearest(name: str) -> None:
    with pytest.raises(UnknownNameError, match="llama-3-8b"):
        load_model(name)


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "~no-such-user/model"])
def test_names_that_cannot_be_paths(name: str) -> None:
    with pytest.raises(UnknownNameError):
        load_model(name)


def test_missing_file() -> None:
    with pytest.raises(SpecError, match=r"absent\.json: does not exist"):
        load_model("absent.json")
