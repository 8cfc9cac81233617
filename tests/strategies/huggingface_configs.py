"""Architecture keys of public config.json files, with published counts."""

from __future__ import annotations

from typing import Any


def rms(
    kind: str, layers: int, hidden: int, heads: int, ffn: int, vocab: int, **more: Any
) -> dict[str, Any]:
    """The keys that configs of the Llama line always carry."""
    return {
        "model_type": kind,
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "intermediate_size": ffn,
        "vocab_size": vocab,
        **more,
    }


def kv(count: int) -> dict[str, int]:
    return {"num_key_value_heads": count}


TIED = {"tie_word_embeddings": True}
LATENT = {
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
}
# Figures of the public config.json files, and the published counts; None where
# only a rounded count is published: the catalog's own must be the same.
CONFIGS: dict[str, tuple[dict[str, Any], int | None]] = {
    "gemma-4-26b-a4b": (
        rms(
            "gemma4_text", 30, 2816, 16, 2112, 262144, **kv(8), head_dim=256,
            global_head_dim=512, num_global_key_value_heads=2, attention_k_eq_v=True,
            sliding_window=1024, hidden_activation="gelu_pytorch_tanh", **TIED,
            layer_types=(["sliding_attention"] * 5 + ["full_attention"]) * 5,
            enable_moe_block=True, num_experts=128, top_k_experts=8,
            moe_intermediate_size=704, hidden_size_per_layer_input=0,
            num_kv_shared_layers=0,
        ),
        None,
    ),
    "gemma-4-31b": (
        rms(
            "gemma4_text", 60, 5376, 32, 21504, 262144, **kv(16), head_dim=256,
            global_head_dim=512, num_global_key_value_heads=4, attention_k_eq_v=True,
            sliding_window=1024, hidden_activation="gelu_pytorch_tanh", **TIED,
            enable_moe_block=False,
        ),
        None,
    ),
    "mamba2-130m": (
        {
            "model_type": "mamba2", "num_hidden_layers": 24, "hidden_size": 768,
            "num_heads": 24, "head_dim": 64, "state_size": 128, "n_groups": 1,
            "vocab_size": 50288, "chunk_size": 256, **TIED,
        },
        128_989_632,
    ),
    "nemotron-3-nano": (
        {
            "model_type": "nemotron_h", "num_hidden_layers": 52, "hidden_size": 2688,
            "num_attention_heads": 32, **kv(2), "head_dim": 128, "vocab_size": 131072,
            "hybrid_override_pattern": "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*"
            "EMEMEMEME",
            "intermediate_size": 1856, "mlp_hidden_act": "relu2",
            "mamba_num_heads": 64, "mamba_head_dim": 64, "ssm_state_size": 128,
            "n_groups": 8, "conv_kernel": 4, "chunk_size": 128,
            "n_routed_experts": 128, "num_experts_per_tok": 6, "n_shared_experts": 1,
            "moe_intermediate_size": 1856,
            "moe_shared_expert_intermediate_size": 3712,
            "max_position_embeddings": 262144,
        },
        31_577_940_288,
    ),
    "nemotron-3-super": (
        {
            "model_type": "nemotron_h", "hidden_size": 4096, "vocab_size": 131072,
            "num_attention_heads": 32, **kv(2), "head_dim": 128,
            "layers_block_type": [
                {"M": "mamba", "E": "moe", "*": "attention"}[letter]
                for letter in "MEMEMEM*EMEMEMEM*EMEMEMEM*EMEMEMEMEM*EMEMEMEMEM*"
                "EMEMEMEMEM*EMEMEMEMEM*EMEMEMEM*EMEMEMEME"
            ],
            "intermediate_size": 2688, "mlp_hidden_act": "relu2",
            "mamba_num_heads": 128, "mamba_head_dim": 64, "ssm_state_size": 128,
            "n_groups": 8, "chunk_size": 128, "n_routed_experts": 512,
            "num_experts_per_tok": 22, "n_shared_experts": 1,
            "moe_latent_size": 1024, "moe_intermediate_size": 2688,
            "moe_shared_expert_intermediate_size": 5376,
        },
        None,
    ),
    "llama-2-7b": (rms("llama", 32, 4096, 32, 11008, 32000), 6_738_415_616),
    "llama-3.1-8b": (
        rms("llama", 32, 4096, 32, 14336, 128256, **kv(8), head_dim=None),
        8_030_261_248,
    ),
    "llama-3.2-1b": (
        rms("llama", 16, 2048, 32, 8192, 128256, **kv(8), head_dim=64, **TIED),
        1_235_814_400,
    ),
    "mistral-7b": (rms("mistral", 32, 4096, 32, 14336, 32000), 7_241_732_096),
    "mistral-nemo": (
        rms("mistral", 40, 5120, 32, 14336, 131072, **kv(8), head_dim=128),
        12_247_782_400,
    ),
    "mixtral-8x7b": (
        rms("mixtral", 32, 4096, 32, 14336, 32000, **kv(8), sliding_window=None),
        46_702_792_704,
    ),
    "qwen2.5-7b": (
        rms("qwen2", 28, 3584, 28, 18944, 152064, **kv(4)),
        7_615_616_512,
    ),
    "qwen2.5-0.5b": (
        rms("qwen2", 24, 896, 14, 4864, 151936, **kv(2), **TIED),
        494_032_768,
    ),
    "qwen3-8b": (
        rms("qwen3", 36, 4096, 32, 12288, 151936, **kv(8)),
        8_190_735_360,
    ),
    "qwen3-30b-a3b": (
        rms(
            "qwen3_moe", 48, 2048, 32, 6144, 151936, **kv(4), head_dim=128,
            num_experts=128, num_experts_per_tok=8, moe_intermediate_size=768,
            decoder_sparse_step=1, mlp_only_layers=[],
        ),
        30_532_122_624,
    ),
    "qwen2-57b-a14b": (
        rms(
            "qwen2_moe", 28, 3584, 28, 18944, 151936, **kv(4), num_experts=64,
            num_experts_per_tok=8, moe_intermediate_size=2560,
            shared_expert_intermediate_size=20480,
        ),
        None,
    ),
    "deepseek-v2-lite": (
        rms(
            "deepseek_v2", 27, 2048, 16, 10944, 102400, **kv(16), **LATENT,
            q_lora_rank=None, n_routed_experts=64, n_shared_experts=2,
            num_experts_per_tok=6, moe_intermediate_size=1408,
            first_k_dense_replace=1, moe_layer_freq=1, topk_method="greedy",
        ),
        15_706_484_224,
    ),
    "deepseek-v3": (
        rms(
            "deepseek_v3", 61, 7168, 128, 18432, 129280, **kv(128), **LATENT,
            q_lora_rank=1536, n_routed_experts=256, n_shared_experts=1,
            num_experts_per_tok=8, moe_intermediate_size=2048,
            first_k_dense_replace=3, moe_layer_freq=1, topk_method="noaux_tc",
            num_nextn_predict_layers=1,
        ),
        671_026_419_200,
    ),
    "gpt-oss-20b": (
        rms(
            "gpt_oss", 24, 2880, 64, 2880, 201088, **kv(8), head_dim=64,
            attention_bias=True, num_local_experts=32, num_experts_per_tok=4,
            sliding_window=128,
            layer_types=["sliding_attention", "full_attention"] * 12,
        ),
        20_914_757_184,
    ),
    "gemma-2b": (
        rms("gemma", 18, 2048, 8, 16384, 256000, **kv(1), hidden_act="gelu"),
        2_506_172_416,
    ),
    "gemma-2-9b": (
        rms("gemma2", 42, 3584, 16, 14336, 256000, **kv(8), head_dim=256),
        9_241_705_984,
    ),
    "gemma-3-1b": (
        rms(
            "gemma3_text", 26, 1152, 4, 6912, 262144, **kv(1), head_dim=256,
            sliding_window=512, sliding_window_pattern=6,
        ),
        999_885_952,
    ),
    "phi-2": (
        rms("phi", 32, 2560, 32, 10240, 51200, partial_rotary_factor=0.4),
        2_779_683_840,
    ),
    "phi-3-mini": (
        rms("phi3", 32, 3072, 32, 8192, 32064, sliding_window=2047),
        3_821_079_552,
    ),
    "gpt2": (
        {
            "model_type": "gpt2", "n_layer": 12, "n_embd": 768, "n_head": 12,
            "vocab_size": 50257, "n_positions": 1024, "n_inner": None,
            "activation_function": "gelu_new",
        },
        124_439_808,
    ),
    "gpt-1": (
        {
            "model_type": "openai-gpt", "n_layer": 12, "n_embd": 768, "n_head": 12,
            "vocab_size": 40478, "n_positions": 512, "afn": "gelu",
        },
        116_534_784,
    ),
    "gpt-j-6b": (
        {
            "model_type": "gptj", "n_layer": 28, "n_embd": 4096, "n_head": 16,
            "vocab_size": 50400, "rotary_dim": 64, "tie_word_embeddings": False,
        },
        6_050_882_784,
    ),
    "gpt-neox-20b": (
        rms("gpt_neox", 44, 6144, 64, 24576, 50432, rotary_pct=0.25),
        20_554_567_680,
    ),
    "opt-6.7b": (
        {
            "model_type": "opt", "num_hidden_layers": 32, "hidden_size": 4096,
            "num_attention_heads": 32, "ffn_dim": 16384, "vocab_size": 50272,
            "max_position_embeddings": 2048, "word_embed_proj_dim": 4096,
        },
        6_658_473_984,
    ),
    "opt-350m": (
        {
            "model_type": "opt", "num_hidden_layers": 24, "hidden_size": 1024,
            "num_attention_heads": 16, "ffn_dim": 4096, "vocab_size": 50272,
            "word_embed_proj_dim": 512, "do_layer_norm_before": False,
        },
        331_196_416,
    ),
    "bloom": (
        {
            "model_type": "bloom", "n_layer": 70, "n_embed": 14336,
            "num_attention_heads": 112, "vocab_size": 250880,
        },
        176_247_271_424,
    ),
    "falcon-7b": (
        {
            "model_type": "falcon", "num_hidden_layers": 32, "hidden_size": 4544,
            "num_attention_heads": 71, "vocab_size": 65024, "multi_query": True,
            "parallel_attn": True, "new_decoder_architecture": False,
        },
        6_921_720_704,
    ),
    "falcon-40b": (
        {
            "model_type": "falcon", "num_hidden_layers": 60, "hidden_size": 8192,
            "num_attention_heads": 128, "num_kv_heads": 8, "vocab_size": 65024,
            "new_decoder_architecture": True,
        },
        41_303_293_952,
    ),
    "mpt-7b": (
        {
            "model_type": "mpt", "n_layers": 32, "d_model": 4096, "n_heads": 32,
            "vocab_size": 50432, "expansion_ratio": 4, "no_bias": True,
            "attn_config": {"alibi": True, "attn_type": "multihead_attention"},
        },
        6_649_286_656,
    ),
    "glm-4-9b": (
        {
            "model_type": "chatglm", "num_layers": 40, "hidden_size": 4096,
            "num_attention_heads": 32, "ffn_hidden_size": 13696,
            "padded_vocab_size": 151552, "multi_query_attention": True,
            "multi_query_group_num": 2, "kv_channels": 128, "add_qkv_bias": True,
        },
        9_399_951_360,
    ),
    "bert-base": (rms("bert", 12, 768, 12, 3072, 30522), 109_482_240),
    "bert-large": (rms("bert", 24, 1024, 16, 4096, 30522), 335_141_888),
    "roberta-base": (
        rms(
            "roberta", 12, 768, 12, 3072, 50265, max_position_embeddings=514,
            type_vocab_size=1, pad_token_id=1,
        ),
        124_645_632,
    ),
    "distilbert": (
        {
            "model_type": "distilbert", "n_layers": 6, "dim": 768, "n_heads": 12,
            "hidden_dim": 3072, "vocab_size": 30522,
        },
        66_362_880,
    ),
    "t5-base": (
        {
            "model_type": "t5", "num_layers": 12, "d_model": 768, "num_heads": 12,
            "d_kv": 64, "d_ff": 3072, "vocab_size": 32128,
        },
        222_903_552,
    ),
    "flan-t5-xxl": (
        {
            "model_type": "t5", "num_layers": 24, "d_model": 4096, "num_heads": 64,
            "d_kv": 64, "d_ff": 10240, "vocab_size": 32128,
            "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
        },
        11_135_332_352,
    ),
    "glm-4.5": (
        rms(
            "glm4_moe", 92, 5120, 96, 12288, 151552, **kv(8), head_dim=128,
            attention_bias=True, use_qk_norm=True, n_routed_experts=160,
            n_shared_experts=1, num_experts_per_tok=8, first_k_dense_replace=3,
            moe_intermediate_size=1536, partial_rotary_factor=0.5,
        ),
        None,
    ),
    "minimax-m2": (
        rms(
            "minimax_m2", 62, 3072, 48, 1536, 200064, **kv(8), head_dim=128,
            rotary_dim=64, num_local_experts=256, num_experts_per_tok=8,
            use_qk_norm=True, use_routing_bias=True,
        ),
        None,
    ),
    "llama-4-scout": (
        {
            "model_type": "llama4",
            "text_config": rms(
                "llama4_text", 48, 5120, 40, 8192, 202048, **kv(8),
                intermediate_size_mlp=16384, num_local_experts=16,
                num_experts_per_tok=1, no_rope_layers=[1, 1, 1, 0] * 12,
            ),
        },
        107_769_861_120,
    ),
    "nemotron-4-15b": (
        rms("nemotron", 32, 6144, 48, 24576, 256000, **kv(8)),
        None,
    ),
}  # fmt: skip
