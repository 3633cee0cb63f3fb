"""The page at `/` in a real browser, against a real server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.server.browser import NARROW, Tab, chromium, needs_chromium
from tests.server.server_process import Server, as_bytes, chat, chats, serving

pytestmark = [pytest.mark.browser, needs_chromium]

HOSTILE = "<img src=x onerror=alert(1)>.jsonl"
OpenTab = Callable[..., Tab]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture
def tab(browser: Any, server: Server) -> Iterator[OpenTab]:
    """Opens tabs; what went wrong in one of them fails the test."""
    tabs: list[Tab] = []

    def opened(at: Server = server, **options: Any) -> Tab:
        tabs.append(Tab(browser, at.url, **options))
        return tabs[-1]

    yield opened
    for each in tabs:
        each.close()


def test_from_a_file_to_its_answers_by_keyboard(
    server: Server, tab: OpenTab, tmp_path: Path
) -> None:
    lines = [*chats(30), chat("bad", temperature=9)]
    path = tmp_path / "reviews.jsonl"
    path.write_bytes(as_bytes(lines))
    opened = tab()
    page = opened.go()
    page.get_by_role("button", name="New batch").focus()
    page.keyboard.press("Enter")
    file = page.get_by_label("Requests (.jsonl)")
    assert file.evaluate("field => field === document.activeElement")
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.textContent") == "New batch"
    page.keyboard.press("Enter")
    file.set_input_files(path)
    page.get_by_label("Name").fill("Second pass")
    page.get_by_label("Name").press("Enter")
    opened.heading("Second pass")
    assert page.evaluate("document.activeElement.tagName") == "H1", "the focus goes along"
    page.locator("p.figures", has_text="31 of 31 requests, 1 failed").wait_for()
    page.locator("#announcer", has_text="Second pass: Completed. 31 of 31 requests").wait_for(
        state="attached"
    )
    answers = page.get_by_role("table", name="Results").get_by_role("row")
    failed = page.get_by_role("table", name="Failed requests").get_by_role("row")
    assert (answers.count(), failed.count()) == (1 + 6, 1 + 1)
    assert "body.temperature" in failed.last.inner_text()
    batch = server.client.batches.retrieve(page.url.rsplit("/", 1)[1])
    assert batch.metadata == {"name": "Second pass"}
    first = server.records(batch.output_file_id)[0]
    assert (
        first["response"]["body"]["choices"][0]["message"]["content"] in answers.nth(1).inner_text()
    )
    for name, id in (("output", batch.output_file_id), ("error", batch.error_file_id)):
        with page.expect_download() as download:
            page.get_by_role("button", name=f"Download {batch.id}_{name}.jsonl").click()
        assert id is not None
        assert Path(download.value.path()).read_bytes() == server.client.files.content(id).content
    forest = page.get_by_role("img", name="prompt token")
    forest.focus()
    page.keyboard.press("ArrowRight")
    assert "saved" in page.locator(".tip").inner_text()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Show all").wait_for()


def test_a_run_is_seen_live_and_cancelled(server: Server, tab: OpenTab) -> None:
    batch = server.submit(chats(1500, max_tokens=200))
    opened = tab()
    page = opened.go(f"#/batches/{batch.id}")
    page.locator(".badge[data-tone=live]").wait_for()
    curve = page.get_by_role("img", name="Tokens per iteration over the run")
    curve.wait_for()
    page.get_by_text("tokens per second").wait_for()
    before = page.get_by_role("progressbar", name="Progress").evaluate("bar => bar.value")
    page.wait_for_function(
        "before => document.querySelector('main progress').value > before", arg=before
    )
    assert page.evaluate(CHANGES_SAID_ALOUD, 3000) == []
    assert opened.faults() == []
    page.get_by_role("button", name="Cancel batch").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel batch").click()
    page.get_by_text("results are kept").wait_for()
    page.locator("p.figures", has_text="requests have results").wait_for()
    assert server.ended(batch.id).status == "cancelled"
    assert page.get_by_role("button", name="Cancel batch").count() == 0


CHANGES_SAID_ALOUD = """async (milliseconds) => {
  const said = [];
  const observer = new MutationObserver((changes) => {
    for (const { target } of changes) {
      const element = target.nodeType === 1 ? target : target.parentElement;
      const live = "output, [role=status], [role=alert], [role=log], [aria-live=polite]";
      if (element?.closest(live)) said.push(element.textContent);
    }
  });
  observer.observe(document.body, { subtree: true, childList: true, characterData: true });
  await new Promise((resolve) => setTimeout(resolve, milliseconds));
  return said;
}"""
"""What a screen reader would say by itself in that time, while figures change."""


def test_what_users_wrote_stays_text(server: Server, tab: OpenTab) -> None:
    file = server.client.files.create(
        file=(HOSTILE, as_bytes([chat("a"), b"{no", chat("b", stream=True)])), purpose="batch"
    )
    batch = server.client.batches.create(
        input_file_id=file.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        metadata={"<b>who</b>": "<script>alert(2)</script>"},
    )
    server.ended(batch.id)
    opened = tab()
    page = opened.go(f"#/batches/{batch.id}")
    opened.heading(HOSTILE)
    page.get_by_text("<script>alert(2)</script>").wait_for()
    assert page.locator("main img, main script, main b").count() == 0
    errors = page.get_by_role("table", name="Errors of the input file").get_by_role("row")
    assert errors.count() == 1 + 2
    assert "streaming_unsupported" in errors.last.inner_text()
    page.go_back()
    opened.go()
    page.get_by_role("link", name=HOSTILE).wait_for()
    refused = page.evaluate("try { document.body.innerHTML = '<i>x</i>' } catch (e) { e.name }")
    assert refused == "TypeError", "the policy keeps even our own scripts from making markup"
    opened.errors.clear()  # of that attempt


@pytest.mark.parametrize("look", ["light", "dark", "narrow"])
def test_axe_finds_no_serious_fault(server: Server, tab: OpenTab, look: str) -> None:
    done = server.ended(server.submit([*chats(3), chat("bad", temperature=9)]).id)
    bad = server.ended(server.submit([b"{no"]).id)
    options = {"viewport": NARROW} if look == "narrow" else {"color_scheme": look}
    opened = tab(**options)
    page = opened.go()
    page.get_by_role("table", name="All batches").wait_for()
    assert opened.faults() == []
    page.get_by_role("button", name="New batch").click()
    assert opened.faults() == []
    page.keyboard.press("Escape")
    for batch, table in ((done, "Results"), (bad, "Errors of the input file")):
        opened.go(f"#/batches/{batch.id}")
        page.get_by_role("table", name=table).wait_for()
        assert opened.faults() == []


def test_a_key_is_asked_for_and_kept_in_the_tab(keyed: Server, tab: OpenTab) -> None:
    keyed.as_key("page-one").submit([b"{no"])
    opened = tab(keyed)
    page = opened.go()
    field = page.get_by_label("Key")
    field.wait_for()
    assert field.evaluate("field => field === document.activeElement")
    assert opened.faults() == []
    field.fill("three")
    field.press("Enter")
    page.get_by_text("Incorrect API key").wait_for()
    page.get_by_label("Key").fill("page-one")
    page.get_by_label("Key").press("Enter")
    page.get_by_role("link", name="in.jsonl").wait_for()
    page.reload()
    page.get_by_role("link", name="in.jsonl").wait_for()
    assert page.evaluate("localStorage.length") == 0
    page.get_by_role("button", name="Forget key").click()
    page.get_by_label("Key").fill("page-two")
    page.get_by_label("Key").press("Enter")
    opened.heading("No batches yet")
    assert page.get_by_role("link", name="in.jsonl").count() == 0, "it is the other key's"
    assert opened.faults() == []
    with page.expect_download() as download:  # with the key, so not by a mere link
        page.evaluate(
            "import('/page/api.js').then(api => api.download('none', 'x')).catch(() => 0)"
        )
        assert page.evaluate(DOWNLOAD_OWN, "two.jsonl") == "done"
    assert Path(download.value.path()).read_bytes() == b"{}\n"


DOWNLOAD_OWN = """async (name) => {
  const api = await import("/page/api.js");
  const file = new File(["{}\\n"], name);
  const id = await api.upload(file, () => {}, new AbortController().signal);
  await api.download(id, name);
  return "done";
}"""


def test_a_lost_connection_is_said_and_comes_back(tmp_path: Path, tab: OpenTab) -> None:
    port = "18437"
    with serving(tmp_path, "--port", port) as server:
        opened = tab(server)
        page = opened.go()
        opened.heading("No batches yet")
        assert server.stop() == 0
        banner = page.get_by_text("Trying again")
        banner.wait_for()
        assert "Connection lost." in page.locator("#alert").inner_text()
        assert opened.faults() == []
        server.start()
        banner.wait_for(state="hidden")
        opened.errors.clear()  # of fetches that found nobody


def test_the_skip_link_comes_first(tab: OpenTab) -> None:
    opened = tab()
    page = opened.go()
    page.get_by_role("button", name="New batch").wait_for()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"


def test_a_wrong_file_is_refused_before_it_is_sent(tab: OpenTab, tmp_path: Path) -> None:
    page = tab().go()
    page.get_by_role("button", name="New batch").click()
    for name, content, said in (
        ("a.csv", b"x", "must end in .jsonl"),
        ("b.jsonl", b"", "is empty"),
        ("c.jsonl", b"no\n", "not JSON"),
        ("d.jsonl", b'{"prompt": "x"}\n', "no url"),
    ):
        (tmp_path / name).write_bytes(content)
        page.get_by_label("Requests (.jsonl)").set_input_files(tmp_path / name)
        page.get_by_role("dialog").get_by_text(said).wait_for()
    page.get_by_role("button", name="Start batch").click()
    assert page.get_by_role("dialog").is_visible()
