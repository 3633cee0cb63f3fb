"""Options: one frozen class, the single source of names, defaults and help.

The command line is generated from `EngineOptions`: a field here is `--field-name` there. The
keywords of `shoal.LLM` are vLLM's names, which `shoal/llm/options.py` maps onto the fields.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePath
from typing import Annotated, Any, get_args, get_type_hints

from shoal.errors import OptionError

BUNDLED_MODEL = "shoal-tiny"
"""The model that runs when none is named; it ships inside the package."""


def model_names(model: str | None) -> tuple[str, str]:
    """What a model is called: its folder or Hub id as given, and that without what comes before."""
    given = model or BUNDLED_MODEL
    return given, PurePath(given.rstrip("/")).name


class Dtype(StrEnum):
    """Number format of weights, activations and KV."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Quantization(StrEnum):
    """In how many bits the products of a model's layers are computed."""

    none = "none"
    int8 = "int8"


class PoolingType(StrEnum):
    """Which rows of a text its vector is made of (vLLM's `LAST` and `MEAN`)."""

    auto = "auto"
    last = "last"
    mean = "mean"


class Device(StrEnum):
    """Where the model runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Sharing(StrEnum):
    """Which prefixes are computed once (see `shoal.planner.sharing`)."""

    forest = "forest"
    single = "single"
    paper = "paper"
    none = "none"


class Order(StrEnum):
    """In which order groups run (see `shoal.planner.order`)."""

    blend = "blend"
    ratio = "ratio"
    input = "input"


class ToolCallParser(StrEnum):
    """In which form a model calls tools (see `shoal.answers.formats`); vLLM's names."""

    auto = "auto"
    none = "none"
    glm45 = "glm45"
    hermes = "hermes"
    llama3_json = "llama3_json"
    llama4_pythonic = "llama4_pythonic"
    mistral = "mistral"
    openai = "openai"
    qwen3_coder = "qwen3_coder"


class ReasoningParser(StrEnum):
    """Between which marks a model reasons; vLLM's names."""

    auto = "auto"
    none = "none"
    qwen3 = "qwen3"
    deepseek_r1 = "deepseek_r1"
    glm45 = "glm45"
    mistral = "mistral"
    openai_gptoss = "openai_gptoss"


class OrderOption(StrEnum):
    """An `Order`, or `auto`: the one that is fastest against a clock (`shoal.simulate`)."""

    auto = "auto"
    blend = "blend"
    ratio = "ratio"
    input = "input"


_UNITS = {"": 1, "b": 1}
_UNITS |= {f"{p}b": 1000**i for i, p in enumerate("kmgt", start=1)}
_UNITS |= {f"{p}ib": 1024**i for i, p in enumerate("kmgt", start=1)}


