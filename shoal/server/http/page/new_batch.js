// The form: a file, what to do with it, a start.

import { json, upload } from "./api.js";
import { el, say, show } from "./dom.js";
import { state, takeBatch } from "./store.js";
import { bytes } from "./text.js";

const WINDOWS = [["1h", "1 hour"], ["24h", "24 hours"], ["7d", "7 days"], ["30d", "30 days"]];
const PEEK_BYTES = 1 << 20;

/** A button that opens the form. */
export function newBatchButton() {
  const button = el("button", { type: "button", class: "primary" }, "New batch");
  button.addEventListener("click", () => openForm());
  return button;
}

const options = (pairs, chosen) => pairs.map(([value, text]) =>
  el("option", { value, selected: value === chosen }, text));

function field(id, label, input, help) {
  const note = help && el("p", { id: `${id}-help`, class: "muted help" }, help);
  input.id = id;
  if (note) input.setAttribute("aria-describedby", `${id}-help`);
  return el("div", { class: "field" }, el("label", { for: id }, label), input, note);
}

function openForm() {
  const file = el("input", { type: "file", accept: ".jsonl,application/jsonl", required: true });
  const note = el("p", { class: "muted help", role: "status" });
  const endpoint = el("select", {}, ...options(state.endpoints.map((url) => [url, url])));
  const window_ = el("select", {}, ...options(WINDOWS, "24h"));
  const name = el("input", { type: "text", maxlength: "512", autocomplete: "off" });
  const priority = el("input", { type: "number", min: "-1000", max: "1000", step: "1", value: "0", required: true });
  const problem = el("p", { class: "problem", role: "alert", hidden: true });
  const bar = el("progress", { max: "1", value: "0", hidden: true, "aria-label": "Upload" });
  const start = el("button", { class: "primary" }, "Start batch");
  const close = el("button", { type: "button" }, "Cancel");
  const form = el("form", { class: "stack" },
    el("h2", { id: "new-title" }, "New batch"), problem,
    el("div", { class: "field drop" }, el("label", { for: "new-file" }, "Requests (.jsonl)"), file, note),
    field("new-endpoint", "Endpoint", endpoint, "Of all lines; it is read from the file."),
    el("div", { class: "pair" }, field("new-window", "Must end within", window_),
      field("new-priority", "Priority", priority, "Lower runs first.")),
    field("new-name", "Name", name, "If you like; it is kept as metadata."),
    bar, el("div", { class: "actions" }, close, start));
  file.id = "new-file";
  const dialog = el("dialog", { class: "wide", "aria-labelledby": "new-title" }, form);
  const abort = new AbortController();

  function complain(text) {
    problem.textContent = text;
    show(problem, Boolean(text));
  }

  async function check() {
    complain("");
    say(note, "");
    const [chosen] = file.files;
    if (!chosen) return false;
    const found = await peek(chosen);
    if (found.problem) complain(found.problem);
    if (state.endpoints.includes(found.url)) endpoint.value = found.url;
    say(note, `${bytes(chosen.size)}${found.url ? `, ${found.url}` : ""}`);
    return !found.problem;
  }

  file.addEventListener("click", () => { file.value = ""; }); // the same one, mended, is a change
  file.addEventListener("change", check);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const chosenUrl = endpoint.value;
    if (!await check()) { file.focus(); return; } // it may have changed since it was chosen
    endpoint.value = chosenUrl;
    start.disabled = true;
    show(bar, true);
    try {
      const id = await upload(file.files[0], (part) => { bar.value = part; }, abort.signal);
      say(start, "Starting…");
      const body = { input_file_id: id, endpoint: endpoint.value, completion_window: window_.value,
        priority: Number(priority.value) };
      if (name.value.trim()) body.metadata = { name: name.value.trim() };
      const batch = await json("/v1/batches", body);
      takeBatch({ ...batch, filename: file.files[0].name, priority: body.priority });
      dialog.close();
      location.hash = `#/batches/${batch.id}`;
    } catch (error) {
      if (error.name !== "AbortError") complain(error.message);
    }
    say(start, "Start batch");
    start.disabled = false;
    show(bar, false);
  });
  for (const kind of ["dragover", "dragleave", "drop"]) {
    form.addEventListener(kind, (event) => {
      event.preventDefault();
      form.classList.toggle("over", kind === "dragover");
      if (kind !== "drop" || !event.dataTransfer.files.length) return;
      file.files = event.dataTransfer.files;
      file.dispatchEvent(new Event("change"));
    });
  }
  close.addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => { abort.abort(); dialog.remove(); });
  document.body.append(dialog);
  dialog.showModal();
  file.focus();
}

/** What the first line says: its URL, or what is wrong with it. */
async function peek(file) {
  if (!file.name.endsWith(".jsonl")) return { problem: "The file’s name must end in .jsonl." };
  if (!file.size) return { problem: "The file is empty." };
  let head;
  try {
    head = await file.slice(0, PEEK_BYTES).text();
  } catch {
    return { problem: "The file cannot be read; choose it again." };
  }
  const lines = head.replace(/^\uFEFF/, "").split("\n");
  if (lines.length === 1 && file.size > PEEK_BYTES) return {}; // a long line: the server reads it
  const line = lines.find((text) => text.trim());
  try {
    const { url } = JSON.parse(line);
    return typeof url === "string" ? { url } : { problem: "The first line has no url, so this is no batch file." };
  } catch {
    return { problem: "The first line is not JSON. Each line must be one request." };
  }
}
