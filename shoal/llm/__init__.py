"""The Python API under vLLM's names: `LLM`, `SamplingParams`, `RequestOutput`."""
