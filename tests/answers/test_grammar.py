"""Grammars over the vocabularies of real tokenizers: only what fits may come, and then the end."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import jsonschema
import numpy as np
import pytest
from llguidance import LLMatcher
from tokenizers import Tokenizer, decoders
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from shoal.answers.detokenize import Detokenizer
from shoal.answers.grammar import GrammarCompiler
from shoal.answers.structure import Structure, of_schema, of_structured_outputs
from shoal.errors import InvalidRequestError
from shoal.model.description import bundled_model_path
from tests.helpers.metaspace import metaspace_tokenizer
from tests.helpers.schemas import SCHEMAS
from tests.helpers.toy_tokenizers import toy

SPARE = 5
"""Ids that a model has beyond its tokenizer's."""
NAMES = ["bundled", "gpt2", "llama", "gemma"]


def tokenizer_of(name: str) -> PreTrainedTokenizerBase:
    if name in ("llama", "gemma"):
        return metaspace_tokenizer(name)
    if name == "bundled":
        return AutoTokenizer.from_pretrained(bundled_model_path())
    backend = Tokenizer.from_str(toy(name).to_str())
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>")


def compiler_of(tokenizer: PreTrainedTokenizerBase) -> GrammarCompiler:
    return GrammarCompiler(tokenizer, len(tokenizer) + SPARE, (tokenizer.eos_token_id,))


def allowed(compiler: GrammarCompiler, matcher: LLMatcher, size: int) -> list[int]:
    masks = compiler.empty_masks(1)
    compiler.fill([(matcher, 0)], masks)
    bits = np.unpackbits(masks.view(np.uint8), bitorder="little")
    assert not bits[size:].any()
    return np.flatnonzero(bits).tolist()


def walk(
    compiler: GrammarCompiler, structure: Structure, size: int, end: int, seed: int
) -> list[int] | None:
    """Tokens of an answer, each drawn among those that may come; None: it got too long."""
    rng = np.random.default_rng(seed)
    matcher = compiler.matcher(structure.grammar)
    tokens: list[int] = []
    while len(tokens) < 300:
        may = allowed(compiler, matcher, size)
        assert (end in may) == matcher.is_accepting()
        token = int(rng.choice(may))
        if token == end:
            return tokens
        compiler.consume([(matcher, token)])
        assert not matcher.is_error()
        tokens.append(token)
    return None


@pytest.mark.parametrize("name", NAMES)
def test_whatever_is_drawn_fits_the_schema(name: str) -> None:
    tokenizer = tokenizer_of(name)
    compiler, detokenizer = compiler_of(tokenizer), Detokenizer(tokenizer)
    size, end = len(tokenizer) + SPARE, tokenizer.eos_token_id
    assert isinstance(end, int)
    ended = 0
    for number, schema in enumerate(SCHEMAS):
        structure = of_schema(schema, "", {"whitespace_pattern": "[ \n]?"})
        for seed in range(8):
            tokens = walk(compiler, structure, size, end, 100 * number + seed)
            if tokens is None:
                continue
            ended += 1
            assert all(token < len(tokenizer) for token in tokens)
            assert not detokenizer.special_tokens.intersection(tokens)
            context = detokenizer.context([tokens[0]], True)
            text = detokenizer.text(tokens, True, context)
            assert text.encode() == b"".join(map(detokenizer.token_bytes, tokens))
            jsonschema.validate(json.loads(text), schema)
    assert ended > 4 * len(SCHEMAS)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("given", "texts", "others"),
    [
        ({"choice": ["yes", "no", 'yes, é\n"/\\ \x7f']}, ["no", 'yes, é\n"/\\ \x7f'], ["y", "x"]),
        ({"choice": ["<s>", "</s>"]}, ["</s>"], ["<"]),
        ({"regex": r"^[a-z]+@\d{2}/$"}, ["ab@12/"], ["ab@1", "@"]),
        ({"regex": "(?i)yes|n.o"}, ["YeS", "nxO"], ["n\no"]),
        ({"grammar": 'start: "a" B+\nB: /[0-9]/ "!"'}, ["a1!2!"], ["a"]),
        ({"grammar": 'root ::= "x" item+\nitem ::= [a-z] "\\n"'}, ["xa\nb\n"], ["x"]),
        ({"grammar": '%llguidance {"no_forcing": false}\nstart: "abc"'}, ["abc"], ["ab"]),
        ({"json_object": True}, ['{"a": [1, {}]}'], ["[]", "{"]),
        ({"json": {}, "disable_any_whitespace": True}, ['{"a":[1,2]}'], ['{"a": 1}']),
    ],
)
def test_each_kind(name: str, given: dict[str, Any], texts: list[str], others: list[str]) -> None:
    tokenizer = tokenizer_of(name)
    compiler, detokenizer = compiler_of(tokenizer), Detokenizer(tokenizer)
    size, end = len(tokenizer) + SPARE, tokenizer.eos_token_id
    structure = of_structured_outputs(given, "x")
    compiler.check(structure.grammar, "x")
    pieces: dict[bytes, int] = {}
    for token in range(size):
        if token not in detokenizer.special_tokens:
            pieces.setdefault(detokenizer.token_bytes(token), token)
    for text in [*texts, *others]:
        matcher = compiler.matcher(structure.grammar)
        for byte in text.encode():
            if pieces[bytes([byte])] not in allowed(compiler, matcher, size):
                assert text in others
                break
            compiler.consume([(matcher, pieces[bytes([byte])])])
        else:
            assert (end in allowed(compiler, matcher, size)) == (text in texts)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"json": {"type": "strng"}}, "Invalid type: strng"),
        ({"json": {"not": {}}}, 'Unimplemented keys: \\["not"\\]'),
        ({"json": {"type": "integer", "minimum": 5, "maximum": 2}}, "Unsatisfiable"),
        ({"json": {"$ref": "#/$defs/x"}}, "does not exist"),
        ({"json": {"type": "string", "format": "poem"}}, "Unknown format"),
        ({"regex": "("}, "unclosed group"),
        ({"regex": "a(?=b)"}, "look-around"),
        ({"regex": r"[^\s\S]"}, "no token of the model's vocabulary"),
        ({"grammar": "start: other"}, "unknown name"),
        ({"grammar": "start: " + "(" * 10**5 + '"a"' + ")" * 10**5}, "nested"),
        ({"json": {"not": {}}, "whitespace_pattern": "("}, "."),
    ],
    ids=str,
)
def test_what_cannot_be_had_is_refused(given: dict[str, Any], message: str) -> None:
    structure = of_structured_outputs(given, "so")
    with pytest.raises(InvalidRequestError, match=message) as caught:
        compiler_of(tokenizer_of("bundled")).check(structure.grammar, structure.param)
    assert caught.value.param == structure.param
    assert str(caught.value).startswith(f"{structure.param}: ")
    assert (caught.value.status_code, caught.value.code) == (400, "invalid_value")


