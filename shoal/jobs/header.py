"""The identity of a job: what must not change between the runs that share a journal."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from shoal.answers.structure import Structure
from shoal.disk import ContentDigest
from shoal.endpoints import EndpointOptions
from shoal.model.description import ModelDescription
from shoal.requests.scored_choices import AskedChoices


@dataclass(frozen=True)
class JobHeader:
    """Identity of a job: everything that changes its results, and its seed.

    Attributes:
        input_digest: of the input file, with `input_bytes`, its size.
        model: digest per file of the model, and of each adapter that lines may name.
        options: the options that change results, as they took effect ("auto" resolved).
        job_seed: seeds the requests without seed; drawn once, when the job begins.
    """

    input_digest: str
    input_bytes: int
    model: dict[str, str]
    options: dict[str, Any]
    job_seed: int

    @classmethod
    def new(
        cls,
        content: ContentDigest,
        description: ModelDescription,
        served_names: Sequence[str],
        schema: Structure | None = None,
        choices: AskedChoices | None = None,
        endpoints: EndpointOptions | None = None,
    ) -> JobHeader:
        """The header of a job that begins, with a fresh seed."""
        grammar = None if schema is None else schema.grammar.encode()
        scored = {} if choices is None else {"choices": choices.digest}
        return cls(
            input_digest=content.hexdigest,
            input_bytes=content.size_bytes,
            model=description.fingerprint
            | {f"adapter {adapter.name!r}": adapter.digest for adapter in description.adapters},
            options={
                "dtype": str(description.dtype).removeprefix("torch."),
                "quantization": str(description.quantization),
                "device": description.device.type,
                "max_model_len": description.max_model_len,
                "trust_remote_code": description.trust_remote_code,
                "tool_call_parser": str(description.tool_call_parser),
                "reasoning_parser": str(description.reasoning_parser),
                "served_model_name": sorted(set(served_names)),
                "schema": grammar and hashlib.blake2b(grammar, digest_size=8).hexdigest(),
                **({} if description.pooling is None else description.pooling.identity),
                **scored,
                **({} if endpoints is None else endpoints.identity),
            },
            job_seed=secrets.randbits(62),
        )

    def to_json(self) -> bytes:
        """One line of JSON, the same for equal headers."""
        return orjson.dumps(asdict(self), option=orjson.OPT_SORT_KEYS)

    @classmethod
    def from_json(cls, data: bytes) -> JobHeader:
        """The inverse of `to_json`."""
        return cls(**orjson.loads(data))

    @property
    def job_id(self) -> str:
        """32 hexadecimal digits that name the job; ids of its records derive from it."""
        return hashlib.blake2b(self.to_json(), digest_size=16).hexdigest()

    def changes_to(self, now: JobHeader) -> list[str]:
        """What differs in `now`, one phrase each; the seed is not compared."""
        changes = []
        if (self.input_digest, self.input_bytes) != (now.input_digest, now.input_bytes):
            sizes = f"{self.input_bytes} bytes then, {now.input_bytes} now"
            changes.append(f"the input file changed ({sizes})")
        for file in sorted(self.model.keys() | now.model.keys()):
            if self.model.get(file) != now.model.get(file):
                what = "changed" if file in self.model and file in now.model else "came or went"
                changes.append(f"the model's {file} {what}")
        for name in sorted(self.options.keys() | now.options.keys()):
            then, today = self.options.get(name), now.options.get(name)
            if then != today:
                changes.append(f"{name} was {then!r} and is {today!r}")
        return changes
