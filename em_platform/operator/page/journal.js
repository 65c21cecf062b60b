// The event log; what matters is read aloud too.
import { byId, clock, make } from "./format.js";

const SPOKEN = new Set(["state", "qc", "error", "broker", "control", "montage"]);
let last = -1;
let hiding = 0;

export function showJournal(entries) {
  const list = byId("journal");
  list.replaceChildren(
    ...[...entries].reverse().map((entry) =>
      make(
        "li",
        { "data-kind": entry.kind },
        make("time", {}, clock(entry.at)),
        make("span", {}, entry.text),
      ),
    ),
  );
  const newest = entries.at(-1)?.number ?? 0;
  const isFirst = last < 0 || newest < last;
  const fresh = entries.filter((entry) => entry.number > last && SPOKEN.has(entry.kind));
  last = newest;
  if (!isFirst && fresh.length) say(fresh.map((entry) => entry.text).join(". "));
}

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
