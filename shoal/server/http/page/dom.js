// Elements from text, never from markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** An element: el("p", { class: "x", onclick: f }, "text", otherElement). */
export const el = (tag, attributes, ...children) =>
  fill(document.createElement(tag), attributes, children);

/** The same for SVG. */
export const svg = (tag, attributes, ...children) =>
  fill(document.createElementNS(SVG, tag), attributes, children);

/** Set a text only where it changed: what is selected or read aloud stays. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Set or remove an attribute only where it changed. */
export function mark(element, name, value) {
  if (value === null) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

export const show = (element, visible) => {
  if (element.hidden === visible) element.hidden = !visible;
};

/** Tell a screen reader something once. */
export function announce(text, urgent = false) {
  const place = document.getElementById(urgent ? "alert" : "announcer");
  place.textContent = "";
  setTimeout(() => { place.textContent = text; }, 50);
}

/** A button that copies a text. */
export function copyButton(text, what) {
  const button = el("button", { type: "button", class: "quiet small" }, "Copy");
  button.setAttribute("aria-label", `Copy ${what}`);
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
      announce(`Copied ${what}`);
    } catch {
      button.textContent = "Not allowed";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
  return button;
}

/**
 * A table whose roles are said: as cards, on narrow screens, it would lose them.
 * Rows are made by `dataRow`.
 */
export function dataTable(look, caption, columns) {
  const body = el("tbody", { role: "rowgroup" });
  const table = el("table", { class: look, role: "table" },
    el("caption", { class: "unseen" }, caption),
    el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, ...columns.map((name) =>
      el("th", { scope: "col", role: "columnheader" }, name)))), body);
  return { table, body };
}

/** A row: its heading, then a cell under each further column. */
export const dataRow = (columns, heading, ...cells) =>
  el("tr", { role: "row" }, el("th", { scope: "row", role: "rowheader" }, heading),
    ...cells.map((cell, index) => el("td", { role: "cell", "data-name": columns[index + 1] }, cell)));
