"""Tiny configurations of families whose layers keep a recurrent state."""

from __future__ import annotations

from tests.helpers.models import ARCHITECTURES

LLAMA_LIKE = ARCHITECTURES["llama"][1]
_MIXED = ["linear_attention", "full_attention", "linear_attention", "full_attention"]
_FOUR: dict[str, object] = {**LLAMA_LIKE, "num_hidden_layers": 4, "layer_types": _MIXED}
_DELTA: dict[str, object] = {
    **_FOUR, "head_dim": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_conv_kernel_dim": 4,
}  # fmt: skip
_MOE: dict[str, object] = {
    "moe_intermediate_size": 24, "shared_expert_intermediate_size": 24, "num_experts": 4,
    "num_experts_per_tok": 2, "decoder_sparse_step": 1,
}  # fmt: skip
_MAMBA: dict[str, object] = {
    "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 2,
    "mamba_d_conv": 4, "mamba_expand": 2, "mamba_chunk_size": 16,
}  # fmt: skip
_CONV = ["conv", "full_attention", "conv", "full_attention"]
RECURRENT: dict[str, tuple[str, dict[str, object]]] = {
    "qwen3_next": ("Qwen3NextConfig", {**_DELTA, **_MOE}),
    "qwen3_5": ("Qwen3_5TextConfig", _DELTA),
    "qwen3_5_moe": ("Qwen3_5MoeTextConfig", {**_DELTA, **_MOE}),
    "olmo_hybrid": ("OlmoHybridConfig", {**_DELTA, "linear_num_key_heads": 4}),
    "kimi_linear": (
        "KimiLinearConfig",
        {**LLAMA_LIKE, "num_hidden_layers": 4, "layer_types": _MIXED, "num_key_value_heads": 4,
         "kv_lora_rank": 16, "q_lora_rank": None, "qk_rope_head_dim": 4, "qk_nope_head_dim": 12,
         "v_head_dim": 8, "linear_num_heads": 2, "linear_head_dim": 16,
         "linear_conv_kernel_dim": 4, "num_local_experts": 4, "num_experts_per_tok": 2,
         "moe_intermediate_size": 24, "n_group": 1, "topk_group": 1},
    ),
    "granitemoehybrid with mamba": (
        "GraniteMoeHybridConfig",
        {**_FOUR, **_MAMBA, "num_local_experts": 4, "num_experts_per_tok": 2,
         "shared_intermediate_size": 24, "position_embedding_type": "rope"},
    ),
    "bamba": ("BambaConfig", {**LLAMA_LIKE, **_MAMBA, "num_hidden_layers": 4,
                              "attn_layer_indices": [1, 3]}),
    "nemotron_h": (
        "NemotronHConfig",
        {**LLAMA_LIKE, "head_dim": 8, "mamba_num_heads": 4, "mamba_head_dim": 16,
         "ssm_state_size": 8, "n_groups": 2, "conv_kernel": 4, "expand": 2, "chunk_size": 16,
         "layers_block_type": ["mamba", "mlp", "attention", "moe", "mamba"],
         "num_hidden_layers": 5, "n_routed_experts": 4, "num_experts_per_tok": 2,
         "moe_intermediate_size": 24, "moe_shared_expert_intermediate_size": 24, "n_group": 1,
         "topk_group": 1},
    ),
    "falcon_h1": ("FalconH1Config", {**LLAMA_LIKE, **_MAMBA, "mamba_d_ssm": 64}),
    "lfm2": ("Lfm2Config", {**_FOUR, "layer_types": _CONV, "conv_L_cache": 3}),
    "lfm2_moe": (
        "Lfm2MoeConfig",
        {**_FOUR, "layer_types": _CONV, "conv_L_cache": 3, "moe_intermediate_size": 24,
         "num_experts": 4, "num_experts_per_tok": 2, "num_dense_layers": 1},
    ),
    "lfm3": ("Lfm3Config", {**_FOUR, "layer_types": _CONV, "conv_L_cache": 3}),
}  # fmt: skip
"""Gated delta rules, Mamba-2 and short convolutions, beside layers that attend."""
