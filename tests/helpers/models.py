"""Tiny random models of many architectures, saved like real ones, and the oracle's answers."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 256
_LLAMA_LIKE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
    "initializer_range": 0.3,
}
_MOE = {"moe_intermediate_size": 24, "num_experts": 4, "num_experts_per_tok": 2}
ARCHITECTURES: dict[str, tuple[str, dict[str, object]]] = {
    "llama": ("LlamaConfig", _LLAMA_LIKE),
    "qwen2": ("Qwen2Config", _LLAMA_LIKE),
    "qwen3": ("Qwen3Config", {**_LLAMA_LIKE, "head_dim": 16}),
    "mistral": ("MistralConfig", {**_LLAMA_LIKE, "sliding_window": None}),
    "phi3": ("Phi3Config", _LLAMA_LIKE),
    "gemma": ("GemmaConfig", {**_LLAMA_LIKE, "head_dim": 16}),
    "olmo2": ("Olmo2Config", _LLAMA_LIKE),
    "granite": (
        "GraniteConfig",
        {**_LLAMA_LIKE, "logits_scaling": 3.0, "residual_multiplier": 0.5,
         "embedding_multiplier": 2.0, "attention_multiplier": 0.4},
    ),
    "gpt2": (
        "GPT2Config",
        {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256,
         "bos_token_id": 0, "eos_token_id": 1, "initializer_range": 0.3},
    ),
    "gpt_neox": (
        "GPTNeoXConfig",
        {name: value for name, value in _LLAMA_LIKE.items() if name != "num_key_value_heads"}
        | {"rotary_pct": 0.5},
    ),
    "mixtral": ("MixtralConfig", {**_LLAMA_LIKE, "num_local_experts": 4, "sliding_window": None}),
    "qwen3_moe": ("Qwen3MoeConfig", {**_LLAMA_LIKE, **_MOE, "head_dim": 16}),
    "qwen2_moe": (
        "Qwen2MoeConfig", {**_LLAMA_LIKE, **_MOE, "shared_expert_intermediate_size": 24}
    ),
    "smollm3": ("SmolLM3Config", _LLAMA_LIKE),
    "starcoder2": ("Starcoder2Config", {**_LLAMA_LIKE, "sliding_window": None}),
    "cohere": ("CohereConfig", _LLAMA_LIKE),
    "stablelm": ("StableLmConfig", _LLAMA_LIKE),
}  # fmt: skip

_YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4,
         "original_max_position_embeddings": 64}  # fmt: skip
_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
_HEADS = {"head_dim": 8}
FAMILIES: dict[str, tuple[str, dict[str, object]]] = {
    "llama3": (
        "LlamaConfig",
        {**_LLAMA_LIKE, "rope_parameters": {**_YARN, "rope_type": "llama3", "low_freq_factor": 1.0,
                                            "high_freq_factor": 4.0}},
    ),
    "qwen3 yarn": ("Qwen3Config", {**_LLAMA_LIKE, "head_dim": 16, "rope_parameters": _YARN}),
    "ministral3": (
        "Ministral3Config",
        {**_LLAMA_LIKE, **_HEADS, "sliding_window": None,
         "rope_parameters": {**_YARN, "llama_4_scaling_beta": 0.5}},
    ),
    "olmo3": ("Olmo3Config", {**_LLAMA_LIKE, "sliding_window": 256}),
    "flex_olmo": ("FlexOlmoConfig", {**_LLAMA_LIKE, "num_experts": 4, "num_experts_per_tok": 2}),
    "exaone4": (
        "Exaone4Config",
        {**_LLAMA_LIKE, "sliding_window": None, "layer_types": ["full_attention"] * 2},
    ),
    "glm": ("GlmConfig", {**_LLAMA_LIKE, **_HEADS}),
    "glm4": ("Glm4Config", {**_LLAMA_LIKE, **_HEADS}),
    "glm4_moe": (
        "Glm4MoeConfig",
        {**_LLAMA_LIKE, **_HEADS, **_MOE, "n_routed_experts": 4, "n_group": 1, "topk_group": 1},
    ),
    "minimax_m2": ("MiniMaxM2Config", {**_LLAMA_LIKE, **_HEADS, **_EXPERTS}),
    "granitemoe": ("GraniteMoeConfig", {**_LLAMA_LIKE, **_EXPERTS}),
    "granitemoehybrid": (
        "GraniteMoeHybridConfig",
        {**_LLAMA_LIKE, **_EXPERTS, "layer_types": ["attention"] * 2, "mamba_n_heads": 4,
         "mamba_d_head": 16, "shared_intermediate_size": 24, "position_embedding_type": "rope"},
    ),
    "phimoe": ("PhimoeConfig", {**_LLAMA_LIKE, "num_local_experts": 4, "sliding_window": None}),
    "hunyuan": ("HunYuanDenseV1Config", {**_LLAMA_LIKE, **_HEADS}),
    "hunyuan_moe": (
        "HunYuanMoEV1Config", {**_LLAMA_LIKE, **_HEADS, "num_experts": 4, "moe_topk": 2}
    ),
    "ernie4_5": ("Ernie4_5Config", {**_LLAMA_LIKE, **_HEADS}),
    "ernie4_5_moe": (
        "Ernie4_5_MoeConfig",
        {**_LLAMA_LIKE, "moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 24,
         "moe_layer_start_index": 1},
    ),
    "dots1": (
        "Dots1Config",
        {**_LLAMA_LIKE, "moe_intermediate_size": 24, "n_routed_experts": 4, "n_shared_experts": 1,
         "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "sliding_window": None},
    ),
    "bitnet": ("BitNetConfig", _LLAMA_LIKE),
    "seed_oss": ("SeedOssConfig", {**_LLAMA_LIKE, **_HEADS}),
    "apertus": ("ApertusConfig", _LLAMA_LIKE),
    "arcee": ("ArceeConfig", _LLAMA_LIKE),
    "nemotron": ("NemotronConfig", {**_LLAMA_LIKE, **_HEADS}),
    "olmoe": ("OlmoeConfig", {**_LLAMA_LIKE, "num_experts": 4, "num_experts_per_tok": 2}),
    "vaultgemma": (
        "VaultGemmaConfig",
        {**_LLAMA_LIKE, **_HEADS, "attn_logit_softcapping": None, "sliding_window": 256},
    ),
    "helium": ("HeliumConfig", {**_LLAMA_LIKE, **_HEADS}),
    "opt": (
        "OPTConfig",
        {"vocab_size": VOCABULARY, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2,
         "num_attention_heads": 4, "max_position_embeddings": 256, "word_embed_proj_dim": 32,
         "bos_token_id": 0, "eos_token_id": 1, "init_std": 0.3},
    ),
}  # fmt: skip
"""More of them. Every threshold their configs name is at 64 tokens, or at the model's length."""

