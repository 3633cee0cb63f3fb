"""Turns token batches into sampled tokens: forward, sampling, scores of prompts."""
