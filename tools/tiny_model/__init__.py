"""Synthetic support-desk task behind the bundled model: data, tokenizer, training, examples."""
