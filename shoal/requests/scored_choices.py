"""`score_choices`: the choices that a line, or a whole job, wants scored instead of an answer."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from shoal.errors import InvalidRequestError, OptionError
from shoal.prompts.refusals import kind_of, wrong_value
from shoal.types import Normalisation, RequestParams

_FIELDS = ("choices", "probabilities")


@dataclass(frozen=True, slots=True)
class AskedChoices:
    """What is to be scored.

    Attributes:
        texts: at least one, no two alike, none empty.
        param: the field or option that errors name.
    """

    texts: tuple[str, ...]
    normalisation: Normalisation
    param: str

    @property
    def digest(self) -> str:
        """Equal for equal choices and probabilities."""
        told = orjson.dumps([self.texts, str(self.normalisation)])
        return hashlib.blake2b(told, digest_size=8).hexdigest()


def parse_choices(value: object, param: str) -> AskedChoices:
    """An array of texts, or {"choices": texts, "probabilities": "sum" or "mean"}.

    Raises:
        InvalidRequestError: names the part of `param` that is wrong.
    """
    if isinstance(value, list):
        return AskedChoices(_texts(value, param), Normalisation.sum, param)
    if not isinstance(value, dict):
        why = 'must be an array of texts, or {"choices": [...], "probabilities": ...}'
        raise wrong_value(param, why)
    given = {name: part for name, part in value.items() if part is not None}
    if unknown := next((name for name in given if name not in _FIELDS), None):
        raise InvalidRequestError(
            f"{param}.{unknown} is not supported; its fields are choices and probabilities.",
            code="unsupported_parameter",
            param=f"{param}.{unknown}",
        )
    how = given.get("probabilities", str(Normalisation.sum))
    if how not in list(Normalisation):
        why = 'must be "sum" (a softmax of logprobs) or "mean" (of logprobs per token)'
        raise wrong_value(f"{param}.probabilities", why)
    if not isinstance(texts := given.get("choices"), list):
        raise wrong_value(f"{param}.choices", "must be an array of texts")
    return AskedChoices(_texts(texts, f"{param}.choices"), Normalisation(how), param)


def _texts(values: Sequence[Any], where: str) -> tuple[str, ...]:
    if not values:
        raise wrong_value(where, "must hold at least one choice")
    known: dict[str, int] = {}
    for number, text in enumerate(values):
        if not isinstance(text, str):
            raise wrong_value(f"{where}[{number}]", f"must be a string, not {kind_of(text)}")
        if not text:
            raise wrong_value(f"{where}[{number}]", "is empty")
        if (first := known.setdefault(text, number)) != number:
            raise wrong_value(f"{where}[{number}]", f"is the same as {where}[{first}]")
    return tuple(known)


def check_beside(choices: AskedChoices, body: Mapping[str, Any], params: RequestParams) -> None:
    """Refuse what a scored line cannot honour; limits and ways of drawing have no effect on it.

    Args:
        body: of the line, without nulls.
        params: its sampling parameters.

    Raises:
        InvalidRequestError: names the field.
    """
    asked = {
        "n": params.n > 1,
        "echo": params.echo,
        "logprob_token_ids": bool(params.logprob_token_ids),
        "logit_bias": bool(params.logit_bias),
        "repetition_penalty": params.repetition_penalty != 1,
        "frequency_penalty": params.frequency_penalty != 0,
        "presence_penalty": params.presence_penalty != 0,
    }
    if name := next((name for name, wanted in asked.items() if wanted and name in body), None):
        raise does_not_go(choices, name)


def does_not_go(choices: AskedChoices, name: str) -> InvalidRequestError:
    """A field of the body asks for something that scoring does not do."""
    return wrong_value(
        f"body.{name}",
        f"does not go with {choices.param.removeprefix('body.')}: nothing is generated, and "
        "choices have the logprobs of the model's own distribution",
    )


def read_choices(choices: Sequence[str] | Path | None) -> AskedChoices | None:
    """The choices of a whole job: given, or those of a file; None where there are none.

    A file named *.json holds what `score_choices` may be; any other one choice per line.

    Raises:
        OptionError: the file cannot be read, or they are wrong.
    """
    if choices is None:
        return None
    try:
        if not isinstance(choices, Path):
            return parse_choices(list(choices), "--labels")
        text = choices.read_text(encoding="utf-8")
        if choices.suffix.lower() == ".json":
            return parse_choices(orjson.loads(text), "--choices")
        return parse_choices([line for line in text.splitlines() if line], "--choices")
    except (OSError, UnicodeDecodeError, orjson.JSONDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else f"{error}"
        raise OptionError(f"cannot read the choices in {choices}: {why}.") from None
    except InvalidRequestError as error:
        raise OptionError(error.message) from None
