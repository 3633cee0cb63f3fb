"""What a call asks for: `SamplingParams`, one for all prompts or one for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from shoal.answers.answer_format import AnswerFormat
from shoal.answers.call_grammar import after_reasoning
from shoal.answers.grammar import GrammarCompiler
from shoal.answers.structure import Structure
from shoal.errors import OptionError
from shoal.llm.sampling_params import SamplingParams
from shoal.prompts.refusals import no_tokenizer
from shoal.sampling.sampler import check_vocabulary
from shoal.types import RequestParams

Params = SamplingParams | Sequence[SamplingParams] | None


@dataclass(frozen=True)
class Asked:
    """One entry for all prompts, or one for each.

    Attributes:
        params: equal objects where the caller gave the same.
        detokenize: whether texts are wanted.
    """

    params: list[RequestParams]
    detokenize: list[bool]

    def after_reasoning(self, prompts: Sequence[str | None], form: AnswerFormat) -> Asked:
        """The same for chats: grammars begin when the model has reasoned.

        Args:
            prompts: their texts, as the model reads them; None for those that are wrong.
        """
        if form.reasoning is None or all(params.grammar is None for params in self.params):
            return self
        made: dict[tuple[int, str], RequestParams] = {}
        found = []
        for index, text in enumerate(prompts):
            params = self.params[index if len(self.params) > 1 else 0]
            begun = form.reasoning_in(text or "")
            if params.grammar is not None and (key := (id(params), begun.name)) not in made:
                structure = after_reasoning(Structure(params.grammar, ""), form, begun)
                made[key] = params.model_copy(update={"grammar": structure.grammar})
            found.append(made.get((id(params), begun.name), params))
        return replace(self, params=found)


def asked_for(
    params: SamplingParams | Sequence[SamplingParams],
    count: int,
    vocab_size: int,
    has_texts: bool,
    compiler: GrammarCompiler,
) -> Asked:
    """What is asked for `count` prompts, checked.

    Args:
        has_texts: whether the model has a tokenizer.
        compiler: of the model's vocabulary.

    Raises:
        OptionError: not as many as prompts, or something else than `SamplingParams`.
        InvalidRequestError: a value is wrong, or does not fit the model.
    """
    given = [params] if isinstance(params, SamplingParams) else list(params)
    if not isinstance(params, SamplingParams) and len(given) != count:
        raise OptionError(f"{len(given)} sampling parameters for {count} prompts")
    distinct: dict[int, RequestParams] = {}
    for index, each in enumerate(given):
        if id(each) in distinct:
            continue
        if not isinstance(each, SamplingParams):
            raise OptionError(f"sampling_params must be SamplingParams, not {each!r:.80}.")
        distinct[id(each)] = each.request_params()
        prefix = f"sampling_params[{index}]."
        check_vocabulary(distinct[id(each)], vocab_size, prefix)
        if each.stop and not has_texts:
            raise no_tokenizer(f"{prefix}stop", "stop_token_ids")
        if (grammar := distinct[id(each)].grammar) is not None:
            compiler.check(grammar, f"{prefix}structured_outputs")
    detokenize = [each.detokenize and has_texts for each in given]
    return Asked([distinct[id(each)] for each in given], detokenize)
