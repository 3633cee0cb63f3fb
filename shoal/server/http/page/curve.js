// A curve over a run's time: areas stacked on each other, with a scale and a reading under the pointer.

import { el, mark, say, svg } from "./dom.js";
import { clock } from "./text.js";

const WIDTH = 600, HEIGHT = 120;

/** A round number at or above `value`. */
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1)));
  return [1, 2, 2.5, 5, 10].map((step) => step * power).find((round) => round >= value);
}

/**
 * A figure. `series`: [{ name, of: (point) => value, look }], stacked from the bottom;
 * `scale`: the top of the axis, or null for the most there is; `write`: a value as text.
 */
export function curve({ name, series, scale, write, words }) {
  const areas = series.map(({ look }) => svg("path", { class: `area ${look}` }));
  const line = svg("path", { class: "line", fill: "none" });
  const cross = svg("line", { class: "cross", y1: 0, y2: HEIGHT, visibility: "hidden" });
  const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none",
    role: "img", tabindex: "0" }, ...areas, line, cross);
  const top = el("span"), middle = el("span"), end = el("span"), reading = el("span", { class: "reading" });
  const legend = series.length > 1 ? el("span", { class: "legend" }, ...series.map(({ name: text, look }) =>
    el("span", {}, el("i", { class: `key ${look}` }), text))) : null;
  const element = el("figure", { class: "curve" },
    el("figcaption", {}, el("span", { class: "name" }, name), legend, reading),
    el("div", { class: "plot" }, el("div", { class: "axis", "aria-hidden": "true" }, top, middle,
      el("span", {}, "0")), picture),
    el("div", { class: "time", "aria-hidden": "true" }, el("span", {}, "0:00"), end));

  let points = [], at = null;
  const sum = (point) => series.reduce((total, { of }) => total + of(point), 0);
  const last = () => points[points.length - 1].seconds;

  function read() {
    const point = at === null ? points[points.length - 1] : points[at];
    mark(cross, "visibility", at === null ? "hidden" : "visible");
    if (!point) { say(reading, ""); return; }
    if (at !== null) {
      const x = (point.seconds / last()) * WIDTH;
      mark(cross, "x1", x);
      mark(cross, "x2", x);
    }
    const parts = series.length > 1 ? ` (${series.map(({ name: text, of }) =>
      `${write(of(point))} ${text.toLowerCase()}`).join(", ")})` : "";
    say(reading, at === null ? write(sum(point)) : `${clock(point.seconds)}: ${write(sum(point))}${parts}`);
  }

  function update(now) {
    points = now;
    if (at !== null && at >= points.length) at = null;
    const most = scale() ?? roundUp(Math.max(...points.map(sum), 1));
    const x = (point) => ((point.seconds / Math.max(last(), 1e-9)) * WIDTH).toFixed(1);
    const y = (value) => (HEIGHT - (value / most) * HEIGHT).toFixed(1);
    let below = points.map(() => 0);
    series.forEach(({ of }, index) => {
      const above = points.map((point, i) => below[i] + of(point));
      const there = points.map((point, i) => `${x(point)},${y(above[i])}`);
      const back = points.map((point, i) => `${x(point)},${y(below[i])}`).reverse();
      const first = points.length ? [`0,${y(above[0])}`] : [];
      const lastBack = points.length ? [`0,${y(below[0])}`] : [];
      mark(areas[index], "d", points.length ? `M${[...first, ...there, ...back, ...lastBack].join("L")}Z` : "");
      if (index === series.length - 1) {
        mark(line, "d", points.length ? `M${[...first, ...there].join("L")}` : "");
      }
      below = above;
    });
    say(top, write(most));
    say(middle, write(most / 2));
    say(end, points.length ? clock(last()) : "");
    read();
    mark(picture, "aria-label", points.length ? words(points.map(sum), write) : `${name}: nothing yet`);
  }

  picture.addEventListener("pointermove", (event) => {
    if (!points.length) return;
    const box = picture.getBoundingClientRect();
    const seconds = ((event.clientX - box.left) / box.width) * last();
    const found = points.findIndex((point) => point.seconds >= seconds);
    at = found < 0 ? points.length - 1 : found;
    read();
  });
  // What is read by keys is said aloud; what changes by itself is not.
  picture.addEventListener("blur", () => mark(reading, "aria-live", null));
  for (const name of ["pointerleave", "blur"]) {
    picture.addEventListener(name, () => { at = null; read(); });
  }
  picture.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step || !points.length) return;
    mark(reading, "aria-live", "polite");
    at = Math.min(Math.max((at ?? points.length) + step, 0), points.length - 1);
    read();
    event.preventDefault();
  });
  return { element, update };
}
