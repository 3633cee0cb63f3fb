"""`transformers` `generate` behind the benchmark protocol: padded batches of like length."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from benchmarks.peers.protocol import TokenIds, serve

BATCH = 32
"""Sequences in one batch; 32 of 2,200 tokens take the KV memory all engines have."""


class TransformersEngine:
    """Batches of requests whose outputs, then prompts, are of like length."""

    def load(self, model: str, kv_gib: int, max_model_len: int) -> dict[str, str]:
        """See `protocol.Engine`. The KV memory is what `BATCH` sequences take."""
        import torch
        from transformers import AutoModelForCausalLM

        self._model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).eval()
        self._model.generation_config.eos_token_id = None
        return {name: version(name) for name in ("torch", "transformers")}

    def prepare(
        self, prompts: list[list[int]], outputs: list[int], n: int, temperature: float
    ) -> Callable[[], Any]:
        """See `protocol.Engine`."""
        order = sorted(range(len(prompts)), key=lambda i: (outputs[i], len(prompts[i])))
        size = max(1, BATCH // n)
        batches = [order[first : first + size] for first in range(0, len(order), size)]

        def run() -> TokenIds:
            generated: TokenIds = [[] for _ in prompts]
            for batch in batches:
                longest = max(outputs[i] for i in batch)
                ids = self._generate([prompts[i] for i in batch], longest, n, temperature)
                for place, request in enumerate(batch):
                    choices = ids[place * n : (place + 1) * n]
                    generated[request] = [choice[: outputs[request]] for choice in choices]
            return generated

        return run

    def token_ids(self, result: TokenIds) -> TokenIds:
        """See `protocol.Engine`."""
        return result

    def _generate(
        self, prompts: list[list[int]], tokens: int, n: int, temperature: float
    ) -> list[list[int]]:
        import torch

        width = max(map(len, prompts))
        ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        sampling = {"temperature": temperature, "top_k": 0} if temperature else {}
        with torch.inference_mode():
            out = self._model.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=tokens,
                do_sample=temperature > 0,
                num_return_sequences=n,
                pad_token_id=0,
                **sampling,
            )
        generated: list[list[int]] = out[:, width:].tolist()
        return generated


if __name__ == "__main__":
    serve(TransformersEngine())
