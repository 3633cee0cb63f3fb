// Quantities and names as a person reads them.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const dates = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto" });

export const number = (value) => whole.format(value);

export const plural = (noun, count) => (count === 1 ? noun : `${noun}s`);

export const counted = (count, noun) => `${number(count)} ${plural(noun, count)}`;

/** "1.5 GiB". */
export function bytes(size) {
  if (size < 1024) return `${number(size)} B`;
  for (const unit of ["KiB", "MiB", "GiB", "TiB"]) {
    size /= 1024;
    if (size < 1024 || unit === "TiB") {
      return `${size < 10 ? size.toFixed(1) : number(size)} ${unit}`;
    }
  }
}

/** "0:07", "12:30", "3:05:00". */
export function clock(seconds) {
  const total = Math.max(0, Math.round(seconds));
  const h = Math.floor(total / 3600), m = Math.floor(total / 60) % 60, s = total % 60;
  const two = (value) => String(value).padStart(2, "0");
  return h ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

/** "7 seconds", "12 min 30 s", "3 h 05 min". */
export function duration(seconds) {
  const total = Math.max(0, Math.round(seconds));
  if (total === 0) return "less than a second";
  if (total < 60) return counted(total, "second");
  const two = (value) => String(value).padStart(2, "0");
  if (total < 3600) return `${Math.floor(total / 60)} min ${two(total % 60)} s`;
  return `${number(Math.floor(total / 3600))} h ${two(Math.floor(total / 60) % 60)} min`;
}

export const date = (seconds) => dates.format(new Date(seconds * 1000));

/** "2 minutes ago". */
export function ago(seconds) {
  const past = seconds - Date.now() / 1000;
  for (const [unit, size] of [["day", 86400], ["hour", 3600], ["minute", 60]]) {
    if (Math.abs(past) >= size) return relative.format(Math.round(past / size), unit);
  }
  return "just now";
}

/** What a batch is called. */
export const title = (batch) => batch.metadata?.name || batch.filename || batch.id;

export const RUNNING = ["validating", "in_progress", "finalizing", "cancelling"];

export const isOver = (batch) => !RUNNING.includes(batch.status);

const STATUS = {
  validating: "Checking the file",
  in_progress: "Waiting",
  finalizing: "Writing results",
  completed: "Completed",
  failed: "Failed",
  expired: "Expired",
  cancelling: "Cancelling",
  cancelled: "Cancelled",
};

/** The status in words; `runs`: the engine is at it. */
export const status = (batch, runs) =>
  runs && batch.status === "in_progress" ? "Running" : STATUS[batch.status] ?? batch.status;

/** The look of a status. */
export function tone(batch, runs) {
  if (batch.status === "failed") return "bad";
  if (batch.status === "completed") return "good";
  if (endedEarly(batch)) return "ended";
  return runs ? "live" : "waits";
}

/** Whether some of its failed requests were never run. */
export const endedEarly = (batch) => batch.status === "expired" || batch.status === "cancelled";

/** What stands beside a progress bar. */
export function progressText(batch) {
  const { total, completed, failed } = batch.request_counts;
  if (!total) return batch.status === "validating" ? "Counting requests" : "No requests";
  if (endedEarly(batch)) return `${number(completed)} of ${number(total)} requests have results`;
  const bad = failed ? `, ${number(failed)} failed` : "";
  return `${number(completed + failed)} of ${number(total)} requests${bad}`;
}
