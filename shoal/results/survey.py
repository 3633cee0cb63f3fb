"""What the lines of a job ask for, as far as the columns of its results depend on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shoal.answers.structure import Structure
from shoal.requests.asked_structure import asked_structure
from shoal.requests.body_fields import endpoint
from shoal.requests.scored_choices import AskedChoices, parse_choices
from shoal.types import CHAT_URL, COMPLETIONS_URL, RESPONSES_URL


class Survey:
    """Is shown each line that is right, also one that has its record already.

    In memory it holds a byte per line.

    Attributes:
        several: a line asks for several answers, by `n` or by several prompts.
        logprobs: a line asks for logprobs.
        top_logprobs: a line asks for the likeliest tokens beside them.
        json: a line asks for JSON.
        scored: a line has choices scored.
        calls: a line has tools that its answers may call.
        reasoning: a line has reasoning apart from its answers.

    Args:
        schema: of answers whose request asks for no form of its own.
        choices: scored for such requests.
        reasons: the model's reasoning is told apart from its answers, completions excepted.
    """

    def __init__(
        self,
        schema: Structure | None = None,
        choices: AskedChoices | None = None,
        *,
        reasons: bool = False,
    ) -> None:
        self.several = self.logprobs = self.top_logprobs = self.json = False
        self.scored = self.calls = self.reasoning = False
        self._reasons = reasons
        self._default, self._default_choices = schema, choices
        self._choices: tuple[str, ...] = ()
        self._one_list = True
        self._schema: Mapping[str, Any] = {}
        self._one_schema = True
        self._asks_json = bytearray()

    @property
    def schema(self) -> Mapping[str, Any] | None:
        """The schema of all answers that are JSON; None: there is none, or more than one."""
        return self._schema if self.json and self._one_schema else None

    @property
    def choices(self) -> tuple[str, ...] | None:
        """The choices of all lines that have some scored; None: there are none, or others too."""
        return self._choices if self.scored and self._one_list else None

    def asks_json(self, line: int) -> bool:
        """Whether a line, counted from 0, asks for JSON."""
        return line < len(self._asks_json) and bool(self._asks_json[line])

    def note(self, line: int, content: Mapping[str, Any]) -> None:
        """Take in a line, counted from 0, that has been checked."""
        body, url = content["body"], endpoint(content["url"])
        assert url is not None
        prompts = body.get("prompt")
        several_prompts = isinstance(prompts, list) and isinstance(prompts[0], str | list)
        self.several |= (body.get("n") or 1) > 1 or (several_prompts and len(prompts) > 1)
        self.logprobs |= body.get("logprobs") not in (None, False) or bool(body.get("include"))
        number = "logprobs" if url == COMPLETIONS_URL else "top_logprobs"
        self.top_logprobs |= bool(body.get(number))
        self.calls |= bool(body.get("tools")) and body.get("tool_choice") != "none"
        shown = url in (CHAT_URL, RESPONSES_URL) and body.get("include_reasoning") is not False
        self.reasoning |= self._reasons and shown
        own = asked_structure(body, url)
        self._note_choices(body.get("score_choices"), formed=own is not None)
        structure = own or self._default
        if structure is not None and structure.schema is not None:
            self._note_schema(line, structure.schema)

    def _note_choices(self, asked: Any, *, formed: bool) -> None:
        choices = None if formed else self._default_choices
        if asked is not None:
            choices = parse_choices(asked, "body.score_choices")
        if choices is None:
            return
        if not self.scored:
            self.scored, self._choices = True, choices.texts
        elif choices.texts != self._choices:
            self._one_list = False

    def _note_schema(self, line: int, schema: Mapping[str, Any]) -> None:
        if not self.json:
            self.json, self._schema = True, schema
        elif schema != self._schema:
            self._one_schema = False
        self._asks_json.extend(bytes(line + 1 - len(self._asks_json)))
        self._asks_json[line] = 1
