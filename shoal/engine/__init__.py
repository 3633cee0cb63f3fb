"""The loop: a plan goes in, batches of tokens run through the model, completions come out."""
