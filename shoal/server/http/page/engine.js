// What the engine does now: the batch that runs, its rates, its curves.

import { curve } from "./curve.js";
import { el, mark, say, show } from "./dom.js";
import { newest, part, runs, state, watch } from "./store.js";
import { bytes, clock, duration, number, progressText, title } from "./text.js";

/** The two curves of the run under way; `update` draws them. */
export function runCurves() {
  const most = (sums, write) => `at most ${write(Math.max(...sums))}, last ${write(sums[sums.length - 1])}`;
  const tokens = curve({
    name: "Tokens per iteration",
    series: [
      { name: "Decode", of: (point) => point.decode, look: "decode" },
      { name: "Prefill", of: (point) => point.prefill, look: "prefill" },
    ],
    scale: () => null,
    write: number,
    words: (sums, write) => `Tokens per iteration over the run: ${most(sums, write)}`,
  });
  const memory = curve({
    name: "KV memory",
    series: [{ name: "KV memory", of: (point) => point.kv_bytes, look: "decode" }],
    scale: () => state.engine?.kv_pool_bytes || null,
    write: bytes,
    words: (sums, write) => `KV memory over the run: ${most(sums, write)} of ` +
      `${write(state.engine?.kv_pool_bytes ?? 0)}`,
  });
  return {
    element: el("div", { class: "curves" }, tokens.element, memory.element),
    update() {
      tokens.update(state.points);
      memory.update(state.points);
    },
  };
}

/** Figures in a row: [[name, () => text]]. */
export function figures(rows) {
  const cells = rows.map(([name, text, note]) => {
    const value = el("dd"), more = el("dd", { class: "muted note" });
    return { element: el("div", {}, el("dt", {}, name), value, more), value, more, text, note };
  });
  return {
    element: el("dl", { class: "figures-row" }, ...cells.map((cell) => cell.element)),
    update() {
      for (const { value, more, text, note } of cells) {
        say(value, text());
        say(more, note?.() ?? "");
      }
    },
  };
}

/** The rates of the run. */
export function runFigures() {
  const engine = () => state.engine;
  const last = () => state.points[state.points.length - 1];
  return figures([
    ["Time left", () => (engine().remaining_seconds === null ? "…" : clock(engine().remaining_seconds)),
      () => (engine().remaining_seconds === null ? "not known yet" : "estimated")],
    ["Throughput", () => number(engine().tokens_per_second), () => "tokens per second"],
    ["Iteration", () => (last() ? number(last().decode + last().prefill) : "…"),
      () => `tokens, ${number(engine().running)} sequences`],
    ["KV memory", () => percent(engine().kv_bytes, engine().kv_pool_bytes),
      () => `${bytes(engine().kv_bytes)} of ${bytes(engine().kv_pool_bytes)}`],
  ]);
}

const percent = (part, all) => `${all ? Math.round((100 * part) / all) : 0} %`;

/** A card; `close` stops it. */
export function engineCard() {
  const heading = el("h2");
  const links = el("ul", { class: "running" });
  const rates = runFigures();
  const curves = runCurves();
  const idle = el("p", { class: "muted" });
  const busy = el("div", { class: "stack" }, links, rates.element, curves.element);
  const element = el("section", { class: "card stack", "aria-label": "Engine" }, heading, idle, busy);
  const items = new Map();
  const close = watch(() => {
    const { engine } = state;
    const active = engine !== null && engine.batches.length + engine.others > 0;
    const loads = engine !== null && engine.state !== "ready";
    show(element, active || loads);
    if (element.hidden) return;
    say(heading, active ? "Running now" : "Loading the model");
    show(busy, active);
    show(idle, !active);
    say(idle, "Batches that you start now wait until it is loaded.");
    if (!active) return;
    const mine = newest().filter(runs);
    for (const [id, { element: item }] of items) {
      if (!engine.batches.includes(id)) { item.remove(); items.delete(id); }
    }
    for (const batch of mine) {
      if (!items.has(batch.id)) {
        items.set(batch.id, runningItem(batch));
        links.append(items.get(batch.id).element);
      }
      items.get(batch.id).update(batch);
    }
    show(links, mine.length > 0);
    rates.update();
    curves.update();
  });
  return { element, close };
}

function runningItem(batch) {
  const link = el("a", { href: `#/batches/${batch.id}` });
  const bar = el("progress", { max: "1" });
  const text = el("span", { class: "figures" });
  return {
    element: el("li", {}, el("div", { class: "split" }, link, text), bar),
    update(now) {
      say(link, title(now));
      say(text, progressText(now));
      bar.value = part(now, true);
      mark(bar, "aria-label", `Progress of ${title(now)}`);
    },
  };
}

/** "took 12 min 30 s". */
export const took = (from, to) => duration(to - from);
