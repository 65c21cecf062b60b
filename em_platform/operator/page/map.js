// The tiles of the montage on one canvas, coloured by a figure or shown as images.
import { colour, paintScale } from "./colours.js";
import { byId, number, write } from "./format.js";
import { miniOf, forgetMinis, onMini } from "./minis.js";
import { openTile, showTile } from "./tile.js";

const GAP = 1;
const [ROW, COLUMN, FOCUS, QUALITY, VERDICT, MINI] = [0, 1, 2, 3, 4, 5];

const map = { rows: 0, columns: 0, tiles: new Map(), montage_id: "", acquisition_id: "" };
let mode = localStorage.getItem("map-mode") ?? "focus";
let selected = null;
let newest = null;
let isWaiting = false;
let range = [0, 1];
let limits = { least: 0, relative: 1 };

const key = (row, column) => `${row},${column}`;

/** Take over the service's map. */
export function showMap(message) {
  if (message.anew) {
    map.tiles.clear();
    forgetMinis();
    select(null);
    newest = null;
  }
  for (const name of ["rows", "columns", "montage_id", "acquisition_id"]) map[name] = message[name];
  for (const tile of message.tiles) {
    const name = key(tile[ROW], tile[COLUMN]);
    if (!map.tiles.has(name)) newest = name;
    map.tiles.set(name, tile);
    if (name === selected) select(name);
  }
  write(byId("map-name"), map.acquisition_id || map.montage_id);
  byId("no-map").hidden = map.tiles.size > 0;
  paintSoon();
}

export function setUpMap(about) {
  limits = { least: about.focus_limit ?? 0, relative: about.focus_relative_limit || 1 };
  const canvas = byId("map");
  new ResizeObserver(paintSoon).observe(canvas.parentElement);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paintSoon);
  canvas.addEventListener("click", (event) => {
    const { size, left, top } = layout(canvas);
    const column = Math.floor((event.offsetX - left) / size);
    const row = Math.floor((event.offsetY - top) / size);
    select(map.tiles.has(key(row, column)) ? key(row, column) : null);
  });
  canvas.addEventListener("dblclick", () => selected && openTile(...selected.split(",")));
  canvas.addEventListener("keydown", walk);
  canvas.addEventListener("focus", paintSoon);
  canvas.addEventListener("blur", paintSoon);
  onMini(paintSoon);
  setUpModes();
}

function setUpModes() {
  const group = byId("map-mode");
  const buttons = [...group.children];
  const set = (wanted) => {
    mode = wanted;
    localStorage.setItem("map-mode", mode);
    for (const button of buttons) {
      const isOn = button.dataset.mode === mode;
      button.setAttribute("aria-checked", String(isOn));
      button.tabIndex = isOn ? 0 : -1;
    }
    byId("scale").hidden = mode === "minis";
    if (mode !== "minis") paintScale(byId("scale-bar"), mode, mode === "focus" ? limits.relative : null);
    paintSoon();
  };
  group.addEventListener("click", (event) => {
    const wanted = event.target.closest("[data-mode]")?.dataset.mode;
    if (wanted) set(wanted);
  });
  group.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const at = buttons.findIndex((button) => button.dataset.mode === mode);
    const next = buttons[(at + step + buttons.length) % buttons.length];
    set(next.dataset.mode);
    next.focus();
  });
  set(buttons.some((button) => button.dataset.mode === mode) ? mode : "focus");
}

function walk(event) {
  const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  if (event.key === "Escape") return select(null);
  if (event.key === "Enter" && selected) return openTile(...selected.split(","));
  if (event.key === "End" && newest) select(newest);
  else if (event.key === "Home" && map.tiles.size) select(map.tiles.keys().next().value);
  else if (steps[event.key]) {
    const from = selected?.split(",").map(Number);
    const [row, column] = from ?? newest?.split(",").map(Number) ?? [0, 0];
    const [down, right] = from ? steps[event.key] : [0, 0];
    const name = key(row + down, column + right);
    if (map.tiles.has(name)) select(name);
  } else return;
  event.preventDefault();
}

function select(name) {
  selected = name;
  const tile = name && map.tiles.get(name);
  showTile(tile ? { row: tile[ROW], column: tile[COLUMN], mini: tile[MINI] } : null);
  paintSoon();
}

