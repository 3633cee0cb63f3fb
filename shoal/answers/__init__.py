"""From token ids to an answer: text, and the stop strings in it."""