def parse_bytes(text: str | int) -> int:
    """Bytes of a size such as "1GiB", "512MiB", "1.5GB" or 1073741824.

    Raises:
        OptionError: not a positive size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", str(text))
    unit = _UNITS.get(match[2].lower()) if match else None
    if match is None or unit is None or (size := int(float(match[1]) * unit)) <= 0:
        raise OptionError(
            f"{text!r} is not a size in bytes: give a number with B, KiB, MiB, GiB or TiB "
            "(or KB, MB, GB, TB), for example 1GiB."
        )
    return size


DEFAULT_LORA_MEMORY = "1GiB"
"""For adapters in use, where there are any."""

AUTO = "auto"
"""A KV memory that is not stated."""


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How the engine runs a job.

    None of them but `dtype`, `quantization`, `lora`, `max_model_len`, `pooling_type`,
    `trust_remote_code` and the two parsers changes results.
    """

    dtype: Annotated[Dtype, "Number format; auto takes the model's own."] = Dtype.auto
    quantization: Annotated[
        Quantization, "int8: products of layers in 8 bits, on the CPU; faster, and less exact."
    ] = Quantization.none
    device: Annotated[Device, "Where to run; auto takes CUDA when there is one."] = Device.auto
    kv_memory: Annotated[
        str, "Memory for the KV pool, for example 8GiB; auto: 1GiB, on CUDA all that is left."
    ] = AUTO
    memory_fraction: Annotated[
        float, "Share of a CUDA device's memory to use in all: weights, activations and KV."
    ] = 0.95
    token_budget: Annotated[
        int | None,
        "Most tokens in one iteration's batch; measured once per machine and model if not given.",
    ] = None
    max_model_len: Annotated[
        int | None, "Longest prompt plus output in tokens; the model's own limit if not given."
    ] = None
    sharing: Annotated[Sharing, "Which shared prefixes are computed once."] = Sharing.forest
    order: Annotated[
        OrderOption, "In which order prefix groups run; auto takes the fastest in a simulation."
    ] = OrderOption.auto

    disable_hybrid_kv_cache_manager: Annotated[
        bool, "Keep the KV of all tokens in every layer, also where a window hides the earlier."
    ] = False

    devices: Annotated[
        int, "Devices that each run a copy of the model, in processes of their own."
    ] = 1
    tensor_parallel: Annotated[
        int,
        "Devices that each hold a part of one model too large for one; kv_memory is per device.",
    ] = 1
    ray: Annotated[
        str | None,
        "Run on a Ray cluster: its address HOST:PORT, or auto for the one this machine is in.",
    ] = None
    ray_actors: Annotated[
        int | None,
        "Engines to have on Ray; as many as the cluster has room for if not given.",
    ] = None
    ray_cpus: Annotated[
        int | None,
        "CPUs each takes on Ray; if not given 1 per GPU, without GPUs all of the smallest machine.",
    ] = None

    pooling_type: Annotated[
        PoolingType,
        "Of embeddings: the last token's vector, or the mean of all; auto: what the model says.",
    ] = PoolingType.auto
    tool_call_parser: Annotated[
        ToolCallParser, "In which form the model calls tools; auto: as its chat template does."
    ] = ToolCallParser.auto
    reasoning_parser: Annotated[
        ReasoningParser, "Between which marks the model reasons; auto: as its chat template says."
    ] = ReasoningParser.auto

    lora: Annotated[
        Sequence[str],
        "A LoRA adapter that `model` of a line may name, or a folder of adapters; repeatable.",
    ] = ()
    lora_memory: Annotated[
        str | None, "Memory for the adapters in use at a time; 1GiB if not given."
    ] = None

    trust_remote_code: Annotated[
        bool, "Run Python code that comes with the model, if it needs any. Read it first."
    ] = False

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            kind = hints[field.name]
            if isinstance(kind, type) and issubclass(kind, StrEnum):
                object.__setattr__(self, field.name, _choice(kind, field.name, value))
        if self.kv_memory != AUTO:
            parse_bytes(self.kv_memory)
        object.__setattr__(self, "lora", tuple(self.lora))
        if self.lora_memory is not None:
            parse_bytes(self.lora_memory)
        _check_fraction(self.memory_fraction)
        for name in ("token_budget", "max_model_len", "ray_actors", "ray_cpus"):
            value = getattr(self, name)
            if value is not None:
                _check_number(name, value)
        for name in ("devices", "tensor_parallel"):
            _check_number(name, getattr(self, name))
        for name in ("trust_remote_code", "disable_hybrid_kv_cache_manager"):
            if type(getattr(self, name)) is not bool:
                raise OptionError(f"{name} must be true or false, not {getattr(self, name)!r}.")
        self._check_ray()

    def _check_ray(self) -> None:
        if self.ray is None:
            for name in ("ray_actors", "ray_cpus"):
                if getattr(self, name) is not None:
                    raise OptionError(f"{name} belongs to ray: give the cluster's address too.")
            return
        if type(self.ray) is not str or not self.ray:
            raise OptionError(f"ray must be an address such as auto, not {self.ray!r}.")
        if self.ray.startswith("ray://"):
            raise OptionError(
                f"ray {self.ray!r} is an address of Ray Client, through which results would pass "
                "twice. Start the job on a machine of the cluster (ray job submit), with ray auto."
            )
        if self.devices > 1:
            raise OptionError(
                f"devices {self.devices} is for one machine. On Ray give ray_actors "
                f"{self.devices}, or nothing: as many engines as the cluster has room for."
            )

    @property
    def kv_bytes(self) -> int | None:
        """The KV pool's size in bytes; None: auto, which depends on the device."""
        return None if self.kv_memory == AUTO else parse_bytes(self.kv_memory)

    @property
    def lora_bytes(self) -> int:
        """Memory for the adapters in use; 0: there are none."""
        if self.lora_memory is not None:
            return parse_bytes(self.lora_memory)
        return parse_bytes(DEFAULT_LORA_MEMORY) if self.lora else 0

    @classmethod
    def create(cls, **values: Any) -> EngineOptions:
        """Options from keywords; unknown names raise `OptionError` naming the known ones."""
        known = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                raise OptionError(f"unknown option {name!r}; the options are {', '.join(known)}.")
        return cls(**values)


def option_help(cls: type) -> dict[str, str]:
    """The help text of each field of an options class."""
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: get_args(hints[field.name])[1] for field in dataclasses.fields(cls)}


def _check_number(name: str, value: object) -> None:
    if type(value) is not int or value < 1:
        raise OptionError(f"{name} must be a whole number of at least 1, not {value!r}.")


def _check_fraction(value: float) -> None:
    if type(value) not in (int, float) or not 0 < value <= 1:
        raise OptionError(f"memory_fraction must be above 0 and at most 1, not {value!r}.")


def _choice(kind: type[StrEnum], name: str, value: object) -> StrEnum:
    try:
        return kind(str(value))
    except ValueError:
        choices = ", ".join(kind)
        raise OptionError(f"{name} must be one of {choices}; not {value!r}.") from None
