"""A chat template in the file chat_template.json, where processors of older checkpoints have it.

transformers reads it for a processor, which takes texts and images, and not for a tokenizer alone.
"""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase as Tokenizer

from shoal.errors import ModelLoadError
from shoal.model.model_files import read_object

LEGACY_TEMPLATE = "chat_template.json"


def add_legacy_template(tokenizer: Tokenizer, source: str) -> None:
    """Give a tokenizer that has no template the one beside it, if there is one.

    Raises:
        ModelLoadError: the file is there, and cannot be read or holds no template.
    """
    if tokenizer.chat_template is not None:
        return
    stated = read_object(source, LEGACY_TEMPLATE)
    if stated is None:
        return
    template = stated.get("chat_template")
    if not isinstance(template, str):
        raise ModelLoadError(
            f"{LEGACY_TEMPLATE} of {source!r} holds no template: its field chat_template must be a "
            "text. Copy the file again, or take it away; then requests have to be prompts."
        )
    tokenizer.chat_template = template
