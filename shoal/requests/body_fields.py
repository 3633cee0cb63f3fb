"""The fields of a request line and of its body, and what becomes of each.

Null means absent. A field with a value that asks for nothing runs, whatever client wrote it.
"""

from __future__ import annotations

from shoal.fates import Fate, Honoured, NoEffect, Refused, alike
from shoal.requests.pooled_fields import POOLED_FIELDS
from shoal.types import CHAT_URL, COMPLETIONS_URL, RESPONSES_URL

_BOOKS = NoEffect("A note of whoever asks.", kind=str)
_CACHED = "What is shared is found in all requests of the file."
_TEXT = Refused("Answers are text, and nothing but messages is read.")
_GUIDED = 'vLLM took the name away: give structured_outputs, for example {"json": ...}.'
_OLD = "Give tools and tool_choice, which took its place."
_ONE_SHAPE = Refused("Records have OpenAI's shape: ask for logprobs.", (None, False))
_NO_BEAMS = "There is no beam search; sample n choices instead."
_CLIENTS = Refused("It is an argument of the client, not of the request; remove it.", (None, {}))
_CHATS = "It is for /v1/chat/completions."
_NO_TOOLS_HERE = "No tool is called here: describe tools in a message."
_NOTHING_KEPT = Refused("Nothing is kept between requests: repeat what was said as items of input.")
_PLUGINS = Refused("No plugin reads it; remove it.", (None, {}))

LINE_FIELDS: dict[str, Fate] = {
    "custom_id": Honoured("Each line's own; its records carry it."),
    "method": Honoured('`"POST"`'),
    "url": Honoured(
        "`/v1/chat/completions`, `/v1/completions`, `/v1/responses`, `/v1/embeddings`, `/v1/score`,"
        " `/v1/rerank` or `/v1/classify`; `/v1` may be left out, a `/` may follow."
    ),
    "body": Honoured("The request."),
    "id": NoEffect("A note; records carry custom_id."),
    "metadata": NoEffect("A note; records carry custom_id."),
}
"""Of a line of the file."""

