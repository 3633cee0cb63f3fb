"""From logits to tokens, on the host and on a device."""