function layout(canvas) {
  const rows = Math.max(map.rows, 1);
  const columns = Math.max(map.columns, 1);
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  const size = Math.min((width - 8) / columns, (height - 8) / rows, 96);
  return { size, left: (width - size * columns) / 2, top: (height - size * rows) / 2, width, height };
}

function paintSoon() {
  if (isWaiting) return;
  isWaiting = true;
  requestAnimationFrame(() => {
    isWaiting = false;
    paint();
  });
}

/**
 * The range of sharpness that is coloured: from 0 to that of a usual tile. The limit of
 * the checks is always at the same share of it, so that its colour means the same in
 * every montage, and tiles that pass do not look blurred.
 */
function findRange() {
  if (mode !== "focus") return [0, 1];
  const values = [...map.tiles.values()].map((tile) => tile[FOCUS]).filter((v) => v != null);
  values.sort((a, b) => a - b);
  const usual = values.length ? values[values.length >> 1] : 0;
  return [0, Math.max(usual, limits.least / limits.relative) || 1];
}

function paint() {
  const canvas = byId("map");
  const ratio = devicePixelRatio || 1;
  const { size, left, top, width, height } = layout(canvas);
  if (!width || !height) return;
  const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== w || canvas.height !== h) Object.assign(canvas, { width: w, height: h });
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  range = findRange();
  if (mode !== "minis") {
    write(byId("scale-low"), mode === "focus" ? `blurred · limit ${number(range[1] * limits.relative, 2)}` : "0 % found");
    write(byId("scale-high"), mode === "focus" ? `≥ ${number(range[1], 2)} sharp` : "100 %");
  }
  const style = getComputedStyle(canvas);
  const ink = { line: style.borderTopColor, empty: style.backgroundColor, mark: style.color, chosen: style.outlineColor };
  if (map.tiles.size) paintFrame(context, ink, size, left, top);
  const gap = size > 6 ? GAP : 0;
  for (const tile of map.tiles.values()) {
    paintTile(context, tile, left + tile[COLUMN] * size, top + tile[ROW] * size, size - gap, ink);
  }
  if (selected) paintSelected(context, ink, size, left, top);
  canvas.dataset.tiles = map.tiles.size;
  canvas.dataset.montage = map.montage_id;
}

function paintFrame(context, ink, size, left, top) {
  context.strokeStyle = ink.line;
  context.lineWidth = 1;
  context.setLineDash([4, 4]);
  context.strokeRect(left - 2, top - 2, size * map.columns + 3, size * map.rows + 3);
  context.setLineDash([]);
}

function paintTile(context, tile, x, y, size, ink) {
  const value = mode === "focus" ? tile[FOCUS] : tile[QUALITY];
  const picture = mode === "minis" ? miniOf(tile[ROW], tile[COLUMN], tile[MINI], size) : null;
  if (picture) {
    context.drawImage(picture, x, y, size, size);
  } else if (mode !== "minis" && value != null) {
    const share = range[0] === range[1] ? 1 : (value - range[0]) / (range[1] - range[0]);
    context.fillStyle = colour(mode, share);
    context.fillRect(x, y, size, size);
  } else {
    context.strokeStyle = ink.line;
    context.lineWidth = Math.min(1.5, size / 5);
    const inset = context.lineWidth / 2;
    context.strokeRect(x + inset, y + inset, size - 2 * inset, size - 2 * inset);
  }
  if (tile[VERDICT] === 0) paintCross(context, x, y, size);
}

/** A failed tile is a cross with an edge in the other colour: seen on every ground. */
function paintCross(context, x, y, size) {
  const inset = size * 0.2;
  const path = new Path2D();
  path.moveTo(x + inset, y + inset);
  path.lineTo(x + size - inset, y + size - inset);
  path.moveTo(x + size - inset, y + inset);
  path.lineTo(x + inset, y + size - inset);
  context.lineCap = "round";
  for (const [style, width] of [["#000", 0.26], ["#fff", 0.18], ["#e5283c", 0.1]]) {
    context.strokeStyle = style;
    context.lineWidth = Math.max(size * width, width > 0.2 ? 3 : width > 0.1 ? 2 : 1);
    context.stroke(path);
  }
}

function paintSelected(context, ink, size, left, top) {
  const [row, column] = selected.split(",").map(Number);
  context.lineWidth = 3;
  context.strokeStyle = ink.chosen;
  context.strokeRect(left + column * size - 1.5, top + row * size - 1.5, size + 2, size + 2);
}
