import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.answers.detokenize import NO_CONTEXT, Detokenizer
from shoal.answers.stops import StopSearch, find_stop
from tests.helpers.toy_logits import TEXT, byte_level, sentencepiece_like, word_piece

TOKENIZERS = {
    "byte-level": byte_level(),
    "bytes only": byte_level(vocab_size=258),
    "sentencepiece": sentencepiece_like(),
    "wordpiece": word_piece(),
}
DETOKENIZERS = {name: Detokenizer(tokenizer) for name, tokenizer in TOKENIZERS.items()}


def watch(name, ids, stops, min_tokens=0, skip=True, prompt=()):
    """(tokens, begin, end) at the first stop, or None; and the longest window decoded."""
    detokenizer = DETOKENIZERS[name]
    context = detokenizer.context(prompt, skip) if prompt else NO_CONTEXT
    search = StopSearch(stops, min_tokens, skip, context)
    longest = 0
    for count in range(1, len(ids) + 1):
        window, before = search.window(ids[:count])
        longest = max(longest, len(window))
        found = search.advance(ids[:count], detokenizer.text(window, skip, before), detokenizer)
        if found:
            return (count, *found), longest
    return None, longest


def decode_everything(name, ids, stops, min_tokens=0, skip=True):
    """What `watch` should say: decode all tokens at each step, look for every stop everywhere."""
    tokenizer = TOKENIZERS[name]
    settled = len(tokenizer.decode(ids[:min_tokens], skip_special_tokens=skip).rstrip("\ufffd"))
    for count in range(min_tokens + 1, len(ids) + 1):
        text = tokenizer.decode(ids[:count], skip_special_tokens=skip)
        found = [
            (begin, begin + len(stop))
            for stop in stops
            for begin in range(len(text))
            if text.startswith(stop, begin) and begin + len(stop) > settled
        ]
        if found:
            return (count, *min(found))
    return None


def token_lists(name):
    """Random tokens, and tokens of real text, mixed: broken characters and whole ones."""
    tokenizer = TOKENIZERS[name]
    words = [tokenizer(word, add_special_tokens=False).input_ids for word in TEXT.split(" ")]
    words = [word for word in words if word]
    anything = st.integers(0, len(tokenizer) - 1).map(lambda token: [token])
    parts = st.lists(st.one_of(st.sampled_from(words), anything), min_size=1, max_size=60)
    return parts.map(lambda lists: [token for part in lists for token in part])


@pytest.mark.long
@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=120, deadline=None)
@given(data=st.data(), skip=st.booleans(), min_tokens=st.integers(0, 12))
def test_stops_are_found_as_if_everything_were_decoded(name, data, skip, min_tokens):
    ids = data.draw(token_lists(name))
    text = TOKENIZERS[name].decode(ids, skip_special_tokens=skip)
    pieces = st.tuples(st.integers(0, len(text)), st.integers(1, 12))
    cut = pieces.map(lambda at: text[at[0] : at[0] + at[1]].strip("\ufffd"))
    known = st.sampled_from(["stop", "🐠", "d.", "n't", "\n", "🐟 s"])
    stops = data.draw(st.lists(st.one_of(cut.filter(bool), known), min_size=1, max_size=3))
    expected = decode_everything(name, ids, stops, min_tokens, skip)
    assert watch(name, ids, stops, min_tokens, skip)[0] == expected


@pytest.mark.parametrize("name", ["byte-level", "sentencepiece"])
def test_a_stop_after_a_long_run_of_bytes(name):
    text = "🐟" * 60 + "🐠stop"
    tokenizer = TOKENIZERS[name]
    if name == "sentencepiece":
        ids = tokenizer.convert_tokens_to_ids([f"<0x{byte:02X}>" for byte in text.encode()])
    else:
        ids = tokenizer(text).input_ids
    (count, begin, end), _ = watch(name, ids, ["🐠s"])
    assert (begin, end) == (60, 62)
    assert count == decode_everything(name, ids, ["🐠s"])[0]


@pytest.mark.parametrize(
    "ids",
    [
        pytest.param(TOKENIZERS["byte-level"](TEXT * 3).input_ids, id="text"),
        pytest.param([TOKENIZERS["byte-level"].convert_tokens_to_ids("ð")] * 600, id="broken"),
    ],
)
def test_only_a_short_window_is_decoded(ids):
    found, longest = watch("byte-level", ids, ["nowhere"])
    assert found is None
    assert len(ids) > 400
    assert longest < 80


def test_the_earliest_wins_then_the_shortest():
    assert find_stop("abcd", ["cd", "bc"]) == (1, 3)
    assert find_stop("abcd", ["bcd", "bc"]) == (1, 3)
    assert find_stop("abcd", ["x"]) is None


def test_occurrences_completed_too_early_do_not_count():
    assert find_stop("stop stop", ["stop"], after=4) == (5, 9)
    assert find_stop("stop stop", ["stop"], after=3) == (0, 4)
    assert find_stop("stop stop", ["stop"], after=9) is None
