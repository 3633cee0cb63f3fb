// What the page knows: batches by id, the engine, the connection. Views are told when it changes.

import { events, json } from "./api.js";
import { announce } from "./dom.js";
import { endedEarly, isOver, progressText, status, title } from "./text.js";

const MOST_POINTS = 480;
const SILENCE = 40_000; // more than two of the server's heartbeats
const RETRY = [500, 1000, 2000, 5000, 10_000];

export const state = {
  connection: "connecting", // "open", "lost", "locked": a key is needed
  problem: "",
  refused: 0, // how often for want of a right key
  batches: new Map(),
  more: false,
  loaded: false,
  engine: null,
  points: [],
  names: [],
  endpoints: [],
};

const listeners = new Set();

/** Call a function now and whenever something changed; returns how to stop that. */
export function watch(listener) {
  listeners.add(listener);
  listener();
  return () => listeners.delete(listener);
}

let planned = false;
function changed() {
  if (planned) return;
  planned = true;
  requestAnimationFrame(() => {
    planned = false;
    for (const listener of [...listeners]) listener();
  });
}

/** Newest first. */
export const newest = () =>
  [...state.batches.values()].sort((a, b) => b.created_at - a.created_at || b.order - a.order);

export const runs = (batch) => Boolean(state.engine?.batches.includes(batch.id));

/** How far a batch is, 0 to 1: by its requests, or by the work of its run where that is further. */
export function part(batch, running) {
  const { total, completed, failed } = batch.request_counts;
  const done = total ? (endedEarly(batch) ? completed : completed + failed) / total : 0;
  return running ? Math.max(done, state.engine?.part ?? 0) : done;
}

let order = 0;

/** Add or replace batches as they come: newest first. */
function takeBatches(data) {
  for (const batch of [...data].reverse()) {
    const before = state.batches.get(batch.id);
    batch.order = before?.order ?? (order += 1);
    if (before && before.status !== batch.status && isOver(batch)) {
      announce(`${title(batch)}: ${status(batch, false)}. ${progressText(batch)}.`);
    }
    state.batches.set(batch.id, batch);
  }
}

/** Put in what the server answered to a request of this page. */
export function takeBatch(batch) {
  const before = state.batches.get(batch.id);
  takeBatches([{ ...before, ...batch }]);
  changed();
}

export async function loadOlder() {
  const all = newest();
  const { data, more } = await json(`/live/batches?after=${all[all.length - 1].id}`);
  const least = Math.min(...all.map((batch) => batch.order));
  data.forEach((batch, index) => {
    state.batches.set(batch.id, { ...batch, order: least - 1 - index });
  });
  state.more = more;
  changed();
  return data.length;
}

function takeEngine(engine) {
  if (state.engine === null || engine.run !== state.engine.run || engine.since === 0) {
    state.points = [];
  }
  state.points.push(...engine.points);
  while (state.points.length > MOST_POINTS) state.points = joined(state.points);
  const { points, ...rest } = engine;
  state.engine = rest;
}

/** Each two neighbours become one, so that the curve always shows the whole run. */
function joined(points) {
  const result = [];
  for (let i = 0; i + 1 < points.length; i += 2) {
    const [a, b] = [points[i], points[i + 1]];
    const n = a.iterations + b.iterations;
    const mean = (name) => (a[name] * a.iterations + b[name] * b.iterations) / n;
    result.push({ seconds: b.seconds, iterations: n, decode: mean("decode"),
      prefill: mean("prefill"), kv_bytes: Math.max(a.kv_bytes, b.kv_bytes) });
  }
  if (points.length % 2) result.push(points[points.length - 1]);
  return result;
}

function take(name, data) {
  if (name === "batches") {
    if (!state.loaded) state.more = data.more;
    takeBatches(data.data);
    state.loaded = true;
  } else if (name === "engine") {
    takeEngine(data);
  }
  changed();
}

function connection(value, problem = "") {
  if (value === "lost" && state.connection === "open") announce("Connection lost.", true);
  if (value === "open" && state.connection === "lost") announce("Connected again.");
  state.connection = value;
  state.problem = problem;
  changed();
}

let failures = 0;
let wake = null;
let current = null;

/** Connect again at once, with another key or since the network is back. */
export function reconnect({ forget = false } = {}) {
  if (forget) {
    state.batches.clear();
    Object.assign(state, { engine: null, points: [], loaded: false, more: false, names: [] });
  }
  failures = 0;
  current?.abort();
  wake?.();
}

/** Stay connected for as long as the page is open. */
export async function connect() {
  for (;;) {
    const abort = new AbortController();
    current = abort;
    let timer = null;
    const alive = () => {
      clearTimeout(timer);
      timer = setTimeout(() => abort.abort(), SILENCE);
    };
    try {
      alive();
      if (!state.names.length) Object.assign(state, await json("/live/about"));
      await events((name, data) => {
        alive();
        failures = 0;
        if (state.connection !== "open") connection("open");
        if (name) take(name, data);
      }, abort.signal);
      connection("lost", "The server ended the connection.");
    } catch (error) {
      if (error.status === 401) {
        state.refused += 1;
        connection("locked", error.message);
      } else connection("lost", error.status ? error.message : "The server cannot be reached.");
    }
    clearTimeout(timer);
    const pause = state.connection === "locked" ? 1e9 : RETRY[Math.min(failures, RETRY.length - 1)];
    failures += 1;
    await new Promise((resolve) => {
      const timeout = setTimeout(resolve, Math.min(pause, 2 ** 31 - 1));
      wake = () => { clearTimeout(timeout); resolve(); };
    });
    wake = null;
  }
}
