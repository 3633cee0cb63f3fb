"""From prompts to a `RequestTable`: messages, templates, token ids, length limits.

What the batch file reader and the Python API share.
"""
