"""Output and error records, as the Batch API writes them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from shoal.answers.answer_format import AnswerFormat
from shoal.answers.detokenize import Detokenizer
from shoal.answers.reading import AnswerReader, ChatAnswer
from shoal.errors import InvalidRequestError
from shoal.requests.index import LineName
from shoal.requests.pooled_bodies import PooledBodies
from shoal.results.choice_records import scored_answers
from shoal.results.logprob_records import chat_logprobs, completion_logprobs
from shoal.results.pooled_records import PooledRecords
from shoal.results.response_records import response_body
from shoal.results.unexecuted import Unexecuted
from shoal.types import (
    BASE_MODEL,
    CHAT_URL,
    RESPONSES_URL,
    Choice,
    Completion,
    RequestTable,
    ServerAnswer,
)

RECORD_BEGINS = b'{"id":"batch_req_'
"""The first bytes of every record."""


class RecordWriter:
    """Writes the records of one job as JSON without newlines.

    Ids depend on the job and the line alone, so that a resumed job gives the ids an
    uninterrupted one would have given.

    Args:
        job_id: names the job.
        model: the model that ran, which answers name whatever alias the request used.
        pooled: of a model that does not generate, what its requests ask for.
        form: of its answers; None: they are content and nothing else.
    """

    def __init__(
        self,
        job_id: str,
        model: str,
        detokenizer: Detokenizer,
        pooled: PooledBodies | None = None,
        form: AnswerFormat | None = None,
    ) -> None:
        self._pooled = None if pooled is None else PooledRecords(pooled, model)
        self._job_id = job_id
        self._model = model
        self._detokenizer = detokenizer
        self._reader = AnswerReader(detokenizer, form or AnswerFormat())

    def success(
        self, line: int, name: LineName, prompts: Sequence[Completion], table: RequestTable
    ) -> bytes:
        """The output record of a line, counted from 0.

        Args:
            prompts: the completion of each of its prompts, in order, none of them an error.
            table: the requests they are of.
        """
        key = self._key(line)
        if self._pooled is not None:
            body = self._pooled.body(key, name.url, name.body, prompts)
        elif name.url == RESPONSES_URL:
            body = self._response(key, prompts[0], table, name.body.get("metadata"))
        else:
            body = self._choices(key, name.url == CHAT_URL, prompts, table)
        return _record(key, name.custom_id, 200, body)

    def _model_of(self, completion: Completion, table: RequestTable) -> str:
        """What an answer says it is by: the model, or an adapter of it."""
        if table.adapter is None or table.adapter[completion.request_index] == BASE_MODEL:
            return self._model
        return table.adapters[int(table.adapter[completion.request_index])].name

    def _response(
        self, key: str, completion: Completion, table: RequestTable, metadata: Any
    ) -> dict[str, Any]:
        created, params = int(time.time()), table.sampling(completion.request_index)
        prompt = table.prompt(completion.request_index)
        answer = self._reader.read(completion.choices[0], prompt, params)
        model = self._model_of(completion, table)
        return response_body(
            key, created, model, completion, answer, params, metadata, self._detokenizer
        )

    def _choices(
        self, key: str, chat: bool, prompts: Sequence[Completion], table: RequestTable
    ) -> dict[str, Any]:
        """The body of a chat's or a completions line's record."""
        usage = {
            "prompt_tokens": sum(prompt.prompt_tokens for prompt in prompts),
            "completion_tokens": sum(prompt.generated_tokens for prompt in prompts),
        }
        scored: list[tuple[dict[str, Any], int]] = []
        if table.sampling(prompts[0].request_index).choices is not None:
            scored = list(scored_answers(prompts, table, chat=chat))
            usage = {"prompt_tokens": sum(read for _, read in scored), "completion_tokens": 0}
        body: dict[str, Any] = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{key}",
            "object": "chat.completion" if chat else "text_completion",
            "created": int(time.time()),
            "model": self._model_of(prompts[0], table),
            "choices": [],
            "usage": usage | {"total_tokens": sum(usage.values())},
        }
        if scored:
            body["choices"] = [
                {"index": number} | choice for number, (choice, _) in enumerate(scored)
            ]
        elif chat:
            self._add_messages(body, key, prompts, table)
        else:
            body["choices"] = [
                {"index": number} | self._text_choice(choice, prompt.request_index, table)
                for number, (prompt, choice) in enumerate(_choices(prompts))
            ]
        return body

    def failure(self, line: int, custom_id: str | None, error: InvalidRequestError) -> bytes:
        """The error record of a line, counted from 0; what people read counts from 1."""
        status = error.status_code
        message = error.message.encode(errors="replace").decode()  # JSON takes no lone surrogates
        body = {
            "error": {
                "message": f"line {line + 1}: {message}",
                "type": "server_error" if status >= 500 else "invalid_request_error",
                "param": error.param,
                "code": error.code,
                "line": line + 1,
            }
        }
        return _record(self._key(line), custom_id, status, body)

    def answered(self, line: int, custom_id: str, answer: ServerAnswer) -> bytes:
        """The record of a line, counted from 0, that a server answered: its status and body."""
        return _record(self._key(line), custom_id, answer.status_code, answer.body)

    def unexecuted(self, line: int, custom_id: str, why: Unexecuted) -> bytes:
        """The error record of a line, counted from 0, whose request is never executed."""
        return orjson.dumps(
            {
                "id": f"batch_req_{self._key(line)}",
                "custom_id": custom_id,
                "response": None,
                "error": {"code": why.code, "message": why.message},
            }
        )

    def _key(self, line: int) -> str:
        name = f"{self._job_id}/{line}".encode()
        return hashlib.blake2b(name, digest_size=12).hexdigest()

    def _add_messages(
        self,
        body: dict[str, Any],
        key: str,
        prompts: Sequence[Completion],
        table: RequestTable,
    ) -> None:
        """The choices of a chat, and how many of their tokens were spent on reasoning."""
        reasoned = 0
        for number, (prompt, choice) in enumerate(_choices(prompts)):
            params = table.sampling(prompt.request_index)
            answer = self._reader.read(choice, table.prompt(prompt.request_index), params)
            message = self._message(answer, f"{key}/{number}", params.include_reasoning)
            logprobs = choice.logprobs
            called = answer.calls and choice.finish_reason == "stop"
            body["choices"].append(
                {
                    "index": number,
                    "message": message,
                    "logprobs": None
                    if logprobs is None
                    else chat_logprobs(logprobs, self._detokenizer),
                    "finish_reason": "tool_calls" if called else choice.finish_reason,
                }
            )
            reasoned += answer.reasoning_tokens
        if self._reader.form.shows_reasoning:
            body["usage"]["completion_tokens_details"] = {"reasoning_tokens": reasoned}

    def _message(self, answer: ChatAnswer, key: str, include_reasoning: bool) -> dict[str, Any]:
        """An answer as OpenAI writes it; reasoning under vLLM's name and under DeepSeek's."""
        form = self._reader.form
        message: dict[str, Any] = {"role": "assistant", "content": answer.content, "refusal": None}
        if form.shows_reasoning and include_reasoning:
            message |= dict.fromkeys(("reasoning", "reasoning_content"), answer.reasoning)
        if answer.calls:
            short = form.calls is not None and form.calls.short_ids
            message["tool_calls"] = [
                {
                    "id": _call_id(f"{key}/{i}", short),
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for i, call in enumerate(answer.calls)
            ]
        return message

    def _text_choice(self, choice: Choice, request: int, table: RequestTable) -> dict[str, Any]:
        logprobs = choice.logprobs
        return {
            "text": choice.text,
            "logprobs": None
            if logprobs is None
            else completion_logprobs(logprobs, choice, request, table, self._detokenizer),
            "finish_reason": choice.finish_reason,
        }


def _choices(prompts: Sequence[Completion]) -> Iterator[tuple[Completion, Choice]]:
    """All choices in order, each with its prompt's completion."""
    return ((prompt, choice) for prompt in prompts for choice in prompt.choices)


def _call_id(key: str, short: bool) -> str:
    """The same for a call of the same answer; nine characters for templates that demand them."""
    digest = hashlib.blake2b(key.encode(), digest_size=12).hexdigest()
    return digest[:9] if short else f"call_{digest}"


def _record(key: str, custom_id: str | None, status: int, body: dict[str, Any]) -> bytes:
    return orjson.dumps(
        {
            "id": f"batch_req_{key}",
            "custom_id": custom_id,
            "response": {"status_code": status, "request_id": f"req_{key}", "body": body},
            "error": None,
        },
        option=orjson.OPT_SERIALIZE_NUMPY,
    )