_WINDOW: dict[str, object] = {"sliding_window": 16}
_MIXED: dict[str, object] = {
    **_WINDOW, "num_hidden_layers": 3,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}  # fmt: skip
_GEMMA4: dict[str, object] = {
    **_LLAMA_LIKE, **_WINDOW, "head_dim": 16, "global_head_dim": 32,
    "num_global_key_value_heads": 1, "num_hidden_layers": 4, "vocab_size_per_layer_input": 256,
    "hidden_size_per_layer_input": 8, "num_kv_shared_layers": 0,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}  # fmt: skip
"""Layers of two head sizes."""
KINDS: dict[str, tuple[str, dict[str, object]]] = {
    "mistral window": ("MistralConfig", {**_LLAMA_LIKE, **_WINDOW}),
    "mixtral window": ("MixtralConfig", {**_LLAMA_LIKE, **_WINDOW, "num_local_experts": 4}),
    "starcoder2 window": ("Starcoder2Config", {**_LLAMA_LIKE, **_WINDOW}),
    "phi3 window": ("Phi3Config", {**_LLAMA_LIKE, **_WINDOW}),
    "qwen2 window": (
        "Qwen2Config",
        {**_LLAMA_LIKE, **_WINDOW, "use_sliding_window": True, "max_window_layers": 1},
    ),
    "qwen3 window": ("Qwen3Config", {**_LLAMA_LIKE, **_MIXED, "head_dim": 16,
                                     "use_sliding_window": True}),
    "smollm3 window": ("SmolLM3Config", {**_LLAMA_LIKE, **_MIXED, "use_sliding_window": True}),
    "ministral": ("MinistralConfig", {**_LLAMA_LIKE, **_MIXED, **_HEADS}),
    "gemma2": (
        "Gemma2Config",
        {**_LLAMA_LIKE, **_MIXED, "head_dim": 16, "attn_logit_softcapping": 5.0,
         "query_pre_attn_scalar": 16},
    ),
    "gemma3": (
        "Gemma3TextConfig",
        {**_LLAMA_LIKE, **_MIXED, "head_dim": 16, "query_pre_attn_scalar": 16},
    ),
    "vaultgemma": ("VaultGemmaConfig", {**_LLAMA_LIKE, **_MIXED, **_HEADS}),
    "gpt_oss": ("GptOssConfig", {**_LLAMA_LIKE, **_MIXED, **_EXPERTS, "head_dim": 16}),
    "olmo3": ("Olmo3Config", {**_LLAMA_LIKE, **_MIXED}),
    "cohere2": ("Cohere2Config", {**_LLAMA_LIKE, **_MIXED}),
    "cohere2_moe": ("Cohere2MoeConfig", {**_LLAMA_LIKE, **_MIXED, **_MOE}),
    "exaone4 hybrid": ("Exaone4Config", {**_LLAMA_LIKE, **_MIXED, "sliding_window_pattern": None}),
    "exaone_moe": (
        "ExaoneMoeConfig",
        {**_LLAMA_LIKE, **_MIXED, **_MOE, "n_group": 1, "topk_group": 1,
         "is_moe_layer": [False, True, True]},
    ),
    "granite_swa": ("GraniteSWAConfig", {**_LLAMA_LIKE, **_MIXED}),
    "granitemoe_swa": ("GraniteMoeSWAConfig", {**_LLAMA_LIKE, **_MIXED, **_EXPERTS}),
    "cwm": ("CwmConfig", {**_LLAMA_LIKE, **_MIXED, **_HEADS}),
    "dots1 window": (
        "Dots1Config",
        {**_LLAMA_LIKE, **_MIXED, "moe_intermediate_size": 24, "n_routed_experts": 4,
         "n_shared_experts": 1, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
    ),
    "llama4": (
        "Llama4TextConfig",
        {**_LLAMA_LIKE, **_HEADS, "num_hidden_layers": 4, "num_local_experts": 4,
         "intermediate_size_mlp": 48, "attention_chunk_size": 16, "floor_scale": 32,
         "attn_scale": 0.5},
    ),
    "gemma4": ("Gemma4TextConfig", _GEMMA4),
    "gemma4 shared": (
        "Gemma4TextConfig", {**_GEMMA4, "num_kv_shared_layers": 2, "num_hidden_layers": 6,
                             "layer_types": ["sliding_attention", "full_attention"] * 3}
    ),
    "gemma4 experts": (
        "Gemma4TextConfig",
        {**_GEMMA4, "enable_moe_block": True, "num_experts": 4, "top_k_experts": 2,
         "moe_intermediate_size": 24, "num_kv_shared_layers": 2},
    ),
    "modernbert decoder": (
        "ModernBertDecoderConfig",
        {**{name: value for name, value in _LLAMA_LIKE.items() if name != "num_key_value_heads"},
         "local_attention": 16, "num_hidden_layers": 3, "global_attn_every_n_layers": 3,
         "cls_token_id": 0, "sep_token_id": 1},
    ),
    "gemma4 keys as values": ("Gemma4TextConfig", {**_GEMMA4, "attention_k_eq_v": True}),
    "gemma3n": (
        "Gemma3nTextConfig",
        {**_LLAMA_LIKE, **_WINDOW, "head_dim": 16, "num_hidden_layers": 6, "laurel_rank": 4,
         "vocab_size_per_layer_input": 256, "hidden_size_per_layer_input": 8,
         "num_kv_shared_layers": 2, "altup_num_inputs": 2, "intermediate_size": [48] * 6,
         "activation_sparsity_pattern": [0.5, 0.5, 0.0, 0.0, 0.0, 0.0],
         "layer_types": ["sliding_attention", "full_attention"] * 3},
    ),
}  # fmt: skip
"""Families whose layers ask for windows of 16 tokens, chunks, soft-capping or sinks."""

_LONG = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4,
         "long_factor": [2.0, 3.0, 4.0, 6.0], "original_max_position_embeddings": 64}  # fmt: skip
