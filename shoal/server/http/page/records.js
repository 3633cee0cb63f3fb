// The first lines of a batch's output and error files, as tables.

import { download, firstRecords, save } from "./api.js";
import { dataRow, dataTable, el } from "./dom.js";

const SHOWN = 6;

/** A section with a table and a download; it loads by itself. */
function fileSection({ heading, file, name, columns, row }) {
  const { table, body } = dataTable("records", heading, columns);
  table.hidden = true;
  const note = el("p", { class: "muted pad" }, "Loading…");
  const problem = el("p", { class: "problem pad", role: "alert", hidden: true });
  const element = el("section", { class: "card flush" },
    el("div", { class: "heading pad" }, el("h2", {}, heading), downloadButton(file, name, problem)),
    problem, note, table);
  firstRecords(file, SHOWN + 1).then((records) => {
    const shown = records.slice(0, SHOWN);
    body.append(...shown.map((record) => dataRow(columns, ...row(record))));
    table.hidden = false;
    note.textContent = records.length > SHOWN ? `The first ${SHOWN} are shown; the file has all.` : "";
    note.hidden = records.length <= SHOWN;
    element.append(note);
  }, (error) => { note.textContent = error.message; });
  return element;
}

/** A button that saves a file and says what went wrong. */
export function downloadButton(file, name, problem) {
  const button = el("button", { type: "button" }, "Download");
  button.setAttribute("aria-label", `Download ${name}`);
  button.addEventListener("click", async () => {
    button.disabled = true;
    problem.hidden = true;
    try {
      await download(file, name);
    } catch (error) {
      problem.textContent = error.message;
      problem.hidden = false;
    }
    button.disabled = false;
  });
  return button;
}

/** The failed requests of a batch. */
export const errorRecords = (batch) => fileSection({
  heading: "Failed requests",
  file: batch.error_file_id,
  name: `${batch.id}_error.jsonl`,
  columns: ["Request", "Code", "What was wrong"],
  row: (record) => {
    const error = record.error ?? record.response?.body?.error ?? {};
    const code = error.code ?? record.response?.status_code ?? "";
    return [record.custom_id ?? "(no custom_id)", String(code), error.message ?? ""];
  },
});

/** The first answers of a batch. */
export const outputRecords = (batch) => fileSection({
  heading: "Results",
  file: batch.output_file_id,
  name: `${batch.id}_output.jsonl`,
  columns: ["Request", "Answer"],
  row: (record) => [record.custom_id, el("span", { class: "answer" }, answer(record.response.body))],
});

/** What an answer says, whatever its endpoint. */
function answer(body) {
  const choice = body.choices?.[0];
  if (choice) {
    const { message } = choice;
    if (message?.tool_calls?.length) {
      return message.tool_calls.map(({ function: f }) => `${f.name}(${f.arguments})`).join("\n");
    }
    return message?.content ?? choice.text ?? "";
  }
  const texts = (body.output ?? []).flatMap((item) => item.content ?? []).map((part) => part.text ?? "");
  if (texts.length) return texts.join("");
  if (Array.isArray(body.data)) return `${body.data.length} × ${body.object ?? "data"}`;
  return JSON.stringify(body).slice(0, 400);
}

const ERROR_COLUMNS = ["Line", "Code", "Field", "What was wrong"];

/** Why a batch failed as a whole. */
export function batchErrors(batch) {
  const { table, body } = dataTable("records", "Errors of the input file", ERROR_COLUMNS);
  const errors = batch.errors.data;
  body.append(...errors.map((error) => dataRow(ERROR_COLUMNS,
    error.line === null ? "–" : String(error.line), el("code", {}, error.code), error.param ?? "–",
    error.message)));
  return el("section", { class: "card flush" },
    el("div", { class: "heading pad" }, el("h2", {}, "Why it failed"),
      saveButton(`${batch.id}_errors.json`, () => JSON.stringify(errors, null, 2))),
    table,
    el("p", { class: "muted pad" }, "Mend the file and start a new batch. Nothing of this one was run."));
}

/** A button that saves a text of this page. */
function saveButton(name, text) {
  const button = el("button", { type: "button", "aria-label": `Download ${name}` }, "Download");
  button.addEventListener("click", () => save(new Blob([text()], { type: "application/json" }), name));
  return button;
}
