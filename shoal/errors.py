"""The exception tree. Every error Shoal raises on purpose is a `ShoalError`.

    ShoalError                  anything below
    ├── OptionError             an option or argument is wrong (exit code 2)
    ├── ModelError              the model cannot be used
    │   ├── ModelLoadError      files missing or unreadable
    │   ├── UnsupportedModelError   it needs a feature we do not honour
    │   ├── ModelFailedError    it failed on every request for a long while
    │   └── InvalidLogitsError      it gave numbers nothing can be sampled from
    ├── InvalidRequestError     one request is wrong; it becomes an error record, the job goes on
    ├── JobError                the job cannot start or go on
    │   ├── OutputLockedError   another run owns the output
    │   ├── OutputExistsError   the output holds something this job did not make
    │   ├── OutputChangedError  a finished job's files are not what it left
    │   ├── JobChangedError     the journal belongs to other input, model or options
    │   ├── EndpointError       no server that the job was to be sent to can be used
    │   └── OutputWriteError    the disk refused a write; everything journaled so far is safe
    └── InternalError           an invariant of ours broke; always a bug

    KeyboardInterrupt
    └── Interrupted             a signal stopped a job; no error, so no `except Exception` takes it
        └── GenerationInterrupted   the same of a call in Python; it carries what was done

Messages say what is wrong, where, and what to do about it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class ShoalError(Exception):
    """Base of all errors raised on purpose.

    Attributes:
        outputs: where one ends `LLM.generate` or `LLM.chat` after prompts have run, an entry for
            each: its `RequestOutput`, or None where it was not done. Else empty.
    """

    outputs: Sequence[Any] = ()


class OptionError(ShoalError):
    """An option or argument is wrong. The message names it and the values it takes."""


class ModelError(ShoalError):
    """The model cannot be used."""


class ModelLoadError(ModelError):
    """The model's files are missing or unreadable."""


class UnsupportedModelError(ModelError):
    """The model needs a feature that segment attention does not honour.

    `feature` is its short name, for example "sliding window attention".
    """

    def __init__(self, feature: str, message: str) -> None:
        super().__init__(message)
        self.feature = feature

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.feature, str(self))


class InvalidLogitsError(ModelError):
    """The model gave NaN or infinity where a token was to be sampled.

    `sequences` are the ids of the sequences concerned; the others of the batch are sound.
    """

    def __init__(self, sequences: tuple[int, ...], message: str) -> None:
        super().__init__(message)
        self.sequences = sequences

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.sequences, str(self))


class ModelFailedError(ModelError):
    """The model failed on so many requests in a row that the run gave up; it can be resumed."""


class DeviceLostError(ModelError):
    """A device, or the process that ran the model on it, is gone; the job can be resumed."""


class InvalidRequestError(ShoalError):
    """One request is wrong; the job goes on without it.

    Attributes:
        code: a machine-readable code of the Batch contract, e.g. "invalid_json_line".
        param: the field at fault as a dotted path, e.g. "body.temperature", or None.
        status_code: the HTTP status its record carries, 400 unless said.
    """

    def __init__(
        self, message: str, *, code: str, param: str | None = None, status_code: int = 400
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.param = param
        self.status_code = status_code

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (self.message, self.code, self.param, self.status_code)


def _rebuild(message: str, code: str, param: str | None, status: int) -> InvalidRequestError:
    return InvalidRequestError(message, code=code, param=param, status_code=status)


class JobError(ShoalError):
    """The job cannot start or go on."""


class OutputLockedError(JobError):
    """Another run is writing this output."""


class OutputExistsError(JobError):
    """The output file exists and was not made by this job."""


class OutputChangedError(JobError):
    """A file of a finished job no longer holds what the job put there."""


class JobChangedError(JobError):
    """The journal beside the output belongs to other input, another model or other options."""


class EndpointError(JobError):
    """No server that the job is sent to can be used. What is done is saved; it can be resumed."""


class OutputWriteError(JobError):
    """The disk refused a write. What the journal holds is safe and the job can be resumed."""


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM stopped a job, which can be resumed; the message says how."""


class GenerationInterrupted(Interrupted):
    """Ctrl-C stopped `LLM.generate` or `LLM.chat`; the next call begins anew.

    `outputs` holds one entry per prompt: its `RequestOutput`, or None where it was not done.
    """

    def __init__(self, message: str, outputs: Sequence[Any]) -> None:
        super().__init__(message)
        self.outputs = list(outputs)


class InternalError(ShoalError):
    """An invariant of ours broke: always a bug, never the user's fault."""
