// The plan's prefix forest: hover, keys and zoom, as on the page of `shoal plan --html`.

import { el, mark, say, show, svg } from "./dom.js";
import { counted, number } from "./text.js";

const COLORS = 6;

/** A figure for what `/live/batches/ID/forest` answers. */
export function forestFigure(data) {
  const [width, height] = data.size;
  const all = data.rects.map(([look, x, y, w, h]) => svg("rect", { class: look, x, y, width: w, height: h }));
  const segments = all.filter((rect) => /^s\d$/.test(rect.getAttribute("class")));
  const merged = all.filter((rect) => / m$/.test(rect.getAttribute("class")));
  const help = el("p", { class: "muted", id: "forest-help" },
    "Each column is one prompt, its first token at the top. A coloured block is a prefix that is " +
    "computed once for all the sequences it spans. Arrow keys choose a block, Enter zooms in, " +
    "Escape shows all.");
  const picture = svg("svg", { class: "forest", viewBox: `0 0 ${width} ${height}`, tabindex: "0",
    preserveAspectRatio: "none", role: "img", "aria-label": words(data),
    "aria-describedby": "forest-help" }, ...all);
  const range = el("span"), tip = el("p", { class: "tip" });
  const reset = el("button", { type: "button", class: "quiet small", hidden: true }, "Show all");
  const [least, most] = data.bounds;
  const legend = data.segments.length ? el("span", { class: "legend" },
    el("span", {}, ...[...Array(COLORS).keys()].map((n) => el("i", { class: `key s${n}` })),
      `tokens saved by a block, ${number(least)} to ${number(most)}`)) : null;
  let chosen = -1, on = null;

  function describe(rect) {
    const index = segments.indexOf(rect);
    if (index >= 0) {
      const [users, tokens, start, saved, text] = data.segments[index];
      return `${number(users)} sequences × ${number(tokens)} tokens (after ${number(start)}), ` +
        `${number(saved)} saved\n${text}`;
    }
    const part = merged.indexOf(rect);
    if (part >= 0) {
      return `Prefixes too narrow to draw one by one, ${number(data.merged[part])} tokens saved`;
    }
    const tokens = (rect.height.baseVal.value / height) * data.depth;
    return `A prompt’s own part, about ${counted(Math.round(tokens), "token")}`;
  }

  function point(rect) {
    on?.classList.remove("on");
    on = rect;
    rect?.classList.add("on");
    say(tip, rect ? describe(rect) : "Point at a block to read it.");
  }

  function zoom(rect) {
    const left = rect ? rect.x.baseVal.value : 0;
    const wide = rect ? rect.width.baseVal.value : width;
    mark(picture, "viewBox", `${left} 0 ${wide} ${height}`);
    const place = (x) => number(Math.round((x / width) * data.sequences));
    say(range, rect ? `sequences ${place(left)} to ${place(left + wide)}`
      : `${counted(data.sequences, "sequence")}, in the order to run`);
    show(reset, Boolean(rect));
  }

  picture.addEventListener("pointermove", (event) => {
    mark(tip, "aria-live", null);
    point(event.target.tagName === "rect" ? event.target : null);
  });
  picture.addEventListener("pointerleave", () => point(segments[chosen] ?? null));
  picture.addEventListener("click", (event) => {
    if (event.target.tagName !== "rect") return;
    chosen = segments.indexOf(event.target);
    zoom(event.target.classList.contains("t") ? null : event.target);
  });
  reset.addEventListener("click", () => { zoom(null); picture.focus(); });
  picture.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    mark(tip, "aria-live", "polite"); // what is read by keys is said aloud
    if (step && segments.length) {
      chosen = Math.min(Math.max(chosen + step, 0), segments.length - 1);
      point(segments[chosen]);
      event.preventDefault();
    } else if (event.key === "Enter" && segments[chosen]) zoom(segments[chosen]);
    else if (event.key === "Escape") zoom(null);
  });
  point(null);
  zoom(null);
  return el("figure", { class: "forest-figure" }, el("p", {}, words(data)), picture,
    el("div", { class: "legend-row" }, range, el("span", {}, `${number(data.depth)} tokens deep`),
      legend, el("span", { class: "legend" }, el("span", {}, el("i", { class: "key t" }), "own parts")),
      reset), tip, help);
}

/** What the picture shows, in a sentence or two. */
function words(data) {
  const others = data.batches - 1;
  const together = others <= 0 ? "" : ` Planned together with ${number(others)} other ` +
    `${others === 1 ? "batch" : "batches"}.`;
  return sharing(data) + together;
}

function sharing(data) {
  const saved = data.prompt_tokens - data.computed_prompt_tokens;
  if (saved <= 0) return `${counted(data.prompt_tokens, "prompt token")}, of which none is shared.`;
  const share = Math.round((100 * saved) / data.prompt_tokens);
  return `${counted(data.prompt_tokens, "prompt token")}: ${number(data.computed_prompt_tokens)} ` +
    `are computed, ${share} % are shared, in ${number(data.shared_prefixes)} ` +
    `${data.shared_prefixes === 1 ? "prefix" : "prefixes"}.`;
}
