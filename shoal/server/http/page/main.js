// The page: its header, which view is shown, and the connection.

import { hasKey } from "./api.js";
import { batchView } from "./batch.js";
import { mark, say, show } from "./dom.js";
import { askForKey, forgetKey } from "./key.js";
import { listView } from "./list.js";
import { connect, reconnect, state, watch } from "./store.js";

const content = document.getElementById("content");
const offline = document.getElementById("offline");
const engineState = document.getElementById("engine-state");
const forget = document.getElementById("forget-key");

let shown = null; // what closes the view

function route() {
  const id = /^#\/batches\/([\w-]+)$/.exec(location.hash)?.[1];
  return state.connection === "locked" ? { key: "locked", open: askForKey }
    : id ? { key: id, open: (place) => batchView(place, id) }
    : { key: "list", open: listView };
}

/** Show what the address says; the focus goes along, but for the first view. */
function showView() {
  const { key, open } = route();
  if (shown?.key === key) return;
  const moved = shown !== null;
  shown?.close();
  content.replaceChildren();
  shown = { key, close: open(content) ?? (() => {}) };
  if (moved) {
    window.scrollTo(0, 0);
    if (!content.contains(document.activeElement)) content.querySelector("h1")?.focus();
  }
}

const ENGINE = { ready: "Engine ready", loading: "Loading the model", busy: "Running" };

function header() {
  const { connection, engine, names } = state;
  const kind = connection !== "open" ? connection
    : engine === null ? "connecting"
    : engine.state === "ready" && engine.batches.length + engine.others ? "busy" : engine.state;
  const words = { connecting: "Connecting", lost: "Not connected", locked: "Key needed" };
  mark(engineState, "data-state", kind);
  say(engineState, words[kind] ?? ENGINE[kind] ?? kind);
  say(document.getElementById("model"), names[0] ?? "");
  show(forget, hasKey() && connection !== "locked");
  show(offline, connection === "lost");
  if (connection === "lost") say(offline, `${state.problem} Trying again; what you see may be old.`);
}

window.addEventListener("hashchange", showView);
window.addEventListener("online", () => reconnect());
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address says which view is shown
  content.focus();
});
forget.addEventListener("click", forgetKey);
watch(() => {
  header();
  showView();
});
connect();
