// Everything that goes to the server: JSON, uploads, downloads, events. The key, where one is needed.

const KEY = "shoal-key";
let key = sessionStorage.getItem(KEY) ?? "";

export const hasKey = () => key !== "";

/** Kept for this tab alone, until it is closed. */
export function useKey(value) {
  key = value.trim();
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

const headers = (more) => (key ? { authorization: `Bearer ${key}`, ...more } : { ...more });

/** An answer that is an error; `status` 0: there was no answer. */
export class ServerError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function errorOf(response) {
  let message = `The server answered ${response.status}.`;
  try {
    message = (await response.json()).error.message;
  } catch { /* not in the API's form: the status says it */ }
  return new ServerError(response.status, message);
}

async function fetched(path, options) {
  let response;
  try {
    response = await fetch(path, { cache: "no-store", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(0, "The server cannot be reached.");
  }
  if (!response.ok && response.status !== 416) throw await errorOf(response);
  return response;
}

/** GET, or POST with a body; null where there is nothing. */
export async function json(path, body) {
  const options = body === undefined
    ? { headers: headers() }
    : { method: "POST", body: JSON.stringify(body),
        headers: headers({ "content-type": "application/json" }) };
  const response = await fetched(path, options);
  return response.status === 204 ? null : response.json();
}

/** The first whole lines of a JSON Lines file. */
export async function firstRecords(file, most) {
  const range = { range: "bytes=0-262143" };
  const response = await fetched(`/v1/files/${file}/content`, { headers: headers(range) });
  const text = await response.text();
  const whole = text.slice(0, text.lastIndexOf("\n") + 1);
  return whole.split("\n").filter(Boolean).slice(0, most).map((line) => JSON.parse(line));
}

/** Save a file. The browser streams it, but where a key is needed it is in memory for a moment. */
export async function download(file, name) {
  const path = `/v1/files/${file}/content`;
  if (key) save(await (await fetched(path, { headers: headers() })).blob(), name);
  else follow(path, name);
}

/** Save what this page holds. */
export function save(blob, name) {
  const url = URL.createObjectURL(blob);
  follow(url, name);
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

function follow(href, name) {
  const link = document.createElement("a");
  Object.assign(link, { href, download: name });
  document.body.append(link);
  link.click();
  link.remove();
}

/** Upload a batch file; `progress` is told the part that is sent, 0 to 1. Returns the file's id. */
export function upload(file, progress, signal) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(); // fetch does not tell how much it has sent
    const form = new FormData();
    form.append("purpose", "batch");
    form.append("file", file, file.name);
    request.open("POST", "/v1/files");
    for (const [name, value] of Object.entries(headers())) request.setRequestHeader(name, value);
    request.upload.addEventListener("progress", (event) => {
      if (event.lengthComputable) progress(event.loaded / event.total);
    });
    request.addEventListener("load", () => {
      let answer = null;
      try { answer = JSON.parse(request.responseText); } catch { /* see below */ }
      if (request.status === 200 && answer) resolve(answer.id);
      else {
        const message = answer?.error?.message ?? `The server answered ${request.status}.`;
        reject(new ServerError(request.status, message));
      }
    });
    request.addEventListener("error", () => {
      reject(new ServerError(0, "The upload was cut off."));
    });
    request.addEventListener("abort", () => reject(new DOMException("", "AbortError")));
    signal.addEventListener("abort", () => request.abort());
    request.send(form);
  });
}

/** Server-sent events by fetch, since EventSource cannot send a key. Ends when the stream does. */
export async function events(take, signal) {
  const response = await fetched("/live/events", { headers: headers(), signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += value;
    const blocks = text.split("\n\n");
    text = blocks.pop();
    take(null); // something came, be it only a comment
    for (const block of blocks) {
      const name = /^event: (.*)$/m.exec(block)?.[1];
      const data = /^data: (.*)$/m.exec(block)?.[1];
      if (name && data) take(name, JSON.parse(data));
    }
  }
}
