"""Baseline schedulers, driving the same executor as Shoal's: what vLLM and SGLang do, measured.

`fcfs-lru` takes requests as they come, `sorted-lru` in the order of their token ids; both reuse
prefixes through a hash index of KV blocks and forget the least recently used. Attention is per
request: what blocks have in common is stored once, and read once per request.

The rules are those vLLM documents for its v1 engine (docs.vllm.ai, "Automatic Prefix Caching" in
the design documents, and its scheduler's description), implemented anew.
"""
