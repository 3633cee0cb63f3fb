"""A model on a machine: what it costs there, the token budget, and the memory for KV."""
