"""A `RequestOutput` of a completion."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from shoal.answers.detokenize import Detokenizer
from shoal.llm.request_output import CompletionOutput, Logprob, Logprobs, RequestOutput
from shoal.types import Choice, Completion, Int32Array, TokenLogprob


class OutputMaker:
    """Makes outputs for the prompts of one model."""

    def __init__(self, detokenizer: Detokenizer) -> None:
        self._detokenizer = detokenizer

    def numbered(
        self, first: int, prompts: Sequence[str | None], detokenize: Sequence[bool]
    ) -> Callable[[int, Int32Array | None, Completion], RequestOutput]:
        """Makes the output of a prompt by its place, its tokens and its completion.

        Args:
            first: number of the first; requests are called by their numbers.
            prompts: texts, None where a prompt is token ids.
            detokenize: whether outputs have texts, one for all or one for each.
        """

        def make(index: int, tokens: Int32Array | None, completion: Completion) -> RequestOutput:
            shown = detokenize[index if len(detokenize) > 1 else 0]
            return self.output(str(first + index), prompts[index], tokens, completion, shown)

        return make

    def output(
        self,
        request_id: str,
        prompt: str | None,
        tokens: Int32Array | None,
        completion: Completion,
        detokenize: bool,
    ) -> RequestOutput:
        """The output of a request."""
        of_prompt = completion.prompt_logprobs
        return RequestOutput(
            request_id=request_id,
            prompt=prompt,
            prompt_tokens=tokens,
            prompt_logprobs=None
            if of_prompt is None
            else [self._logprobs(entry, detokenize) for entry in of_prompt],
            outputs=[self._of_choice(choice, detokenize) for choice in completion.choices],
            error=completion.error,
        )

    def _of_choice(self, choice: Choice, detokenize: bool) -> CompletionOutput:
        logprobs = choice.logprobs
        return CompletionOutput(
            index=choice.index,
            text=choice.text if detokenize else "",
            token_ids=list(choice.token_ids),
            cumulative_logprob=None if logprobs is None else _total(logprobs),
            logprobs=None
            if logprobs is None
            else [found for entry in logprobs if (found := self._logprobs(entry, detokenize))],
            finish_reason=choice.finish_reason,
            stop_reason=choice.stop_reason,
        )

    def _logprobs(self, entry: TokenLogprob, detokenize: bool) -> Logprobs | None:
        """The token's own first, then the likeliest; None where nothing comes before."""
        if entry.logprob is None:
            return None
        found = {entry.token_id: (entry.logprob, entry.rank)}
        found |= {token: (logprob, i) for i, (token, logprob) in enumerate(entry.top, start=1)}
        found = {token: (logprob, None) for token, logprob in entry.named} | found
        found = {entry.token_id: found[entry.token_id]} | found
        text = self._detokenizer.token_text
        return {
            token: Logprob(logprob, rank, text(token) if detokenize else None)
            for token, (logprob, rank) in found.items()
        }


def _total(logprobs: Sequence[TokenLogprob]) -> float:
    return sum(entry.logprob for entry in logprobs if entry.logprob is not None)