LENGTHS: dict[str, tuple[str, dict[str, object]]] = {
    "phi3 longrope": (
        "Phi3Config",
        {**_LLAMA_LIKE, "rope_parameters": _LONG, "original_max_position_embeddings": 64},
    ),
    "phimoe longrope": (
        "PhimoeConfig",
        {**_LLAMA_LIKE, "num_local_experts": 4, "sliding_window": None,
         "rope_parameters": {**_LONG, "short_mscale": 1.25, "long_mscale": 1.5},
         "original_max_position_embeddings": 64},
    ),
    "phi4_multimodal": (
        "Phi4MultimodalConfig",
        {**_LLAMA_LIKE, "sliding_window": None, "rope_parameters": _LONG,
         "original_max_position_embeddings": 64, "image_token_id": 5, "audio_token_id": 6,
         "vision_config": {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
                           "num_attention_heads": 2, "crop_size": 28, "patch_size": 14},
         "audio_config": {"hidden_size": 16, "intermediate_size": 16, "num_blocks": 1,
                          "num_attention_heads": 2, "ext_pw_out_channel": 16,
                          "nemo_conv_channels": 16, "depthwise_separable_out_channel": 16}},
    ),
    "llama longrope": ("LlamaConfig", {**_LLAMA_LIKE, "rope_parameters": _LONG}),
    "llama dynamic rope": (
        "LlamaConfig",
        {**_LLAMA_LIKE, "max_position_embeddings": 64,
         "rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}},
    ),
}  # fmt: skip
"""Families whose rotary frequencies change with a request's length, at 64 tokens."""

_MLA: dict[str, object] = {
    **{k: v for k, v in _LLAMA_LIKE.items() if k != "num_key_value_heads"},
    "num_key_value_heads": 4, "q_lora_rank": 24, "kv_lora_rank": 32, "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16, "v_head_dim": 12, "moe_intermediate_size": 24, "n_routed_experts": 4,
    "n_shared_experts": 1, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1,
}  # fmt: skip
_YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "mscale": 1.0,
         "mscale_all_dim": 0.7, "original_max_position_embeddings": 64}  # fmt: skip
