"""The untrained model: a small Llama whose first layer starts out looking at nearby tokens."""

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

MAX_POSITIONS = 2048
FIRST_LAYER_OFFSETS = (1, 2, 3, 4, 0, 0)
"""How many tokens back each head of the first layer looks at the start; 0: no preference."""


def new_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """Build the untrained model in float32."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=3,
        head_dim=32,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        attention_bias=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    model = LlamaForCausalLM(config)
    attention = model.model.layers[0].self_attn
    _look_back(attention.q_proj, attention.k_proj, config)
    return model


@torch.no_grad()
def _look_back(query: nn.Linear, key: nn.Linear, config: LlamaConfig, size: float = 4.0) -> None:
    """Set biases so that heads look at a fixed offset; copying is then learned much sooner.

    With rotary positions, a query bias that is the key bias turned back by `offset` positions has
    its largest product with the key that stands `offset` tokens earlier. Only the three fastest
    frequencies are used, the others hardly tell neighbours apart.
    """
    half, fast = config.head_dim // 2, 3
    theta = config.rope_parameters["rope_theta"]
    frequencies = theta ** (-torch.arange(fast) / half)
    key.bias.view(-1, 2 * half)[:, :fast] = size
    heads = query.bias.view(-1, 2 * half)
    for head, offset in enumerate(FIRST_LAYER_OFFSETS):
        if offset:
            heads[head, :fast] = size * torch.cos(-offset * frequencies)
            heads[head, half : half + fast] = size * torch.sin(-offset * frequencies)
