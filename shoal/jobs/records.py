"""Output and error records, as the Batch API writes them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from typing import Any

import orjson

from shoal.answers.detokenize import Detokenizer
from shoal.errors import InvalidRequestError
from shoal.jobs.index import LineName
from shoal.jobs.logprob_records import chat_logprobs, completion_logprobs
from shoal.jobs.unexecuted import Unexecuted
from shoal.types import CHAT_URL, Choice, Completion, RequestTable

RECORD_BEGINS = b'{"id":"batch_req_'
"""The first bytes of every record."""


class RecordWriter:
    """Writes the records of one job as JSON without newlines.

    Ids depend on the job and the line alone, so that a resumed job gives the ids an
    uninterrupted one would have given.

    Args:
        job_id: names the job.
        model: the model that ran, which answers name whatever alias the request used.
    """

    def __init__(self, job_id: str, model: str, detokenizer: Detokenizer) -> None:
        self._job_id = job_id
        self._model = model
        self._detokenizer = detokenizer

    def success(
        self, line: int, name: LineName, prompts: Sequence[Completion], table: RequestTable
    ) -> bytes:
        """The output record of a line, counted from 0.

        Args:
            prompts: the completion of each of its prompts, in order, none of them an error.
            table: the requests they are of.
        """
        chat = name.url == CHAT_URL
        key = self._key(line)
        choices = [
            self._chat_choice(choice)
            if chat
            else self._text_choice(choice, prompt.request_index, table)
            for prompt in prompts
            for choice in prompt.choices
        ]
        prompt_tokens = sum(prompt.prompt_tokens for prompt in prompts)
        generated = sum(prompt.generated_tokens for prompt in prompts)
        body = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{key}",
            "object": "chat.completion" if chat else "text_completion",
            "created": int(time.time()),
            "model": self._model,
            "choices": [{"index": number} | choice for number, choice in enumerate(choices)],
            "usage": {
                "prompt_tokens": prompt_tokens,
                "completion_tokens": generated,
                "total_tokens": prompt_tokens + generated,
            },
        }
        return _record(key, name.custom_id, 200, body)

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

    def _chat_choice(self, choice: Choice) -> dict[str, Any]:
        logprobs = choice.logprobs
        return {
            "message": {"role": "assistant", "content": choice.text, "refusal": None},
            "logprobs": None if logprobs is None else chat_logprobs(logprobs, self._detokenizer),
            "finish_reason": choice.finish_reason,
        }

    def _text_choice(self, choice: Choice, request: int, table: RequestTable) -> dict[str, Any]:
        logprobs = choice.logprobs
        return {
            "text": choice.text,
            "logprobs": None
            if logprobs is None
            else completion_logprobs(logprobs, choice, request, table, self._detokenizer),
            "finish_reason": choice.finish_reason,
        }


def _record(key: str, custom_id: str | None, status: int, body: dict[str, Any]) -> bytes:
    return orjson.dumps(
        {
            "id": f"batch_req_{key}",
            "custom_id": custom_id,
            "response": {"status_code": status, "request_id": f"req_{key}", "body": body},
            "error": None,
        }
    )
