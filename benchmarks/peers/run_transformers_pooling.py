"""`transformers` as a reranker behind the benchmark protocol: padded batches of like length."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version

from benchmarks.peers.protocol import Scores, serve

BATCH = 32


class TransformersPooling:
    """Batches sorted by length, padded on the right."""

    def load(self, model: str, kv_gib: int, max_model_len: int) -> dict[str, str]:
        """See `protocol.Engine`; no KV is kept."""
        import torch
        from transformers import AutoModelForSequenceClassification

        self._model = AutoModelForSequenceClassification.from_pretrained(
            model, dtype=torch.bfloat16
        ).eval()
        return {name: version(name) for name in ("torch", "transformers")}

    def prepare_scores(
        self, prompts: list[list[int]], starts: list[int], expert: bool
    ) -> Callable[[], Scores]:
        """See `protocol.Scorer`; `starts` and `expert` mean nothing here."""
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        batches = [order[first : first + BATCH] for first in range(0, len(order), BATCH)]

        def run() -> Scores:
            scores: Scores = [(0.0, True)] * len(prompts)
            for batch in batches:
                for i, score in zip(batch, self._scores([prompts[i] for i in batch]), strict=True):
                    scores[i] = (score, True)
            return scores

        return run

    def _scores(self, prompts: list[list[int]]) -> list[float]:
        import torch

        width = max(map(len, prompts))
        ids = torch.tensor([prompt + [0] * (width - len(prompt)) for prompt in prompts])
        mask = torch.tensor([[1] * len(p) + [0] * (width - len(p)) for p in prompts])
        with torch.inference_mode():
            logits = self._model(input_ids=ids, attention_mask=mask).logits
        scores: list[float] = logits.float().sigmoid()[:, 0].tolist()
        return scores


if __name__ == "__main__":
    serve(TransformersPooling())
