// Numbers, times and small pieces of the page.

export const byId = (id) => document.getElementById(id);

/** A new element with attributes and children; text is never read as HTML. */
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "class") element.className = value;
    else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value != null) element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

/** Set text only where it differs, so that nothing is read aloud twice. */
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Replace a definition list by [term, description, level?] rows. */
export function figures(list, rows) {
  const key = JSON.stringify(rows);
  if (list.dataset.key === key) return;
  list.dataset.key = key;
  list.replaceChildren(
    ...rows.map(([term, text, level]) =>
      make("div", { "data-level": level ?? "" }, make("dt", {}, term), make("dd", {}, text)),
    ),
  );
}

// Kept: each call of toLocaleString makes a new one, thirty at every redrawing.
const formats = new Map();

function formatOf(digits) {
  const made = formats.get(digits) ?? new Intl.NumberFormat("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  formats.set(digits, made);
  return made;
}

export const number = (value, digits = 0) => (value == null || !Number.isFinite(value) ? "–" : formatOf(digits).format(value));

export function bytes(count) {
  if (count == null) return "–";
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  let power = 0;
  while (count >= 1000 && power < units.length - 1) {
    count /= 1000;
    power += 1;
  }
  return `${number(count, count < 10 && power ? 1 : 0)} ${units[power]}`;
}

/** Bits a second, as messages have them, in MB/s. */
export const rate = (bitsPerSecond) =>
  bitsPerSecond == null ? "–" : `${number(bitsPerSecond / 8e6, bitsPerSecond < 8e7 ? 1 : 0)} MB/s`;

export function span(seconds) {
  if (seconds == null || !Number.isFinite(seconds)) return "–";
  const s = Math.max(0, Math.round(seconds));
  if (s < 90) return `${s} s`;
  if (s < 5400) return `${Math.floor(s / 60)} min ${String(s % 60).padStart(2, "0")} s`;
  return `${Math.floor(s / 3600)} h ${String(Math.floor((s % 3600) / 60)).padStart(2, "0")} min`;
}

const [minutes, seconds] = [undefined, "2-digit"].map(
  (second) => new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second }),
);

export const clock = (unix, withSeconds = true) => (withSeconds ? seconds : minutes).format(unix * 1000);

/** A place on the stage, x and y in nm. */
export const places = ([x, y]) => `${number(x / 1000, 1)}, ${number(y / 1000, 1)}`;

export const spoken = (word) => word.replaceAll("_", " ");

export const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