_BOTH: dict[str, Fate] = {
    "model": Honoured(
        "The model that runs: its id, its folder's name, a served name; or an adapter's."
    ),
    "max_tokens": Honoured("Most tokens of an answer."),
    "temperature": Honoured("From 0 to 2; 0 is greedy."),
    "top_p": Honoured("Above 0, at most 1."),
    "top_k": Honoured("0 or -1: all tokens."),
    "min_p": Honoured("From 0 to 1."),
    "n": Honoured("Choices, each drawn independently."),
    "seed": Honoured("Makes the draws of this request repeat."),
    "stop": Honoured("A string or several that end an answer."),
    "stop_token_ids": Honoured("Tokens that end an answer."),
    "include_stop_str_in_output": Honoured("Show what stopped an answer."),
    "frequency_penalty": Honoured("From -2 to 2."),
    "presence_penalty": Honoured("From -2 to 2."),
    "repetition_penalty": Honoured("Above 0, at most 10."),
    "logit_bias": Honoured("`{token id: bias}`, each from -100 to 100."),
    "min_tokens": Honoured("No end and no stop before this many tokens."),
    "ignore_eos": Honoured("Go on after the end of sequence."),
    "skip_special_tokens": Honoured("Leave them out of texts."),
    "user": _BOOKS,
    "safety_identifier": _BOOKS,
    "request_id": _BOOKS,
    "metadata": NoEffect("A note of whoever asks.", kind=dict),
    "store": NoEffect("Answers are in the output file, and nowhere else.", kind=bool),
    "service_tier": NoEffect("There is one tier.", kind=str),
    "priority": NoEffect("All requests of the file are planned together.", kind=int),
    **alike("prompt_cache_key prompt_cache_retention cache_salt", NoEffect(_CACHED, kind=str)),
    "prompt_cache_options": NoEffect(_CACHED, kind=dict),
    "prediction": NoEffect("It would only save time.", kind=dict),
    "truncation_side": NoEffect("Nothing is truncated.", kind=str),
    "stream": Refused("A batch cannot stream; remove it or set it to false.", (False,), kind=bool),
    "stream_options": Refused("A batch cannot stream; remove it.", (None, {})),
    "response_format": Honoured(
        "What an answer must look like: `text`, `json_object` or `json_schema`.", kind=dict
    ),
    "structured_outputs": Honoured(
        "The same in vLLM's words: `json`, `regex`, `choice`, `grammar` or `json_object`.",
        kind=dict,
    ),
    "score_choices": Honoured(
        "Texts to score; the most probable one is the answer. See [answers.md](answers.md)."
    ),
    **alike("guided_json guided_regex guided_choice guided_grammar", Refused(_GUIDED)),
    "guided_whitespace_pattern": Refused(_GUIDED),
    "guided_decoding_backend": NoEffect("One library finds the tokens that a grammar allows."),
    "functions": Refused(_OLD, (None, [])),
    "function_call": Refused(_OLD, (None, "none", "auto")),
    "web_search_options": Refused("Nothing is searched: put what is needed into the prompt."),
    "modalities": Refused(_TEXT.instead, (None, ["text"])),
    "audio": _TEXT,
    "documents": Refused(_TEXT.instead, (None, [])),
    "prompt_embeds": _TEXT,
    **alike("media_io_kwargs mm_processor_kwargs", Refused(_TEXT.instead, (None, {}))),
    "moderation": Refused("Moderate prompts before the job, and answers after it."),
    "best_of": Refused("Ask for n choices, and choose among them.", (None, 1)),
    "suffix": Refused("Write it into the prompt, as the model was trained to read it.", (None, "")),
    "use_beam_search": Refused(_NO_BEAMS, (None, False)),
    "early_stopping": Refused(_NO_BEAMS, (None, False)),
    "length_penalty": Refused(_NO_BEAMS, (None, 1)),
    "allowed_token_ids": Refused("Favour tokens with logit_bias."),
    "bad_words": Refused("Give single tokens a logit_bias of -100.", (None, [])),
    "logits_processors": Refused("logit_bias and penalties change logits.", (None, [])),
    "prompt_logprobs": Refused("Ask for echo with logprobs on /v1/completions."),
    "logprob_token_ids": Honoured(
        "List the logprobs of these tokens, at most 128, not of the likeliest; needs `logprobs`."
    ),
    "truncate_prompt_tokens": Refused("Cut prompts before the job."),
    "thinking_token_budget": Refused("Lower max_tokens.", (None, -1)),
    "repetition_detection": Refused("Lower max_tokens, or penalise repetition."),
    "spaces_between_special_tokens": Refused("Leave special tokens out of texts.", (None, True)),
    "chat_template": Refused("Change the template in the model's folder."),
    **alike(
        "return_token_ids return_tokens_as_token_ids return_token_offsets return_prompt_text"
        " return_assistant_tokens_mask",
        _ONE_SHAPE,
    ),
    **alike("vllm_xargs kv_transfer_params ec_transfer_params", _PLUGINS),
    "extra_body": Refused("Put its fields into body itself.", (None, {})),
    **alike("extra_headers extra_query timeout", _CLIENTS),
}

