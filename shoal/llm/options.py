"""The options of `LLM` and of its calls: vLLM's names, our own, and what becomes of each."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

from shoal.config import DEFAULT_LORA_MEMORY, EngineOptions, option_help
from shoal.errors import OptionError
from shoal.fates import Fate, Honoured, NoEffect, Refused, alike, note_without_effect

_PLANNED = NoEffect("The planner sees all requests of a call and decides by itself.")
_MEMORY = NoEffect("Where memory comes from changes no answer.")
_KERNELS = NoEffect("How batches are computed changes no answer.")
_WATCHED = NoEffect("Logs, traces and metrics; see LLM.last_run.")
_LOADING = NoEffect("How weights are read changes no answer.")
_MEDIA = NoEffect("Prompts are text; media in a prompt are refused.")
_SPREAD = NoEffect("How devices talk to each other changes no answer.")
_EXPERTS = NoEffect("Where experts are computed changes no answer.")
_MOUNTED = NoEffect("For machinery that no other accepted option turns on.")
_HUB = "Download that version into a folder, and give the folder as model."
_CONFIG = "Change the files in the model's folder."
_OF_COMMAND = "In Python it has vLLM's name: {}."

_HELP = option_help(EngineOptions)


def _sets(option: str) -> Honoured:
    return Honoured(_HELP[option], option)


LLM_OPTIONS: dict[str, Fate] = {
    "model": Honoured("A local folder or a Hub id; None: the small model that comes with Shoal."),
    "tokenizer": Honoured("A folder or Hub id, where the model's own is not wanted."),
    "skip_tokenizer_init": Honoured("Read none: prompts are token ids, and texts are empty."),
    "seed": Honoured("Of prompts without one: a script's draws repeat. None: they do not."),
    "chat_template": Honoured("For `chat`, where the model's own is not wanted."),
    "dtype": _sets("dtype"),
    "quantization": _sets("quantization"),
    "max_model_len": _sets("max_model_len"),
    "trust_remote_code": _sets("trust_remote_code"),
    "reasoning_parser": _sets("reasoning_parser"),
    "tensor_parallel_size": _sets("tensor_parallel"),
    "data_parallel_size": _sets("devices"),
    "gpu_memory_utilization": _sets("memory_fraction"),
    "max_num_batched_tokens": _sets("token_budget"),
    "kv_cache_memory_bytes": Honoured("kv_memory as a number of bytes.", "kv_memory"),
    "kv_memory": _sets("kv_memory"),
    "disable_hybrid_kv_cache_manager": _sets("disable_hybrid_kv_cache_manager"),
    "device": _sets("device"),
    "sharing": _sets("sharing"),
    "order": _sets("order"),
    "ray": _sets("ray"),
    "ray_actors": _sets("ray_actors"),
    "ray_cpus": _sets("ray_cpus"),
    **alike(
        "enable_prefix_caching prefix_caching_hash_algo max_num_seqs max_num_partial_prefills"
        " max_long_partial_prefills long_prefill_token_threshold enable_chunked_prefill"
        " disable_chunked_mm_input scheduling_policy scheduler_cls async_scheduling"
        " stream_interval num_lookahead_slots preemption_mode use_v2_block_manager"
        " speculative_config num_scheduler_steps",
        _PLANNED,
    ),
    **alike(
        "block_size swap_space cpu_offload_gb num_gpu_blocks_override enable_sleep_mode"
        " kv_offloading_size kv_offloading_backend",
        _MEMORY,
    ),
    **alike(
        "enforce_eager compilation_config cudagraph_capture_sizes max_cudagraph_capture_size"
        " max_seq_len_to_capture optimization_level performance_mode attention_backend"
        " attention_config kernel_config disable_cascade_attn kv_sharing_fast_prefill"
        " model_impl enable_dbo ubatch_size dbo_decode_token_threshold"
        " dbo_prefill_token_threshold disable_async_output_proc",
        _KERNELS,
    ),
    **alike(
        "disable_log_stats aggregate_engine_logging show_hidden_metrics_for_version"
        " otlp_traces_endpoint collect_detailed_traces kv_cache_metrics kv_cache_metrics_sample"
        " cudagraph_metrics enable_layerwise_nvtx_tracing enable_mfu_metrics"
        " enable_logging_iteration_details enable_mm_processor_stats profiler_config"
        " ray_workers_use_nsight served_model_name",
        _WATCHED,
    ),
    **alike(
        "safetensors_load_strategy use_tqdm_on_load pt_load_map_location ignore_patterns"
        " max_parallel_loading_workers",
        _LOADING,
    ),
    **alike(
        "allowed_local_media_path allowed_media_domains limit_mm_per_prompt enable_mm_embeds"
        " interleave_mm_strings media_io_kwargs mm_processor_kwargs mm_processor_cache_gb"
        " mm_processor_cache_type mm_shm_cache_max_object_size_mb mm_encoder_tp_mode"
        " mm_encoder_attn_backend skip_mm_profiling video_pruning_rate"
        " disable_mm_preprocessor_cache enable_prompt_embeds language_model_only",
        _MEDIA,
    ),
    **alike(
        "distributed_executor_backend master_addr master_port nnodes node_rank"
        " disable_custom_all_reduce disable_nccl_for_dp_synchronization data_parallel_rank"
        " data_parallel_start_rank data_parallel_size_local data_parallel_address"
        " data_parallel_rpc_port data_parallel_hybrid_lb data_parallel_external_lb"
        " data_parallel_backend dcp_kv_cache_interleave_size cp_kv_cache_interleave_size"
        " decode_context_parallel_size prefill_context_parallel_size worker_cls"
        " worker_extension_cls enable_fault_tolerance engine_recovery_timeout"
        " internal_fault_report_port external_fault_notify_port gloo_comm_timeout"
        " shutdown_on_fault_tolerance_failure shutdown_timeout kv_events_config",
        _SPREAD,
    ),
    **alike(
        "enable_expert_parallel all2all_backend moe_backend eplb_config enable_eplb"
        " expert_placement_strategy",
        _EXPERTS,
    ),
    **alike(
        "max_loras max_lora_rank max_cpu_loras fully_sharded_loras specialize_active_lora",
        NoEffect("Adapters in use share lora_memory; their ranks are those of their files."),
    ),
    "lora_dtype": Refused(
        "On the CPU adapters are held as stored, or in float32; on CUDA as the model.",
        (None, "auto"),
    ),
    **alike(
        "enable_tower_connector_lora mamba_cache_dtype"
        " mamba_ssm_cache_dtype mamba_block_size mamba_cache_mode"
        " reasoning_parser_plugin"
        " logits_processor_pattern calculate_kv_scales allow_deprecated_quantization"
        " weight_transfer_config model_loader_extra_config",
        _MOUNTED,
    ),
    "guided_decoding_backend": NoEffect("One library finds the tokens that a grammar allows."),
    "structured_outputs_config": Refused("Give StructuredOutputsParams.", (None, {})),
    **alike("revision code_revision tokenizer_revision", Refused(_HUB)),
    "hf_token": Refused("Set HF_TOKEN in the environment."),
    "download_dir": Refused("Set HF_HUB_CACHE in the environment."),
    "hf_config_path": Refused(_CONFIG),
    "hf_overrides": Honoured(
        "`classifier_from_token`, with what vLLM wants beside it, and nothing else."
    ),
    "rope_scaling": Refused(_CONFIG),
    "rope_theta": Refused(_CONFIG),
    "override_attention_dtype": Refused("Give dtype."),
    "generation_config": Refused(
        "Its defaults hold only where no SamplingParams are given: give them.", (None, "auto")
    ),
    "override_generation_config": Refused("Give SamplingParams.", (None, {})),
    "load_format": Refused(
        "Weights are read from safetensors.", (None, "auto", "hf", "safetensors")
    ),
    "config_format": Refused("Convert the model with transformers.", (None, "auto", "hf")),
    "tokenizer_mode": Refused("Tokenizers are those of transformers.", (None, "auto", "hf")),
    "tokens_only": Refused("Give SamplingParams(detokenize=False).", (None, False)),
    "task": Honoured("`generate`, `embed`, `classify` or `score`; the older name of the two."),
    "runner": Honoured("`pooling`: the model gives vectors, classes or scores; or `generate`."),
    "convert": Honoured("`embed` or `classify`: what a pooling model gives."),
    "pooler_config": Honoured("`PoolerConfig`: LAST or MEAN, `use_activation`, `dimensions`."),
    "override_pooler_config": Honoured("The older name of pooler_config."),
    "io_processor_plugin": Refused("Change prompts before the call."),
    "mm_encoder_only": Refused("Models generate; nothing else is offered.", (None, False)),
    "kv_cache_dtype": Refused("KV is held in the model's number format: dtype.", (None, "auto")),
    "disable_sliding_window": Refused("Lower max_model_len to the model's window.", (None, False)),
    "logprobs_mode": Refused("logprobs are those of the raw logits.", (None, "raw_logprobs")),
    "max_logprobs": Refused("logprobs lists at most 20 tokens.", (None, *range(21))),
    "logits_processors": Refused("logit_bias and penalties change logits.", (None, [])),
    "enable_lora": Honoured("Take `lora_request`; adapters have 1GiB, or lora_memory."),
    "lora_memory": _sets("lora_memory"),
    "lora": Refused("In Python each call names its adapters: lora_request.", ((),)),
    "default_mm_loras": Refused("Merge the adapter into the model's weights.", (None, {})),
    "pipeline_parallel_size": Refused(
        "Give tensor_parallel_size or data_parallel_size.", (None, 1)
    ),
    "kv_transfer_config": Refused("One process reads prompts and answers them."),
    "ec_transfer_config": Refused("One process reads prompts and answers them."),
    "afd_config": Refused("One process reads prompts and answers them."),
    "additional_config": Refused("No platform plugin reads it.", (None, {})),
    "enable_return_routed_experts": Refused("Experts are not reported.", (None, False)),
    "tensor_parallel": Refused(_OF_COMMAND.format("tensor_parallel_size"), ()),
    "devices": Refused(_OF_COMMAND.format("data_parallel_size"), ()),
    "memory_fraction": Refused(_OF_COMMAND.format("gpu_memory_utilization"), ()),
    "token_budget": Refused(_OF_COMMAND.format("max_num_batched_tokens"), ()),
    "pooling_type": Refused(_OF_COMMAND.format("pooler_config"), ()),
}
"""What becomes of each keyword of `LLM`."""

CALL_OPTIONS: dict[str, Fate] = {
    "prompts": Honoured("`generate`: texts, token ids, `{'prompt': ..}`, columns; one or many."),
    "messages": Honoured("`chat`: a conversation or several, of `{'role', 'content'}`."),
    "sampling_params": Honoured("One for all, or one for each; None: the model's own."),
    "use_tqdm": Honoured("Show progress on standard error."),
    "chat_template": Honoured("`chat`: the template's text, for this call."),
    "chat_template_kwargs": Honoured("`chat`: passed to the template."),
    "add_generation_prompt": Honoured("`chat`: end with the beginning of an answer."),
    "continue_final_message": Honoured("`chat`: end within the last message."),
    "tools": Honoured("`chat`: JSON schemas for the template; answers are plain text."),
    "chat_template_content_format": Refused(
        "The form that the template reads is found out.", (None, "auto")
    ),
    "priority": NoEffect("All prompts of a call are planned together."),
    "mm_processor_kwargs": _MEDIA,
    "lora_request": Honoured("A `LoRARequest` for all, or one or None for each."),
    "prompt_adapter_request": Refused("Merge the adapter into the model's weights."),
    "tokenization_kwargs": Refused("Tokenise before the call, and give token ids.", (None, {})),
    "prompt_token_ids": Refused("Give them as prompts."),
    "guided_options_request": Refused("Give SamplingParams(structured_outputs=...)."),
}
"""What becomes of each argument of `generate` and `chat`."""


POOLING_CALL_OPTIONS: dict[str, Fate] = {
    "prompts": Honoured("`embed`, `classify`, `encode`: as for `generate`."),
    "data_1": Honoured("`score`: the queries, one for all documents or one for each."),
    "data_2": Honoured("`score`: the documents."),
    "pooling_params": Honoured("One for all prompts, or one for each."),
    "pooling_task": Honoured("`encode`: `embed` or `classify`."),
    "chat_template": Honoured("`score`: how a pair is written."),
    "use_tqdm": Honoured("Show progress on standard error."),
    "lora_request": Refused("Merge the adapter into the model's weights."),
    "tokenization_kwargs": CALL_OPTIONS["tokenization_kwargs"],
    "truncate_prompt_tokens": Refused("Cut prompts before the call."),
}
"""What becomes of each argument of `embed`, `classify`, `score` and `encode`."""


def engine_options(given: Mapping[str, Any]) -> EngineOptions:
    """The engine's options from keywords of `LLM`.

    Raises:
        OptionError: an unknown name, one that is refused, or a wrong value.
    """
    check(given, LLM_OPTIONS, "LLM")
    values: dict[str, Any] = {}
    names: dict[str, str] = {}
    for name, value in given.items():
        fate = LLM_OPTIONS[name]
        if not isinstance(fate, Honoured) or fate.option is None or value is None:
            continue
        if fate.option in values:
            raise OptionError(f"{name} and {names[fate.option]} are one thing: give one of them.")
        values[fate.option], names[fate.option] = _translated(name, value), name
    if given.get("enable_lora"):
        values.setdefault("lora_memory", DEFAULT_LORA_MEMORY)
    try:
        return EngineOptions.create(**values)
    except OptionError as error:
        message = str(error)
        for option, name in names.items():
            message = re.sub(rf"\b{option}\b", name, message)
        raise OptionError(message) from None


def check(given: Mapping[str, Any], fates: Mapping[str, Fate], where: str) -> None:
    """Refuse what is not honoured, and note what has no effect.

    Raises:
        OptionError: names it, and what to use instead.
    """
    for name, value in given.items():
        if name not in fates:
            near = difflib.get_close_matches(name, fates, 1)
            known = near or [n for n, fate in fates.items() if isinstance(fate, Honoured)]
            raise OptionError(
                f"{where} knows no option {name!r}; {'perhaps' if near else 'there are'} "
                f"{', '.join(known)}."
            )
        fate = fates[name]
        if isinstance(fate, Refused) and fate.refuses(value):
            raise OptionError(f"{name}={str(value)[:80]} is not supported. {fate.instead}")
    note_without_effect(given, fates)


def _translated(name: str, value: Any) -> Any:
    """A value as our option takes it."""
    if name == "dtype":
        text = str(value).removeprefix("torch.")
        return {"half": "float16", "float": "float32"}.get(text, text)
    if name == "kv_cache_memory_bytes":
        return str(value)
    return value
