// The event log; what matters is read aloud too.
import { byId, clock, make } from "./format.js";

const SPOKEN = new Set(["state", "qc", "error", "broker", "control", "montage"]);
let last = -1;
let hiding = 0;
let lines = new Map();

/** The newest entry stands first; those that stand already are left as they are. */
export function showJournal(entries) {
  const before = lines;
  // The time too: a service that lost its memory counts from one again.
  lines = new Map(entries.map((entry) => [`${entry.number} ${entry.at}`, entry]));
  for (const [name, line] of before) if (!lines.has(name)) line.remove();
  for (const [name, entry] of lines) {
    const line = before.get(name) ?? lineOf(entry);
    if (!before.has(name)) byId("journal").prepend(line);
    lines.set(name, line);
  }
  const newest = entries.at(-1)?.number ?? 0;
  const isFirst = last < 0 || newest < last;
  const fresh = entries.filter((entry) => entry.number > last && SPOKEN.has(entry.kind));
  last = newest;
  if (!isFirst && fresh.length) say(fresh.map((entry) => entry.text).join(". "));
}

const lineOf = (entry) =>
  make("li", { "data-kind": entry.kind }, make("time", {}, clock(entry.at)), make("span", {}, entry.text));

/** Have a screen reader say it. */
export function say(text) {
  byId("spoken").textContent = text;
}

/** Show a sentence for a while. */
export function toast(text) {
  const box = byId("toast");
  box.textContent = text;
  box.hidden = false;
  clearTimeout(hiding);
  hiding = setTimeout(() => (box.hidden = true), 9000);
}
