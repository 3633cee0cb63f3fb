"""Whether a job generates or gives vectors, scores or classes: its first line says so."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

from shoal.config import EngineOptions, PoolingType
from shoal.errors import InvalidRequestError, OptionError
from shoal.jobs.spool import Spool
from shoal.model.pooling import AskedPooling, Task
from shoal.requests.body_fields import endpoint
from shoal.requests.lines import BYTE_ORDER_MARK, MAX_LINE_BYTES, LineReader, open_input
from shoal.requests.validate import decode_line
from shoal.types import CLASSIFY_URL, EMBEDDINGS_URL, RERANK_URL, SCORE_URL

_TASKS = {
    EMBEDDINGS_URL: Task.embed,
    SCORE_URL: Task.score,
    RERANK_URL: Task.score,
    CLASSIFY_URL: Task.classify,
}


def kind_of_file(path: Path, pooling: PoolingType) -> AskedPooling | None:
    """What the first line of a batch file that names an endpoint asks for; None: it generates.

    Args:
        pooling: the option of that name.

    Raises:
        JobError: the file cannot be read.
    """
    with open_input(path) as file:
        return _kind(_endpoints(raw.data or b"" for raw in LineReader(file)), pooling)


def asked_at(url: str, pooling: PoolingType) -> AskedPooling | None:
    """What an endpoint asks for; None: an answer."""
    task = _TASKS.get(url)
    return None if task is None else AskedPooling(task, pooling)


def kind_of_spool(spool: Spool, pooling: PoolingType) -> tuple[AskedPooling | None, Spool]:
    """The same of lines that come from elsewhere, and these lines again, from the first on."""
    chunks, head = iter(spool.chunks), b""
    url = None
    for chunk in chunks:
        head += chunk
        whole = head.removeprefix(BYTE_ORDER_MARK).rpartition(b"\n")[0]
        url = next(_endpoints(whole.split(b"\n")), None)
        if url is not None or len(head) > MAX_LINE_BYTES:
            break
    else:  # the last line may lack its newline
        url = next(_endpoints(head.removeprefix(BYTE_ORDER_MARK).split(b"\n")), None)
    found = iter(()) if url is None else iter((url,))
    return _kind(found, pooling), replace(spool, chunks=chain((head,), chunks))


def refuse_answers_only(
    asked: AskedPooling | None,
    options: EngineOptions,
    schema: Path | None,
    results: Path | None = None,
) -> None:
    """Refuse options that do not go with this kind of job.

    Raises:
        OptionError: names the option.
    """
    if asked is None and options.pooling_type is not PoolingType.auto:
        raise OptionError("--pooling-type is for jobs of embeddings; this one generates.")
    for name, value in (("--schema", schema), ("--results", results)):
        if asked is not None and value is not None:
            raise OptionError(f"{name} is for answers; this job generates none.")


def _kind(urls: Iterator[str], pooling: PoolingType) -> AskedPooling | None:
    return asked_at(next(urls, ""), pooling)


def _endpoints(lines: Iterable[bytes]) -> Iterator[str]:
    """The endpoints that lines name; those that name none are passed over."""
    for line in lines:
        try:
            url = endpoint(decode_line(line).get("url")) if line.strip() else None
        except InvalidRequestError:
            continue
        if url is not None:
            yield url
