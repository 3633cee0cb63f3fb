import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.answers.detokenize import Detokenizer
from shoal.engine.outputs import OutputProcessor
from shoal.errors import InternalError, InvalidRequestError
from shoal.sampling.results import Sampled
from shoal.types import TokenLogprob
from tests.answers.test_stops import decode_everything, token_lists
from tests.helpers.request_tables import one, table
from tests.helpers.toy_logits import byte_level

TOKENIZER = byte_level()
DETOKENIZER = Detokenizer(TOKENIZER)
EOS = 0
ERROR = InvalidRequestError("too long", code="invalid_value")


def encode(text):
    return TOKENIZER(text).input_ids


def processor(*requests):
    return OutputProcessor(table(list(requests)), DETOKENIZER, (EOS,))


def accept(outputs, tokens, logprobs=()):
    """One token per sequence: {sequence: token}."""
    sequences = np.array(list(tokens), dtype=np.int32)
    sampled = Sampled(np.array(list(tokens.values()), dtype=np.int32), logprobs)
    return outputs.accept(sequences, sampled).tolist()


def feed(outputs, ids, sequence=0):
    """How many of the tokens the sequence took before it finished."""
    for count, token in enumerate(ids, start=1):
        if accept(outputs, {sequence: token}) == [True]:
            return count
    return None


def generate(ids, prompt=(5, 6), **params):
    """The one choice of a request that samples these tokens."""
    outputs = processor(one(list(prompt), params.pop("limit", 100), **params))
    outputs.add(0, 0, 0)
    feed(outputs, ids)
    (completion,) = outputs.take()
    assert completion.prompt_tokens == len(prompt)
    return completion.choices[0]


HELLO = encode("naïve 🐟 fish")


def test_end_of_sequence():
    choice = generate([*HELLO, EOS, 9])
    assert choice.text == "naïve 🐟 fish"
    assert choice.token_ids == (*HELLO, EOS)
    assert choice.finish_reason == "stop"
    assert choice.logprobs is None


@pytest.mark.parametrize("stop", [{}, {"stop_token_ids": [EOS]}])
@pytest.mark.parametrize(
    ("skip", "include", "shown"),
    [(True, False, ""), (True, True, ""), (False, False, ""), (False, True, "<eos>")],
)
def test_the_end_of_sequence_is_shown_where_stops_and_special_tokens_are(
    stop, skip, include, shown
):
    choice = generate(
        [*HELLO, EOS], skip_special_tokens=skip, include_stop_str_in_output=include, **stop
    )
    assert choice.text == "naïve 🐟 fish" + shown
    assert choice.token_ids == (*HELLO, EOS)


def test_end_of_sequence_that_the_tokenizer_does_not_call_special():
    ids = encode("fish") + encode("!")
    stopped = [one([5], stop="h!", include_stop_str_in_output=include) for include in (False, True)]
    outputs = OutputProcessor(table([one([5]), *stopped]), DETOKENIZER, encode("!"))
    for request in range(3):
        outputs.add(request, request, 0)
        assert feed(outputs, ids, request) == len(ids)
    texts = [completion.choices[0].text for completion in outputs.take()]
    assert texts == ["fish", "fish", "fish!"]


def test_ignored_end_of_sequence():
    choice = generate([*HELLO, EOS, *HELLO], ignore_eos=True, limit=len(HELLO) + 2)
    assert choice.token_ids == (*HELLO, EOS, HELLO[0])
    assert choice.finish_reason == "length"


def test_length():
    choice = generate(HELLO, limit=2)
    assert choice.token_ids == tuple(HELLO[:2])
    assert choice.text == TOKENIZER.decode(HELLO[:2])
    assert choice.finish_reason == "length"


@pytest.mark.parametrize(("include", "text"), [(False, "abc"), (True, "abcd")])
def test_stop_token(include, text):
    ids = encode("abc") + encode("d") + encode("e")
    choice = generate(ids, stop_token_ids=encode("d"), include_stop_str_in_output=include)
    assert choice.text == text
    assert choice.token_ids == tuple(ids[:-1])
    assert choice.finish_reason == "stop"


def test_end_of_sequence_listed_as_stop_token_is_a_stop_token():
    stop = {"stop_token_ids": [EOS], "skip_special_tokens": False}
    assert generate([*HELLO, EOS], **stop).text == "naïve 🐟 fish"
    assert generate([*HELLO, EOS], ignore_eos=True, **stop).finish_reason == "stop"


@pytest.mark.parametrize(("include", "text"), [(False, "naïve"), (True, "naïve 🐟")])
def test_stop_string_over_several_tokens(include, text):
    choice = generate(HELLO, stop=[" 🐟"], include_stop_str_in_output=include)
    assert choice.text == text
    assert choice.finish_reason == "stop"
    assert TOKENIZER.decode(choice.token_ids) == "naïve 🐟"


def test_stop_string_at_the_limit_and_in_the_end_of_sequence():
    count = len(encode("naïve 🐟"))
    assert generate(HELLO, stop="🐟", limit=count).finish_reason == "stop"
    shown = {"skip_special_tokens": False, "stop": ["<eos>"]}
    assert generate([*HELLO, EOS], **shown).text == "naïve 🐟 fish"


@pytest.mark.parametrize(
    ("ids", "params", "reason"),
    [
        ([*HELLO, EOS], {}, None),
        ([*HELLO, EOS], {"stop_token_ids": [EOS]}, None),
        ([*HELLO, EOS], {"stop_token_ids": [EOS], "ignore_eos": True}, EOS),
        (HELLO, {"stop_token_ids": HELLO[3:4]}, HELLO[3]),
        (HELLO, {"stop": ["fish", " 🐟"]}, " 🐟"),
        (HELLO, {"stop": ["fish", " 🐟"], "include_stop_str_in_output": True}, " 🐟"),
        (HELLO, {"limit": 2}, None),
        (HELLO, {"max_tokens": 0, "echo": True, "limit": 1}, None),
    ],
)
def test_what_stopped_it(ids, params, reason):
    assert generate(ids, **params).stop_reason == reason


