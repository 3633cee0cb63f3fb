"""The C interface of csrc/shoal_kernels.h in ctypes: one class per struct, in its field order."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_float, c_int32, c_int64, c_void_p

import torch

BLOCK = 32
"""Tokens of a block of the KV pool."""

DTYPES = {torch.float32: 0, torch.bfloat16: 1}
"""Number formats the kernels know, as they call them."""


class Store(ctypes.Structure):
    """`ShoalStore`."""

    _fields_ = [
        ("dtype", c_int32),
        ("kv_heads", c_int32),
        ("key_dim", c_int32),
        ("value_dim", c_int32),
        ("rows", c_int64),
        ("slots", c_void_p),
        ("key", c_void_p),
        ("value", c_void_p),
        ("key_head", c_int64),
        ("key_row", c_int64),
        ("value_head", c_int64),
        ("value_row", c_int64),
        ("keys", c_void_p),
        ("values", c_void_p),
        ("keys_head", c_int64),
        ("values_head", c_int64),
        ("threads", c_int32),
    ]


class AttentionItems(ctypes.Structure):
    """`ShoalWork`: the items of a `SegmentWork`, by the addresses of its columns."""

    _fields_ = [
        ("rows", c_int64),
        ("items", c_int64),
        ("row_first", c_void_p),
        ("row_last", c_void_p),
        ("kv_tokens", c_void_p),
        ("starts", c_void_p),
        ("causal", c_void_p),
        ("block_offsets", c_void_p),
        ("blocks", c_void_p),
        ("positions", c_void_p),
    ]


class Shape(ctypes.Structure):
    """`ShoalShape`."""

    _fields_ = [
        ("dtype", c_int32),
        ("isa", c_int32),
        ("heads", c_int32),
        ("kv_heads", c_int32),
        ("key_dim", c_int32),
        ("value_dim", c_int32),
        ("threads", c_int32),
        ("window", c_int32),
    ]


class Attention(ctypes.Structure):
    """`ShoalAttention`."""

    _fields_ = [
        ("query", c_void_p),
        ("query_head", c_int64),
        ("query_row", c_int64),
        ("keys", c_void_p),
        ("values", c_void_p),
        ("keys_head", c_int64),
        ("values_head", c_int64),
        ("scale", c_float),
        ("softcap", c_float),
        ("sinks", c_void_p),
        ("out", c_void_p),
        ("out_dtype", c_int32),
        ("lse", c_void_p),
    ]


class Sample(ctypes.Structure):
    """`ShoalSample`."""

    _fields_ = [
        ("dtype", c_int32),
        ("isa", c_int32),
        ("threads", c_int32),
        ("rows", c_int64),
        ("vocab", c_int64),
        ("logits", c_void_p),
        ("temperature", c_void_p),
        ("min_p", c_void_p),
        ("top_k", c_void_p),
        ("top_p", c_void_p),
        ("uniform", c_void_p),
        ("allowed", c_void_p),
        ("tokens", c_void_p),
    ]


class Logprobs(ctypes.Structure):
    """`ShoalLogprobs`."""

    _fields_ = [
        ("dtype", c_int32),
        ("isa", c_int32),
        ("threads", c_int32),
        ("rows", c_int64),
        ("vocab", c_int64),
        ("logits", c_void_p),
        ("offsets", c_void_p),
        ("targets", c_void_p),
        ("nums", c_void_p),
        ("most", c_int64),
        ("logprob", c_void_p),
        ("rank", c_void_p),
        ("best", c_void_p),
        ("best_logprob", c_void_p),
        ("normalizer", c_void_p),
    ]


class RmsNorm(ctypes.Structure):
    """`ShoalRmsNorm`."""

    _fields_ = [
        ("dtype", c_int32),
        ("isa", c_int32),
        ("threads", c_int32),
        ("rows", c_int64),
        ("width", c_int64),
        ("x", c_void_p),
        ("x_row", c_int64),
        ("weight", c_void_p),
        ("offset", c_float),
        ("eps", c_float),
        ("out", c_void_p),
    ]


class Gated(ctypes.Structure):
    """`ShoalGated`."""

    _fields_ = [
        ("dtype", c_int32),
        ("isa", c_int32),
        ("threads", c_int32),
        ("activation", c_int32),
        ("rows", c_int64),
        ("width", c_int64),
        ("input", c_void_p),
        ("input_row", c_int64),
        ("out", c_void_p),
    ]


class Quantize(ctypes.Structure):
    """`ShoalQuantize`."""

    _fields_ = [
        ("dtype", c_int32),
        ("isa", c_int32),
        ("threads", c_int32),
        ("rows", c_int64),
        ("width", c_int64),
        ("x", c_void_p),
        ("x_row", c_int64),
        ("out", c_void_p),
        ("scales", c_void_p),
    ]


class Rotary(ctypes.Structure):
    """`ShoalRotary`."""

    _fields_ = [
        ("dtype", c_int32),
        ("isa", c_int32),
        ("threads", c_int32),
        ("heads", c_int32),
        ("kv_heads", c_int32),
        ("key_dim", c_int32),
        ("value_dim", c_int32),
        ("rotary_dim", c_int32),
        ("neighbours", c_int32),
        ("rows", c_int64),
        ("qkv", c_void_p),
        ("qkv_row", c_int64),
        ("wide", c_void_p),
        ("cos", c_void_p),
        ("sin", c_void_p),
        ("angle_row", c_int64),
        ("query_norm", c_void_p),
        ("key_norm", c_void_p),
        ("offset", c_float),
        ("eps", c_float),
        ("slots", c_void_p),
        ("keys", c_void_p),
        ("values", c_void_p),
        ("keys_head", c_int64),
        ("values_head", c_int64),
    ]


class Lora(ctypes.Structure):
    """`ShoalLora`."""

    _fields_ = [
        ("dtype", c_int32),
        ("out_dtype", c_int32),
        ("isa", c_int32),
        ("threads", c_int32),
        ("rows", c_int64),
        ("inputs", c_int64),
        ("first_row", c_int64),
        ("x", c_void_p),
        ("x_row", c_int64),
        ("out", c_void_p),
        ("out_row", c_int64),
        ("slices", c_int64),
        ("begin", c_void_p),
        ("end", c_void_p),
        ("adapter", c_void_p),
        ("linears", c_int64),
        ("columns", c_void_p),
        ("outputs", c_void_p),
        ("matrices", c_void_p),
        ("adapter_stride", c_int64),
    ]


class StateChunks(ctypes.Structure):
    """`ShoalChunks`."""

    _fields_ = [
        ("chunks", c_int64),
        ("levels", c_int64),
        ("row_first", c_void_p),
        ("source", c_void_p),
        ("target", c_void_p),
        ("order", c_void_p),
        ("level_first", c_void_p),
    ]


class DeltaRule(ctypes.Structure):
    """`ShoalDeltaRule`."""

    _fields_ = [
        ("dtype", c_int32),
        ("isa", c_int32),
        ("threads", c_int32),
        ("heads", c_int32),
        ("key_heads", c_int32),
        ("key_dim", c_int32),
        ("value_dim", c_int32),
        ("normalize", c_int32),
        ("keep_dim", c_int32),
        ("chunks", c_void_p),
        ("query", c_void_p),
        ("key", c_void_p),
        ("value", c_void_p),
        ("query_row", c_int64),
        ("key_row", c_int64),
        ("value_row", c_int64),
        ("keep", c_void_p),
        ("beta", c_void_p),
        ("states", c_void_p),
        ("out", c_void_p),
    ]


class StateSpace(ctypes.Structure):
    """`ShoalStateSpace`."""

    _fields_ = [
        ("dtype", c_int32),
        ("isa", c_int32),
        ("threads", c_int32),
        ("heads", c_int32),
        ("groups", c_int32),
        ("dim", c_int32),
        ("state_dim", c_int32),
        ("chunks", c_void_p),
        ("x", c_void_p),
        ("b", c_void_p),
        ("c", c_void_p),
        ("x_row", c_int64),
        ("b_row", c_int64),
        ("c_row", c_int64),
        ("time", c_void_p),
        ("keep", c_void_p),
        ("skip", c_void_p),
        ("states", c_void_p),
        ("out", c_void_p),
    ]


class Convolution(ctypes.Structure):
    """`ShoalConvolution`."""

    _fields_ = [
        ("dtype", c_int32),
        ("isa", c_int32),
        ("threads", c_int32),
        ("activation", c_int32),
        ("earlier", c_int32),
        ("channels", c_int64),
        ("chunks", c_void_p),
        ("x", c_void_p),
        ("x_row", c_int64),
        ("weight", c_void_p),
        ("bias", c_void_p),
        ("states", c_void_p),
        ("out", c_void_p),
    ]


def declare(lib: ctypes.CDLL) -> None:
    """Set the argument and result types of every function."""
    lib.shoal_highest_isa.restype = c_int32
    lib.shoal_fastest_isa.restype = c_int32
    lib.shoal_kv_store.argtypes = [POINTER(Store)]
    lib.shoal_kv_store.restype = None
    lib.shoal_use_huge_pages.argtypes = [c_void_p, c_int64]
    lib.shoal_use_huge_pages.restype = None
    lib.shoal_attention_plan.argtypes = [POINTER(AttentionItems), POINTER(Shape)]
    lib.shoal_attention_plan.restype = c_void_p
    lib.shoal_attention_free.argtypes = [c_void_p]
    lib.shoal_attention_free.restype = None
    lib.shoal_attention_tasks.argtypes = [c_void_p, POINTER(c_int64), POINTER(c_int64)]
    lib.shoal_attention_tasks.restype = None
    lib.shoal_attention_run.argtypes = [c_void_p, POINTER(Attention)]
    lib.shoal_attention_run.restype = None
    lib.shoal_sample.argtypes = [POINTER(Sample)]
    lib.shoal_sample.restype = None
    lib.shoal_logprobs.argtypes = [POINTER(Logprobs)]
    lib.shoal_logprobs.restype = None
    lib.shoal_rms_norm.argtypes = [POINTER(RmsNorm)]
    lib.shoal_rms_norm.restype = None
    lib.shoal_gated.argtypes = [POINTER(Gated)]
    lib.shoal_gated.restype = None
    lib.shoal_quantize.argtypes = [POINTER(Quantize)]
    lib.shoal_quantize.restype = None
    lib.shoal_rotary.argtypes = [POINTER(Rotary)]
    lib.shoal_rotary.restype = None
    lib.shoal_delta_rule.argtypes = [POINTER(DeltaRule)]
    lib.shoal_delta_rule.restype = None
    lib.shoal_state_space.argtypes = [POINTER(StateSpace)]
    lib.shoal_state_space.restype = None
    lib.shoal_convolution.argtypes = [POINTER(Convolution)]
    lib.shoal_convolution.restype = None
    lib.shoal_lora.argtypes = [POINTER(Lora)]
    lib.shoal_lora.restype = None
