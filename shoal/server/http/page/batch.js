// One batch: how far it is, what it made, what went wrong.

import { json } from "./api.js";
import { copyButton, el, mark, say, show } from "./dom.js";
import { runCurves, runFigures, took } from "./engine.js";
import { forestFigure } from "./forest.js";
import { batchErrors, errorRecords, outputRecords } from "./records.js";
import { part, runs, state, takeBatch, watch } from "./store.js";
import { date, isOver, number, progressText, status, title, tone } from "./text.js";

const REFRESH = 10_000; // of batches that the events do not tell of

/** Returns what closes it. */
export function batchView(place, id) {
  document.title = "Batch · Shoal";
  const heading = el("h1", { tabindex: "-1" }, "Batch");
  const badge = el("span", { class: "badge" });
  const problem = el("p", { class: "problem", role: "alert", hidden: true });
  const cancel = cancelButton(id, problem);
  const loading = el("div", { class: "card loading" }, el("p", { class: "muted" }, "Loading…"));
  const content = el("div", { class: "stack wide-gap", hidden: true });
  place.append(
    el("a", { class: "back", href: "#/" }, "All batches"),
    el("div", { class: "heading" }, el("div", { class: "titled" }, heading, badge), cancel.element),
    problem, loading, content);

  const progress = progressCard();
  const facts = el("dl", { class: "facts" });
  const forestPlace = el("div"), errorPlace = el("div"), outputPlace = el("div"), badPlace = el("div");
  content.append(progress.element, errorPlace, badPlace, outputPlace, forestPlace,
    el("section", { class: "card" }, el("h2", {}, "Details"), facts));

  const once = new Set();
  const first = (what, act) => { if (!once.has(what)) { once.add(what); act(); } };

  function update() {
    const batch = state.batches.get(id);
    show(content, Boolean(batch));
    if (!batch) return;
    show(loading, false);
    const live = runs(batch);
    document.title = `${title(batch)} · Shoal`;
    say(heading, title(batch));
    say(badge, status(batch, live));
    mark(badge, "data-tone", tone(batch, live));
    cancel.update(batch);
    progress.update(batch, live);
    first(`facts ${batch.status} ${Boolean(batch.usage)}`, () => facts.replaceChildren(...factRows(batch)));
    if (live || batch.status === "completed" || isOver(batch)) {
      first(`forest ${state.points.length > 0 && live} ${isOver(batch)}`, () => loadForest(batch, forestPlace));
    }
    if (batch.errors) first("errors", () => errorPlace.append(batchErrors(batch)));
    if (batch.error_file_id) first("bad", () => badPlace.append(errorRecords(batch)));
    if (batch.output_file_id) first("good", () => outputPlace.append(outputRecords(batch)));
  }

  async function refresh() {
    try {
      takeBatch(await json(`/live/batches/${id}`));
    } catch (error) {
      if (state.batches.has(id)) return; // the banner says that the connection is lost
      if (error.status === 0 || error.status === 401) return;
      say(heading, "No such batch");
      loading.replaceChildren(el("p", {}, error.message),
        el("p", {}, el("a", { href: "#/" }, "See all batches")));
    }
  }

  const stop = watch(update);
  refresh();
  const timer = setInterval(() => {
    const batch = state.batches.get(id);
    if (!batch || !isOver(batch)) refresh();
  }, REFRESH);
  return () => { clearInterval(timer); stop(); cancel.close(); };
}

function progressCard() {
  const bar = el("progress", { max: "1", "aria-label": "Progress" });
  const text = el("p", { class: "figures" });
  const note = el("p", { class: "muted" });
  const rates = runFigures(), curves = runCurves();
  const live = el("div", { class: "stack" }, rates.element, curves.element);
  const element = el("section", { class: "card stack", "aria-label": "Progress" }, bar, text, note, live);
  return {
    element,
    update(batch, running) {
      show(element, batch.status !== "failed"); // nothing was run: the errors say why
      show(bar, batch.request_counts.total > 0);
      bar.value = part(batch, running);
      say(text, progressText(batch));
      say(note, noteOf(batch, running));
      show(live, running);
      if (running) { rates.update(); curves.update(); }
    },
  };
}

