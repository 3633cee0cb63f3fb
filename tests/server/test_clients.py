"""One script, with the official client and with litellm: from a file to its results, and back.

litellm is no part of the extra `dev`: with boto3 and others it takes 17 packages, and an older
python-dateutil than the rest is tested with. Its test is skipped without it. To have it:

    pip install litellm 'python-dateutil<3'
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.server.server_process import CHAT_URL, ENDED, Server, as_bytes, chats


class OpenAICalls:
    """The calls of the official client."""

    def __init__(self, server: Server) -> None:
        client = server.client
        self.upload: Callable[..., Any] = client.files.create
        self.create: Callable[..., Any] = client.batches.create
        self.retrieve: Callable[[str], Any] = client.batches.retrieve
        self.cancel: Callable[[str], Any] = client.batches.cancel
        self.list: Callable[..., Any] = client.batches.list
        self.content: Callable[[str], Any] = client.files.content
        self.files: Callable[[], Any] = client.files.list
        self.about: Callable[[str], Any] = client.files.retrieve
        self.delete: Callable[[str], Any] = client.files.delete


class LiteLLMCalls:
    """The same of litellm, which has a function for each."""

    def __init__(self, server: Server) -> None:
        os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it looks for prices in the net
        litellm = pytest.importorskip("litellm")
        where = {
            "custom_llm_provider": "openai",
            "api_base": f"{server.url}/v1",
            "api_key": server.key,
        }

        def call(name: str, argument: str | None = None) -> Callable[..., Any]:
            def called(*value: str, **more: Any) -> Any:
                named = {} if argument is None or not value else {argument: value[0]}
                return getattr(litellm, name)(**named, **more, **where)

            return called

        self.upload = call("create_file")
        self.create = call("create_batch")
        self.retrieve = call("retrieve_batch", "batch_id")
        self.cancel = call("cancel_batch", "batch_id")
        self.list = call("list_batches")
        self.content = call("file_content", "file_id")
        self.files = call("file_list")
        self.about = call("file_retrieve", "file_id")
        self.delete = call("file_delete", "file_id")


@pytest.mark.parametrize("calls", [OpenAICalls, LiteLLMCalls], ids=["openai", "litellm"])
def test_the_script(
    server: Server, tmp_path: Path, calls: type[OpenAICalls] | type[LiteLLMCalls]
) -> None:
    api = calls(server)
    path = tmp_path / "in.jsonl"
    path.write_bytes(as_bytes(chats(4)))
    with path.open("rb") as content:
        file = api.upload(file=content, purpose="batch")
    assert api.about(file.id).filename == "in.jsonl"
    assert file.id in [each.id for each in api.files()]

    asked = {"endpoint": CHAT_URL, "completion_window": "24h", "input_file_id": file.id}
    batch = api.create(**asked, metadata={"who": "a script"})
    assert batch.status == "validating"
    server.wait(lambda: api.retrieve(batch.id).status in ENDED)
    batch = api.retrieve(batch.id)
    assert (batch.status, batch.metadata) == ("completed", {"who": "a script"})
    assert batch.request_counts.completed == 4
    lines = api.content(batch.output_file_id).content.splitlines()
    assert [json.loads(line)["custom_id"] for line in lines] == ["c0", "c1", "c2", "c3"]
    assert batch.id in [each.id for each in api.list(limit=20).data]

    cancelled = api.create(**asked)
    assert api.cancel(cancelled.id).status in ("cancelling", "cancelled")
    assert api.delete(file.id).deleted
    assert file.id not in [each.id for each in api.files()]
