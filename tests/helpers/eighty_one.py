"""The 81 tiny configurations of today's families that were tried when this was begun.

Each by its row in the tables of docs/models.md; some rows stand for several of them.
"""

from __future__ import annotations

EIGHTY_ONE: dict[str, str] = {
    **{
        name: name
        for name in (
            "llama3", "gemma2", "flex_olmo", "olmo3", "exaone4", "qwen3_moe", "glm", "glm4",
            "glm4_moe", "minimax_m2", "granite", "granitemoe", "granitemoehybrid", "phimoe",
            "smollm3", "hunyuan", "hunyuan_moe", "ernie4_5", "ernie4_5_moe", "dots1", "bitnet",
            "seed_oss", "apertus", "arcee", "nemotron", "olmoe", "vaultgemma", "helium", "bert",
            "ministral3", "llama4", "gemma3", "gemma3n", "gemma4", "gpt_oss", "olmo_hybrid",
            "cohere2", "cohere2_moe", "exaone4 hybrid", "exaone_moe", "qwen3_next", "qwen3_vl",
            "qwen2_5_vl", "deepseek_v2", "deepseek_v32", "deepseek_v4", "kimi_linear",
            "longcat_flash", "glm4_moe_lite", "glm_moe_dsa", "granite_swa", "nemotron_h",
            "falcon 7b", "falcon_h1", "gptj", "lfm2", "lfm2_moe", "lfm3", "mamba2", "jamba",
            "mistral3", "mistral3 of ministral3", "phi4_multimodal", "modernbert", "t5",
        )
    },
    "qwen3": "qwen3 yarn",
    "falcon3": "llama",
    "gemma2 without a soft cap": "gemma2",
    "olmo3 with a window as long as the model": "olmo3",
    "llama4 with a chunk as long as the model": "llama4",
    "gemma3 with towers": "gemma3",
    "gemma4 with shared KV and experts": "gemma4 experts",
    "qwen3_5 text": "qwen3_5",
    "qwen3_5 with experts": "qwen3_5",
    "qwen3_5 with towers": "qwen3_5",
    "deepseek_v3": "deepseek_v3, kimi k2",
    "kimi k2": "deepseek_v3, kimi k2",
    "granitemoehybrid with mamba": "granitemoehybrid with mamba",
    "mistral v0.1": "mistral window",
    "phi4-mini": "phi3 longrope",
    "modernbert decoder": "modernbert decoder",
}  # fmt: skip
