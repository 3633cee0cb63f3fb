"""A model folder without weights, requests, and the one mock of these tests: the engine.

The fake engine answers from the prompt's token ids alone, so a job's results do not depend on how
often it was interrupted. Plan, tokenizer, files and processes are real.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import orjson
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast

from shoal.answers.detokenize import Detokenizer
from shoal.config import EngineOptions
from shoal.costs import Machine
from shoal.engine.run_stats import RunStats
from shoal.errors import InvalidRequestError
from shoal.machine.model_costs import default_costs
from shoal.model.description import ModelDescription
from shoal.planning import plan_run
from shoal.types import Choice, Completion, RequestTable, TokenLogprob

CHAT_URL = "/v1/chat/completions"
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'villain' %}{{ raise_exception('no villains') }}"
    "{% endif %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}{{ suffix }}"
)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte; the template speaks in plain bytes too."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def make_model(folder: Path, **config: object) -> Path:
    """A folder `toy` with tokenizer and config, as `ModelDescription.load` reads it."""
    path = folder / "toy"
    path.mkdir(parents=True, exist_ok=True)
    byte_tokenizer().save_pretrained(path)
    values = {
        "vocab_size": 256,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": None,
        "eos_token_id": 0,
    }
    LlamaConfig(**values | config).save_pretrained(path)
    return path


@cache
def describe(model: str, **options: object) -> ModelDescription:
    return ModelDescription.load(model, EngineOptions.create(**options))


def chat(custom_id: str, content: str = "hello", **body: object) -> dict:
    messages = [{"role": "user", "content": content}]
    body = {"model": "toy", "messages": messages, "max_tokens": 8} | body
    return {"custom_id": custom_id, "method": "POST", "url": CHAT_URL, "body": body}


def completion(custom_id: str, prompt: object = "once", **body: object) -> dict:
    body = {"model": "toy", "prompt": prompt, "max_tokens": 8} | body
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/completions", "body": body}


def pooled(url: str, custom_id: str, **body: object) -> dict:
    """A line of a model that does not generate."""
    line = {"custom_id": custom_id, "method": "POST", "url": url}
    return line | {"body": {"model": "toy"} | body}


def response(custom_id: str, input: object = "hello", **body: object) -> dict:
    body = {"model": "toy", "input": input, "max_output_tokens": 8} | body
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/responses", "body": body}


def write_lines(path: Path, lines: list) -> Path:
    """Objects as JSON, bytes as they are."""
    encoded = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    path.write_bytes(b"".join(line + b"\n" for line in encoded))
    return path


def read_records(path: Path) -> list[dict]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def answers(path: Path) -> list[dict]:
    """Records without what may differ between two runs of a job."""
    records = read_records(path)
    for record in records:
        record["response"]["body"].pop("created", None)
        record["response"]["body"].pop("id", None)
        del record["id"], record["response"]["request_id"]
    return records


class FakeEngine:
    """Answers `width` requests per iteration, an iteration taking `seconds`.

    SIGALRM comes `alarm_seconds` after the first has begun, if that is not 0.
    """

    def __init__(
        self,
        description: ModelDescription,
        options: EngineOptions,
        *,
        seconds: float = 0.0,
        alarm_seconds: float = 0.0,
        width: int = 4,
        on_iteration: Callable[[int], None] = lambda number: None,
    ) -> None:
        self.description = description
        self.options = options
        kv_tokens = (options.kv_bytes or 2**30) // description.kv_bytes_per_token
        self.machine = Machine(default_costs(description), width, kv_tokens)
        self.seconds, self.alarm_seconds = seconds, alarm_seconds
        self.width, self.on_iteration = width, on_iteration

    def run(self, table: RequestTable) -> FakeRun:
        self.table = table
        return FakeRun(self, table)

    def close(self) -> None:
        self.closed = True


class FakeRun:
    def __init__(self, engine: FakeEngine, table: RequestTable) -> None:
        self.machine = engine.machine
        planned = plan_run(table, engine.options, self.machine)
        self.plan, self.planned = planned.plan, planned.figures
        self.stats = RunStats()
        self._engine, self._table = engine, table
        self._detokenizer = Detokenizer(engine.description.tokenizer)

    def __iter__(self) -> Iterator[list[Completion]]:
        todo = list(dict.fromkeys(self.plan.sequence_request.tolist()))
        while todo:
            if self._engine.alarm_seconds and not self.stats.iterations:
                signal.setitimer(signal.ITIMER_REAL, self._engine.alarm_seconds)
            time.sleep(self._engine.seconds)
            width = self._engine.width
            done, todo = todo[:width], todo[width:]
            completions = [self._complete(request) for request in done]
            self.stats.iterations += 1
            self.stats.generated_tokens += sum(c.generated_tokens for c in completions)
            if not todo:
                self.stats.prompt_tokens_computed = self.plan.computed_prompt_tokens
            yield completions
            self._engine.on_iteration(self.stats.iterations)

    def _complete(self, request: int) -> Completion:
        prompt = self._table.prompt(request)
        error = None
        if b"FAIL" in bytes(prompt.astype("uint8")) or "FAIL" in self._text(prompt.tolist()):
            error = InvalidRequestError("the model broke", code="model_error", status_code=500)
            return Completion(request, len(prompt), (), error)
        params = self._table.sampling(request)
        choices = []
        for number in range(params.n):
            digest = zlib.crc32(prompt.tobytes() + bytes([number]))
            count = min(int(self._table.max_new_tokens[request]), digest % 8 + 1)
            ids = tuple(33 + (digest >> shift) % 60 for shift in range(count))
            logprobs = None
            if params.num_logprobs is not None:
                logprobs = tuple(TokenLogprob(i, -0.5, ((i, -0.5), (3, -2.0))) for i in ids)
            choices.append(Choice(number, self._text(ids), ids, "stop", logprobs))
        return Completion(request, len(prompt), tuple(choices), error)

    def _text(self, ids: object) -> str:
        return self._detokenizer.text(list(ids), skip_special_tokens=True)


class ForkedProcess:
    """A real process that runs `work` in a copy of this one; has `pid` and `poll` as Popen has.

    The exit code of `work` is what it returns; 1 and a traceback if it raises.
    """

    def __init__(self, work: Callable[[], int]) -> None:
        self._returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                code = work()
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)

    def poll(self) -> int | None:
        """The exit code, negative for a signal, or None while it runs."""
        if self._returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._returncode = os.waitstatus_to_exitcode(status)
        return self._returncode

    def wait(self, seconds: float = 60.0) -> int:
        end = time.monotonic() + seconds
        while (code := self.poll()) is None:
            assert time.monotonic() < end, "the process does not end"
            time.sleep(0.005)
        return code
