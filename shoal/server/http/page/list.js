// The first view: what runs now, and all batches.

import { engineCard } from "./engine.js";
import { copyButton, dataRow, dataTable, el, mark, say, show } from "./dom.js";
import { newBatchButton } from "./new_batch.js";
import { loadOlder, newest, part, runs, state, watch } from "./store.js";
import { ago, date, isOver, number, progressText, status, title, tone } from "./text.js";

const COLUMNS = ["Batch", "Status", "Progress", "Created"];

/** Returns what closes it. */
export function listView(place) {
  document.title = "Batches · Shoal";
  const heading = el("h1", { tabindex: "-1" }, "Batches");
  const count = el("p", { class: "muted count" });
  const engine = engineCard();
  const { table, body } = dataTable("batches", "All batches, newest first", COLUMNS);
  const more = el("button", { type: "button" }, "Show older batches");
  const problem = el("p", { class: "problem", role: "alert", hidden: true });
  const empty = emptyState();
  const loading = el("div", { class: "card loading" }, el("p", { class: "muted" }, "Loading batches…"));
  const list = el("section", { class: "card flush", "aria-label": "All batches" }, table);
  place.append(
    el("div", { class: "heading" }, el("div", {}, heading, count), newBatchButton()),
    engine.element, loading, empty, list, problem, el("div", { class: "more" }, more));

  more.addEventListener("click", async () => {
    more.disabled = true;
    show(problem, false);
    try {
      const first = body.children.length;
      await loadOlder();
      update();
      body.children[first]?.querySelector("a")?.focus();
    } catch (error) {
      problem.textContent = error.message;
      show(problem, true);
    }
    more.disabled = false;
  });

  const rows = new Map();
  function update() {
    const batches = newest();
    const none = state.loaded && !batches.length;
    show(loading, !state.loaded && state.connection !== "lost");
    show(empty, none);
    show(list, batches.length > 0);
    show(more, state.more && batches.length > 0);
    const open = batches.filter((batch) => !isOver(batch)).length;
    say(count, batches.length
      ? `${number(batches.length)} ${batches.length === 1 ? "batch" : "batches"}` +
        `${state.more ? " shown" : ""}, ${open ? `${open} not finished` : "all finished"}`
      : "");
    batches.forEach((batch, index) => {
      if (!rows.has(batch.id)) rows.set(batch.id, row(batch));
      const { element, update: tell } = rows.get(batch.id);
      tell(batch);
      if (body.children[index] !== element) body.insertBefore(element, body.children[index] ?? null);
    });
  }
  const stops = [watch(update), engine.close];
  const timer = setInterval(update, 30_000); // "2 minutes ago" grows old
  return () => { clearInterval(timer); stops.forEach((stop) => stop()); };
}

function row(batch) {
  const link = el("a", { href: `#/batches/${batch.id}` });
  const detail = el("span", { class: "muted id" });
  const badge = el("span", { class: "badge" });
  const text = el("span", { class: "figures" });
  const bar = el("progress", { max: "1" });
  const time = el("time");
  const element = dataRow(COLUMNS, [link, detail], badge, [bar, text], time);
  element.lastChild.className = "when";
  function update(now) {
    const live = runs(now);
    const name = title(now);
    say(link, name);
    say(detail, name === now.id ? now.endpoint : now.id);
    say(badge, status(now, live));
    mark(badge, "data-tone", tone(now, live));
    say(text, now.status === "failed" ? problems(now) : progressText(now));
    show(bar, now.request_counts.total > 0 && !isOver(now));
    bar.value = part(now, live);
    mark(bar, "aria-label", `Progress of ${name}`);
    say(time, ago(now.created_at));
    mark(time, "title", date(now.created_at));
    mark(time, "datetime", new Date(now.created_at * 1000).toISOString());
  }
  return { element, update };
}

const problems = (batch) => batch.errors?.data[0]?.message ?? "The file could not be run";

/** What to do where nothing was done yet. */
function emptyState() {
  const code = [
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url="${location.origin}/v1", api_key="none")`,
    "file = client.files.create(file=open(\"requests.jsonl\", \"rb\"), purpose=\"batch\")",
    "batch = client.batches.create(",
    "    input_file_id=file.id, endpoint=\"/v1/chat/completions\", completion_window=\"24h\"",
    ")",
  ].join("\n");
  return el("section", { class: "card empty" },
    el("h2", {}, "No batches yet"),
    el("p", {}, "A batch is a file of requests, one JSON object per line. Choose one with ",
      el("strong", {}, "New batch"), ", or send it with OpenAI’s client:"),
    el("div", { class: "code" },
      el("pre", { tabindex: "0", role: "region", "aria-label": "Example in Python" },
        el("code", {}, code)), copyButton(code, "the example")));
}