@settings(max_examples=60, deadline=None)
@given(token_lists("byte-level"), st.integers(0, 5), st.booleans())
def test_text_is_cut_where_decoding_everything_says(ids, min_tokens, include):
    stops = ["stop", "s", "🐠", "и"]
    found = decode_everything("byte-level", ids, stops, min_tokens, True)
    count, begin, end = found or (len(ids), None, None)
    choice = generate(
        ids,
        stop=stops,
        min_tokens=min_tokens,
        include_stop_str_in_output=include,
        ignore_eos=True,
        limit=len(ids),
    )
    assert choice.token_ids == tuple(ids[:count])
    assert choice.text == DETOKENIZER.text(ids[:count], True)[: end if include else begin]
    assert choice.finish_reason == ("stop" if found else "length")


def test_choices_wait_for_each_other_and_come_in_order():
    outputs = processor(one([5], n=2), one([6]))
    for sequence, (request, choice) in enumerate([(0, 1), (1, 0), (0, 0)], start=4):
        outputs.add(sequence, request, choice)
    assert accept(outputs, {4: 70, 5: 71, 6: 72}) == [False, False, False]
    assert accept(outputs, {4: EOS, 5: 73}) == [True, False]
    assert outputs.take() == []
    assert outputs.generated(5) == [71, 73]
    assert accept(outputs, {6: EOS, 5: EOS}) == [True, True]
    first, second = outputs.take()
    assert (first.request_index, second.request_index) == (0, 1)
    assert [choice.index for choice in first.choices] == [0, 1]
    assert [choice.token_ids for choice in first.choices] == [(72, EOS), (70, EOS)]
    assert first.generated_tokens == 4
    assert outputs.take() == []


def logprob(token):
    return TokenLogprob(token, -0.5, ((token, -0.5),))


def test_logprobs_and_echo():
    outputs = processor(one(encode("fish"), echo=True, logprobs=1, stop=["sh"]), one([6]))
    outputs.add(0, 0, 0)
    outputs.add(1, 1, 0)
    outputs.set_prompt_logprobs(0, [TokenLogprob(1, None)])
    ids = [*encode("sho"), EOS]
    for token in ids:
        entries = (logprob(token), None)
        if accept(outputs, {0: token, 1: 70}, entries)[0]:
            break
    (completion,) = outputs.take()
    choice = completion.choices[0]
    assert choice.text == "fish"
    count = len(choice.token_ids)
    assert choice.logprobs == (TokenLogprob(1, None), *map(logprob, ids[:count]))


def test_echo_of_a_prompt_alone():
    outputs = processor(one(HELLO, 1, echo=True, max_tokens=0), one(HELLO, 1, max_tokens=0))
    outputs.add(0, 0, 0)
    outputs.add(1, 1, 0)
    outputs.complete(np.array([0, 1], dtype=np.int32))
    echoed, silent = (completion.choices[0] for completion in outputs.take())
    assert (echoed.text, echoed.token_ids) == ("naïve 🐟 fish", ())
    assert (silent.text, silent.token_ids) == ("", ())
    assert echoed.finish_reason == silent.finish_reason == "length"


def test_a_prompt_alone_with_logprobs():
    outputs = processor(one([5], 1, echo=True, logprobs=0, max_tokens=0))
    outputs.add(0, 0, 0)
    outputs.set_prompt_logprobs(0, (TokenLogprob(5, None),))
    assert outputs.has_prompt_logprobs(0)
    outputs.complete(np.array([0], dtype=np.int32))
    (completion,) = outputs.take()
    assert completion.choices[0].logprobs == completion.prompt_logprobs
    assert completion.prompt_logprobs == (TokenLogprob(5, None),)


def test_a_failed_request_is_recorded_once_and_drops_its_choices():
    outputs = processor(one([5, 6], n=3), one([7]))
    outputs.add(0, 0, 0)
    outputs.add(1, 0, 1)
    outputs.add(2, 1, 0)
    accept(outputs, {0: EOS, 1: 70, 2: 71})
    outputs.fail(0, ERROR)
    outputs.fail(0, InvalidRequestError("again", code="other"))
    outputs.add(3, 0, 2)
    outputs.set_prompt_logprobs(0, [])
    assert accept(outputs, {1: 70, 2: EOS, 3: 72}) == [True, True, True]
    failed, finished = outputs.take()
    assert (failed.request_index, failed.error, failed.choices) == (0, ERROR, ())
    assert (finished.request_index, finished.error) == (1, None)
    outputs.fail(1, ERROR)
    assert outputs.take() == []


def test_a_request_can_fail_before_it_begins():
    outputs = processor(one([5]))
    outputs.fail(0, ERROR)
    assert outputs.take()[0].error is ERROR


def test_misuse_is_an_internal_error():
    outputs = processor(one([5], echo=True, logprobs=0))
    outputs.add(0, 0, 0)
    with pytest.raises(InternalError, match="already"):
        outputs.add(0, 0, 0)
    with pytest.raises(InternalError, match="sequence 9"):
        accept(outputs, {9: 70})
    with pytest.raises(InternalError, match="sequence 9"):
        outputs.generated(9)
    with pytest.raises(InternalError, match="without"):
        accept(outputs, {0: 70})
    outputs = processor(one([5], echo=True, logprobs=0))
    outputs.add(0, 0, 0)
    with pytest.raises(InternalError, match="prompt logprobs"):
        accept(outputs, {0: EOS}, [logprob(EOS)])
