from __future__ import annotations

from pathlib import Path

import pytest

from shoal.errors import JobError
from shoal.tables.template import Placeholder, Template, read_template

GOOD = 'model = "m"\nprompt = "Say {{ fields }} now"\n'


def read(folder: Path, text: str | bytes) -> Template:
    path = folder / "t.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_template(path)


def test_everything_is_read(tmp_path: Path) -> None:
    template = read(
        tmp_path,
        """
model = "m"
system = "You know {{ topic }}."
prompt = '''A {{ "{{" }} b {{product name}}: {{ fields }}{{ after }}'''
id = "key"
null = "none"
[body]
max_tokens = 3
[fields]
include = ["b", "a"]
format = "<{{ name }}>{{ value }}"
reorder = true
""",
    )
    assert template.system == ("You know ", Placeholder("topic"), ".")
    assert template.before == ("A ", "{{", " b ", Placeholder("product name"), ": ")
    assert template.after == (Placeholder("after"),)
    assert (template.id, template.null, template.body) == ("key", "none", {"max_tokens": 3})
    assert template.fields is not None
    assert template.fields.reorder
    assert template.fields.format == ("<", Placeholder("name"), ">", Placeholder("value"))
    assert template.field_names(["a", "b", "c"]) == ["b", "a"]
    assert template.named() == ["topic", "product name", "after"]


def test_defaults(tmp_path: Path) -> None:
    template = read(tmp_path, 'model = "m"\nid = "i"\nprompt = "{{ a }}{{ fields }}"')
    assert template.url == "/v1/chat/completions"
    assert template.fields is not None
    assert not template.fields.reorder
    assert template.field_names(["i", "a", "c", "b"]) == ["c", "b"], "what nothing else names"
    assert read(tmp_path, 'model = "m"\nprompt = "{{ a }}"').fields is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('prompt = "x"', "'model' is missing"),
        ('model = "m"', "'prompt' is missing"),
        ('model = "m"\nprompt = "a\nb"', "at line 2"),
        (b'model = "m"\n# \xff', "line 2: the template is not UTF-8"),
        (GOOD + "temperature = 1", "line 3: temperature is no key"),
        (GOOD + "[fields]\norder = true", "line 4: order is no key"),
        ('model = 3\nprompt = "x"', "line 1: model must be a string"),
        (GOOD + '[fields]\nreorder = "yes"', "line 4: reorder must be true or false"),
        (GOOD + '[fields]\ninclude = "a"', "include must be an array"),
        (GOOD + "[fields]\ninclude = []", "include must be an array of column names, not empty"),
        (GOOD + '[fields]\ninclude = ["a", "a"]', "names 'a' more than once"),
        (GOOD + '[fields]\nformat = "{{ name }}"', "must hold {{ value }}"),
        (GOOD + '[fields]\nformat = "{{ value }} {{ x }}"', "not x"),
        (GOOD + '[fields]\nreorder = true\nformat = "{{ value }}"', "which field is which"),
        (GOOD + 'url = "/v1/embeddings"', "line 3: url must be"),
        (GOOD + 'url = "/v1/completions"\nsystem = "x"', "line 4: system is for"),
        (GOOD + 'url = "/v1/responses"\nanswer = "x"', "line 4: answer is for"),
        (GOOD + 'answer = ""', "line 3: answer is empty"),
        (GOOD + 'answer = "{{ fields }}"', "belongs into the prompt"),
        (GOOD + '[body]\ninput = "x"', "line 4: input must not stand in [body]"),
        (GOOD + 'system = "{{ fields }}"', "belongs into the prompt"),
        (GOOD + '[body]\nmessages = []', "line 4: messages must not stand in [body]"),
        ('model = "m"\nprompt = "x"\n[fields]\nreorder = true', "line 3: fields is of no use"),
        ('model = "m"\nprompt = "{{ fields }} {{ fields }}"', "more than once"),
        ('model = "m"\nprompt = "{{ fields"', "without }}"),
        ('model = "m"\nprompt = "{{ }}"', "empty placeholder"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(JobError) as caught:
        read(tmp_path, text)
    assert message in str(caught.value)
    assert "t.toml" in str(caught.value)


def test_a_missing_template(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"cannot read the template .*absent\.toml"):
        read_template(tmp_path / "absent.toml")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ('id = "nowhere"', "id names the column 'nowhere'"),
        ('system = "{{ nowhere }}"', "prompt, system or answer names the column 'nowhere'"),
        ('[fields]\ninclude = ["nowhere"]', "fields.include names the column 'nowhere'"),
        ('system = "{{ a }}{{ b }}"', "no column of"),
    ],
)
def test_columns_that_are_not_there(tmp_path: Path, extra: str, message: str) -> None:
    template = read(tmp_path, GOOD + extra)
    with pytest.raises(JobError) as caught:
        template.check_columns(["a", "b"], Path("x.csv"))
    assert message in str(caught.value)