def test_models_without_bytes_or_end_are_refused() -> None:
    grammar = of_schema({}, "").grammar
    pieces = PreTrainedTokenizerFast(tokenizer_object=toy("word-piece"), eos_token="<|end|>")
    with pytest.raises(InvalidRequestError, match="x: the model's tokens cannot be matched"):
        compiler_of(pieces).check(grammar, "x")
    with pytest.raises(InvalidRequestError, match="x: the model has no end of sequence"):
        GrammarCompiler(tokenizer_of("gpt2"), 600, (700,)).check(grammar, "x")
    # This one has no token that could write a brace.
    with pytest.raises(InvalidRequestError, match="no token of the model's vocabulary can begin"):
        compiler_of(metaspace_tokenizer("metaspace-first")).check(
            of_structured_outputs({"json_object": True}, "").grammar, "x"
        )


def test_every_end_of_sequence_ends() -> None:
    tokenizer = tokenizer_of("gpt2")
    ends = tokenizer.convert_tokens_to_ids(["<|end|>", "<|start|>"])
    compiler = GrammarCompiler(tokenizer, len(tokenizer), tuple(ends))
    matcher = compiler.matcher(of_structured_outputs({"choice": ["a"]}, "").grammar)
    assert len(allowed(compiler, matcher, len(tokenizer))) == 1
    compiler.consume([(matcher, tokenizer.convert_tokens_to_ids("a"))])
    assert allowed(compiler, matcher, len(tokenizer)) == sorted(ends)


def test_a_grammar_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = compiler_of(tokenizer_of("bundled"))
    compiled: list[object] = []
    real = LLMatcher

    def counted(*arguments: Any, **options: Any) -> LLMatcher:
        compiled.append(arguments)
        return real(*arguments, **options)

    monkeypatch.setattr("shoal.answers.grammar.LLMatcher", counted)
    grammar = of_schema(SCHEMAS[0], "").grammar
    compiler.check(grammar, "x")
    matchers = [compiler.matcher(grammar) for _ in range(50)]
    assert len(compiled) == 1
    compiler.consume([(matchers[0], allowed(compiler, matchers[0], 10**4)[0])])
    assert len({len(allowed(compiler, matcher, 10**4)) for matcher in matchers[1:]}) == 1


@pytest.mark.long
def test_long_chains_of_rules_do_not_end_the_process() -> None:
    """They would overflow a usual stack, which no handler catches: so in a process of its own."""
    code = """
import json
from tests.answers.test_grammar import *
compiler = compiler_of(tokenizer_of("bundled"))
rules = [f'r{i}: "a" r{i + 1}' for i in range(50_000)]
lark = "\\n".join(["start: r0", *rules, 'r50000: "x"'])
defs = {f"r{i}": {"type": "object", "properties": {"a": {"$ref": f"#/$defs/r{i + 1}"}},
                  "required": ["a"]} for i in range(12_000)}
schema = {"$ref": "#/$defs/r0", "$defs": {**defs, "r12000": {"type": "integer"}}}
for given in ({"grammar": lark}, {"json": schema}):
    structure = of_structured_outputs(given, "x")
    try:
        compiler.check(structure.grammar, "x")
    except InvalidRequestError as error:
        print("refused", str(error)[:80])
    else:
        matcher = compiler.matcher(structure.grammar)
        token = allowed(compiler, matcher, 10**4)[0]
        compiler.consume([(matcher, token)])
        print(len(allowed(compiler, matcher, 10**4)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2
