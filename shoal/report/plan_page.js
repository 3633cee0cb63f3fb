"use strict";
// Hover, keys and zoom of the prefix forest. Without it, the page only loses these.
const svg = document.getElementById("forest");
const data = JSON.parse(document.getElementById("data").textContent);
const tip = document.getElementById("tip"), range = document.getElementById("range");
const reset = document.getElementById("reset");
const segments = [...svg.querySelectorAll("rect:not(.t):not(.m)")];
const merged = [...svg.querySelectorAll("rect.m")];
const [, , WIDTH, HEIGHT] = svg.getAttribute("viewBox").split(" ").map(Number);
const number = (value) => value.toLocaleString("en");
let selected = -1;

function describe(rect) {
  let index = segments.indexOf(rect);
  if (index >= 0) {
    const [users, tokens, start, saved, text] = data.segments[index];
    return `${number(users)} sequences × ${number(tokens)} tokens (after ${number(start)}), ` +
      `${number(saved)} saved\n${text}`;
  }
  index = merged.indexOf(rect);
  if (index >= 0) {
    return `prefixes too narrow to draw one by one, ${number(data.merged[index])} tokens saved`;
  }
  const share = rect.height.baseVal.value / HEIGHT * data.depth;
  return `a sequence's own part, about ${number(Math.round(share))} tokens`;
}

function show(rect) {
  svg.querySelector(".on")?.classList.remove("on");
  rect?.classList.add("on");
  tip.textContent = rect ? describe(rect) : data.hint;
}

function zoom(rect) {
  const left = rect ? rect.x.baseVal.value : 0;
  const width = rect ? rect.width.baseVal.value : WIDTH;
  svg.setAttribute("viewBox", `${left} 0 ${width} ${HEIGHT}`);
  const place = (x) => number(Math.round(x / WIDTH * data.sequences));
  range.textContent = `sequences ${place(left)} to ${place(left + width)}, in the order to run`;
  reset.hidden = !rect;
}

svg.addEventListener("mousemove", (event) => {
  show(event.target.tagName === "rect" ? event.target : null);
});
svg.addEventListener("mouseleave", () => show(segments[selected] ?? null));
svg.addEventListener("click", (event) => {
  if (event.target.tagName !== "rect") return;
  selected = segments.indexOf(event.target);
  zoom(event.target.classList.contains("t") ? null : event.target);
});
reset.addEventListener("click", () => zoom(null));
svg.addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (step && segments.length) {
    selected = Math.min(Math.max(selected + step, 0), segments.length - 1);
    show(segments[selected]);
    event.preventDefault();
  } else if (event.key === "Enter" && segments[selected]) {
    zoom(segments[selected]);
  } else if (event.key === "Escape") {
    zoom(null);
  }
});
show(null);