BODY_FIELDS: dict[str, dict[str, Fate]] = {
    CHAT_URL: {
        "messages": Honoured("The conversation."),
        **_BOTH,
        "max_completion_tokens": Honoured("The newer name of max_tokens; of both, it wins."),
        "logprobs": Honoured("Whether logprobs are listed."),
        "top_logprobs": Honoured("Likeliest tokens listed per token, 0 to 20; needs logprobs."),
        "chat_template_kwargs": Honoured("Given to the template.", kind=dict),
        "add_generation_prompt": Honoured(
            "End the prompt with the beginning of an answer.", kind=bool
        ),
        "continue_final_message": Honoured(
            "End the prompt within the last message, which the answer continues.", kind=bool
        ),
        "reasoning_effort": Honoured(
            "Given to the template, and with it whether to think: `enable_thinking`.", kind=str
        ),
        "verbosity": Honoured("Given to the template.", kind=str),
        "include_reasoning": Honoured("False leaves it out of the record.", kind=bool),
        "tools": Honoured("Functions that an answer may call.", kind=list),
        "tool_choice": Honoured('`"auto"`, `"none"`, `"required"` or a function by its name.'),
        "parallel_tool_calls": Honoured("False: an answer calls one function at most.", kind=bool),
        "echo": Refused("Join what was said and the answer yourself.", (None, False)),
        "prompt_logprob_start": Refused("Ask for echo with logprobs on /v1/completions."),
        "add_special_tokens": Refused("The template writes them.", (None, False)),
        "prompt": Refused("It is for /v1/completions; give messages."),
    },
    COMPLETIONS_URL: {
        "prompt": Honoured("A string, several, token ids, or several lists of them."),
        **_BOTH,
        "logprobs": Honoured("Likeliest tokens listed per token, 0 to 20."),
        "echo": Honoured("Put the prompt before the answer."),
        "prompt_logprob_start": Honoured(
            "With echo and logprobs: the first prompt token that has them, from 0."
        ),
        "top_logprobs": Refused("Here logprobs is the number.", (None, 0)),
        "max_completion_tokens": Refused("Here its name is max_tokens."),
        "add_special_tokens": Refused("Give token ids as the prompt.", (None, True)),
        "messages": Refused("It is for /v1/chat/completions; give a prompt."),
        **alike(
            "chat_template_kwargs add_generation_prompt continue_final_message reasoning_effort"
            " verbosity",
            Refused(_CHATS),
        ),
        "tools": Refused(_CHATS, (None, [])),
        "tool_choice": Refused(_CHATS, (None, "none", "auto")),
        "parallel_tool_calls": NoEffect("No tool is called.", kind=bool),
        "include_reasoning": Refused("An answer is the model's whole text.", (None, True)),
    },
    RESPONSES_URL: {
        "input": Honoured("A string, or items: messages of text, earlier answers among them."),
        "instructions": Honoured("A system message before them.", kind=str),
        **_BOTH,
        **alike("score_choices logprob_token_ids", Refused(_CHATS)),
        "max_output_tokens": Honoured("Most tokens of an answer."),
        "text": Honoured(
            "Its `format`: what an answer must look like. Its `verbosity` goes to the template.",
            kind=dict,
        ),
        "include": Honoured('`["message.output_text.logprobs"]` lists logprobs.'),
        "top_logprobs": Honoured("Likeliest tokens listed per token, 0 to 20; needs include."),
        "reasoning": Honoured(
            "Its `effort` goes to the template, as `reasoning_effort` of a chat does.", kind=dict
        ),
        "chat_template_kwargs": Honoured("Given to the template.", kind=dict),
        "metadata": Honoured("A note, which the response repeats.", kind=dict),
        "max_tool_calls": NoEffect("No tool is called.", kind=int),
        "parallel_tool_calls": NoEffect("No tool is called.", kind=bool),
        "tools": Refused(_NO_TOOLS_HERE, (None, [])),
        "tool_choice": Refused(_NO_TOOLS_HERE, (None, "none", "auto")),
        **alike("functions function_call", Refused(_CHATS)),
        **alike("previous_response_id conversation", _NOTHING_KEPT),
        "prompt": Refused("No prompt is stored: write it into instructions and input."),
        "background": Refused("A batch is no background job; remove it.", (None, False)),
        "background_options": Refused("A batch is no background job; remove it.", (None, {})),
        "truncation": Refused("Cut inputs before the job.", (None, "disabled")),
        "context_management": Refused("Cut inputs before the job.", (None, [])),
        "image": _TEXT,
        "access_programs": Refused("It is for OpenAI's own models; remove it."),
        "n": Refused("A response is one answer: repeat the line under other names.", (None, 1)),
        "max_tokens": Refused("Here its name is max_output_tokens."),
        "max_completion_tokens": Refused("Here its name is max_output_tokens."),
        "messages": Refused("Here its name is input."),
        "response_format": Refused("Here its name is text.format."),
        "logprobs": Refused("Here include asks for them.", (None, False)),
        "reasoning_effort": Refused("Here its name is reasoning.effort."),
        "verbosity": Refused("Here its name is text.verbosity."),
        **alike("add_generation_prompt continue_final_message", Refused(_CHATS)),
        "echo": Refused("Join what was said and the answer yourself.", (None, False)),
        "add_special_tokens": Refused("The template writes them.", (None, False)),
    },
    **POOLED_FIELDS,
}
"""Of `body`, by endpoint."""


def endpoint(url: object) -> str | None:
    """The endpoint that a line's `url` names, or None: Azure leaves `/v1` out, a `/` may follow."""
    if not isinstance(url, str):
        return None
    path = url.removesuffix("/").replace("/v2/rerank", "/v1/rerank")
    path = path if path.startswith("/v1/") else f"/v1{path}"
    return path if path in BODY_FIELDS else None
