"""The body fields of requests that generate nothing, and what becomes of each."""

from __future__ import annotations

from shoal.fates import Fate, Honoured, NoEffect, Refused, alike
from shoal.types import CLASSIFY_URL, EMBEDDINGS_URL, RERANK_URL, SCORE_URL

_CUT = Refused("Cut texts before the job.", (None, 0))
_ONE_FORM = "Numbers are float32, the lowest byte first."

_ALL: dict[str, Fate] = {
    "model": Honoured("The model that runs: its id, its folder's name or a served name."),
    **alike("user request_id", NoEffect("A note of whoever asks.", kind=str)),
    "priority": NoEffect("All requests of the file are planned together.", kind=int),
    "cache_salt": NoEffect("What is shared is found in all requests of the file.", kind=str),
    "truncation_side": NoEffect("Nothing is truncated.", kind=str),
    "truncate_prompt_tokens": Refused("Cut texts before the job."),
    "padding": Refused("Texts are not padded.", (None, "do_not_pad")),
    **alike("mm_processor_kwargs media_io_kwargs", Refused("Texts are read, alone.", (None, {}))),
    "normalize": Refused("Its name is use_activation."),
    "extra_body": Refused("Put its fields into body itself.", (None, {})),
    **alike(
        "extra_headers extra_query timeout",
        Refused("It is an argument of the client, not of the request; remove it.", (None, {})),
    ),
}
_INPUT: dict[str, Fate] = {
    "input": Honoured("A string, several, token ids, or several lists of them."),
    "add_special_tokens": Refused("Give token ids as the input.", (None, True)),
    "messages": Refused("Write the conversation as a text, and give it as input."),
    **alike(
        "chat_template chat_template_kwargs add_generation_prompt continue_final_message",
        Refused("Texts are read as they are."),
    ),
}
_PAIRS: dict[str, Fate] = {
    "instruction": Honoured("Given to the template that writes a pair.", kind=str),
    "chat_template_kwargs": Honoured("The same for any name; it wins over instruction.", kind=dict),
    **alike("max_tokens_per_query max_tokens_per_doc", _CUT),
    "use_activation": Honoured("False: scores are not made probabilities.", kind=bool),
}

POOLED_FIELDS: dict[str, dict[str, Fate]] = {
    EMBEDDINGS_URL: {
        **_INPUT,
        **_ALL,
        "dimensions": Honoured("Numbers of each vector that are kept."),
        "encoding_format": Honoured("`float` or `base64`.", kind=str),
        "use_activation": Honoured("Whether vectors get length 1.", kind=bool),
        "embed_dtype": Refused(_ONE_FORM, (None, "float32")),
        "endianness": Refused(_ONE_FORM, (None, "native", "little")),
    },
    SCORE_URL: {
        "queries": Honoured("A text, or one for each document."),
        "documents": Honoured("A text, or several."),
        **alike("text_1 data_1", Honoured("Another name of queries.")),
        **alike("text_2 data_2 items", Honoured("Another name of documents.")),
        **_ALL,
        **_PAIRS,
    },
    RERANK_URL: {
        "query": Honoured("A text."),
        "documents": Honoured("A text, or several."),
        "top_n": Honoured("How many documents are listed; 0: all."),
        "return_documents": Refused("A record always has them.", (None, True)),
        **_ALL,
        **_PAIRS,
    },
    CLASSIFY_URL: {
        **_INPUT,
        **_ALL,
        "use_activation": Honoured("False: logits in the place of probabilities.", kind=bool),
    },
}
"""Of `body`, by endpoint."""