_NOT_LONGCAT = {"num_hidden_layers", "intermediate_size", "moe_intermediate_size",
                "num_experts_per_tok", "n_shared_experts", "n_group", "topk_group"}  # fmt: skip
LATENTS: dict[str, tuple[str, dict[str, object]]] = {
    "deepseek_v2": (
        "DeepseekV2Config",
        {**_MLA, "q_lora_rank": None, "first_k_dense_replace": 1, "topk_method": "greedy"},
    ),
    "deepseek_v3, kimi k2": (
        "DeepseekV3Config",
        {**_MLA, "first_k_dense_replace": 1, "rope_parameters": _YARN},
    ),
    "glm4_moe_lite": ("Glm4MoeLiteConfig", _MLA),
    "minicpm3": ("MiniCPM3Config", _MLA),
    "youtu": ("YoutuConfig", _MLA),
    "longcat_flash": (
        "LongcatFlashConfig",
        {**{name: value for name, value in _MLA.items() if name not in _NOT_LONGCAT},
         "num_layers": 2, "ffn_hidden_size": 48, "expert_ffn_hidden_size": 24, "moe_topk": 3,
         "zero_expert_num": 2, "head_dim": 8, "rope_parameters": _YARN},
    ),
}  # fmt: skip
"""Families that keep a latent of each token (MLA)."""


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, after <s> and </s>; a byte-level BPE without merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())[: VOCABULARY - 2]
    vocabulary = {"<s>": 0, "</s>": 1} | {c: i + 2 for i, c in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


def save_model(folder: Path, architecture: str, **changes: object) -> Path:
    """Write a random model of an architecture, its tokenizer and config into `folder`."""
    from tests.helpers.recurrent_models import RECURRENT

    known = ARCHITECTURES | FAMILIES | KINDS | LENGTHS | LATENTS | RECURRENT
    config_class, fields = known[architecture]
    config = getattr(transformers, config_class)(**{**fields, **changes})
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@cache
def oracle(folder: Path) -> torch.nn.Module:
    """The model as transformers loads it, in float32."""
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def greedy(
    folder: Path, prompt: list[int], max_new_tokens: int, *, use_cache: bool = True
) -> list[int]:
    """What `transformers` generates, one prompt at a time, in float32."""
    return list(_greedy(folder, tuple(prompt), max_new_tokens, use_cache))


@cache
def _greedy(
    folder: Path, prompt: tuple[int, ...], max_new_tokens: int, use_cache: bool
) -> list[int]:
    with torch.inference_mode():
        # Dynamic rotary scaling keeps what it had of the last prompt till a short one comes.
        oracle(folder)(torch.tensor([[2]]))
        # A module whose class transformers chose: mypy cannot know its generate.
        out = oracle(folder).generate(  # type: ignore[operator]
            torch.tensor([prompt]),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            use_cache=use_cache,
        )
    return out[0, len(prompt) :].tolist()


def forest_of_prompts(seed: int, trees: int = 2) -> list[list[int]]:
    """Prompts over a forest of two levels, some identical, one a prefix of others: 2 + 11 each."""
    rng = np.random.default_rng(seed)

    def tokens(count: int) -> list[int]:
        return rng.integers(2, VOCABULARY, count).tolist()

    prompts = [tokens(5), tokens(1)]
    for _ in range(trees):
        top = tokens(int(rng.integers(20, 40)))
        prompts.append(top)
        for _ in range(2):
            inner = top + tokens(int(rng.integers(3, 20)))
            prompts += [inner, inner]
            prompts += [inner + tokens(int(rng.integers(1, 30))) for _ in range(3)]
    order = rng.permutation(len(prompts))
    return [prompts[i] for i in order]