/** A sentence about where a batch is. */
function noteOf(batch, running) {
  const counts = batch.request_counts;
  const begun = batch.in_progress_at;
  switch (batch.status) {
    case "validating": return "The file is being read; what is wrong with it is found out now.";
    case "in_progress":
      if (running) return state.points.length ? "" : "The file is being read and planned.";
      return state.engine?.state === "ready" ? "It waits for its turn." : "It waits until the model is loaded.";
    case "finalizing": return "All requests have a result; the files are being written.";
    case "completed": return `Took ${took(begun ?? batch.created_at, batch.completed_at)}.`;
    case "cancelling": return "It stops after the iteration under way and keeps what it has.";
    case "cancelled": return `Cancelled. ${number(counts.completed)} results are kept.`;
    case "expired": return `Its time ended. ${number(counts.completed)} results are kept.`;
    default: return "";
  }
}

function cancelButton(id, problem) {
  const button = el("button", { type: "button", hidden: true }, "Cancel batch");
  const yes = el("button", { type: "button", class: "danger" }, "Cancel batch");
  const no = el("button", { type: "button" }, "Keep running");
  const dialog = el("dialog", { "aria-labelledby": "cancel-title" },
    el("h2", { id: "cancel-title" }, "Cancel this batch?"),
    el("p", {}, "It stops after the iteration under way. Results that it has are kept; the other " +
      "requests are not run any more."),
    el("div", { class: "actions" }, no, yes));
  document.body.append(dialog);
  button.addEventListener("click", () => { dialog.showModal(); no.focus(); });
  no.addEventListener("click", () => dialog.close());
  yes.addEventListener("click", async () => {
    yes.disabled = true;
    show(problem, false);
    try {
      takeBatch(await json(`/v1/batches/${id}/cancel`, {}));
    } catch (error) {
      problem.textContent = error.message;
      show(problem, true);
    }
    yes.disabled = false;
    dialog.close();
  });
  return {
    element: button,
    update: (batch) => show(button, !isOver(batch) && batch.status !== "cancelling"),
    close: () => dialog.remove(),
  };
}

async function loadForest(batch, place) {
  let data = null;
  try {
    data = await json(`/live/batches/${batch.id}/forest`);
  } catch (error) {
    place.replaceChildren(el("p", { class: "problem" }, `The plan cannot be shown. ${error.message}`));
  }
  if (data === null) return; // nothing was run yet
  place.replaceChildren(el("section", { class: "card stack" },
    el("h2", {}, "The plan: prefixes computed once"), forestFigure(data)));
}

function factRows(batch) {
  const rows = [
    ["Id", el("span", { class: "split-start" }, el("code", {}, batch.id), copyButton(batch.id, "the id"))],
    ["Endpoint", batch.endpoint],
    ["Model", batch.model],
    ["Created", date(batch.created_at)],
    ["Began", batch.in_progress_at && date(batch.in_progress_at)],
    ["Ended", endOf(batch)],
    ["Must end by", isOver(batch) ? null : `${date(batch.expires_at)} (${batch.completion_window})`],
    ["Priority", batch.priority ? String(batch.priority) : null],
    ["Tokens", batch.usage?.total_tokens ? tokens(batch.usage) : null],
    ...Object.entries(batch.metadata ?? {}).map(([name, value]) => [name, value]),
  ];
  return rows.filter(([, value]) => value).map(([name, value]) =>
    el("div", {}, el("dt", {}, name), el("dd", {}, value)));
}

function endOf(batch) {
  const at = batch.completed_at ?? batch.failed_at ?? batch.expired_at ?? batch.cancelled_at;
  return at && date(at);
}

const tokens = (usage) =>
  `${number(usage.input_tokens)} in prompts` +
  `${usage.input_tokens_details?.cached_tokens ? `, ${number(usage.input_tokens_details.cached_tokens)} of them shared` : ""}` +
  `; ${number(usage.output_tokens)} generated`;
