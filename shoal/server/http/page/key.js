// The API key: asked for where the server wants one, kept for this tab alone.

import { hasKey, useKey } from "./api.js";
import { el } from "./dom.js";
import { reconnect, state, watch } from "./store.js";

/** A form for the key, in place of everything else. */
export function askForKey(place) {
  const field = el("input", { id: "key", type: "password", autocomplete: "off", required: true,
    spellcheck: "false", "aria-describedby": "key-help" });
  const button = el("button", { class: "primary" }, "Continue");
  const problem = el("p", { class: "problem", id: "key-problem", role: "alert" });
  const form = el("form", { class: "card narrow stack" },
    el("h1", { tabindex: "-1" }, "API key"),
    el("p", { id: "key-help", class: "muted" },
      "This server wants a key. It is kept in this tab until you close it, and sent to this " +
      "server only."),
    problem,
    el("div", { class: "field" }, el("label", { for: "key" }, "Key"), field),
    el("div", { class: "actions" }, button));
  let refused = hasKey() ? 0 : state.refused; // how often, when we last looked
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    useKey(field.value);
    button.disabled = true;
    reconnect({ forget: true });
  });
  place.append(form);
  field.focus();
  document.title = "API key · Shoal";
  return watch(() => {
    if (state.refused === refused) return;
    refused = state.refused;
    button.disabled = false;
    problem.textContent = `${state.problem} Check it and try again.`;
    field.setAttribute("aria-invalid", "true");
    field.select();
  });
}

/** As if the tab had been opened anew. */
export function forgetKey() {
  useKey("");
  location.hash = "#/";
  reconnect({ forget: true });
}
