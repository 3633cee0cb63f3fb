"""One model over several devices: tensor parallelism by transformers' own plan."""
