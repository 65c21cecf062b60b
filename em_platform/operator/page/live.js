// The newest tile: picture, figures, histogram.
import { byId, figures, number, write } from "./format.js";
import { openTile } from "./tile.js";

let isLog = localStorage.getItem("histogram-scale") !== "lin";
let shown = null;

export function setUpLive() {
  const button = byId("hist-scale");
  const set = () => {
    write(button, isLog ? "log" : "lin");
    button.setAttribute("aria-pressed", String(isLog));
    button.setAttribute("aria-label", `Histogram scale: ${isLog ? "logarithmic" : "linear"}`);
    paint();
  };
  button.addEventListener("click", () => {
    isLog = !isLog;
    localStorage.setItem("histogram-scale", isLog ? "log" : "lin");
    set();
  });
  new ResizeObserver(paint).observe(byId("histogram"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
  set();
  byId("preview").addEventListener("click", () => {
    if (shown?.montage_id) openTile(shown.row, shown.column);
  });
}

export function showNewest(newest) {
  shown = newest;
  const place = newest.row == null ? "" : `row ${newest.row}, column ${newest.column}`;
  write(byId("live-name"), newest.montage_id ? `${newest.montage_id} · ${place}` : newest.tile_id ? "preview frame" : "");
  const image = byId("preview");
  if (newest.preview && image.dataset.version !== String(newest.preview)) {
    image.dataset.version = newest.preview;
    image.alt = `Picture of tile ${newest.preview_of}`;
    image.src = `/api/pictures/preview?v=${newest.preview}`;
    byId("no-preview").hidden = true;
  }
  figures(byId("figures"), [
    ["min", number(newest.min)],
    ["max", number(newest.max)],
    ["mean", number(newest.mean)],
    ["std", number(newest.std)],
    ["sharpness", number(newest.focus, 3)],
  ]);
  paint();
}

function paint() {
  const canvas = byId("histogram");
  const ratio = devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth * ratio, canvas.clientHeight * ratio].map(Math.round);
  if (!width || !height) return;
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, width, height);
  const counts = shown?.hist;
  if (!counts?.length) return;
  const scale = isLog ? (count) => Math.log1p(count) : (count) => count;
  const top = scale(Math.max(...counts)) || 1;
  const style = getComputedStyle(canvas);
  context.fillStyle = style.color;
  context.beginPath();
  context.moveTo(0, height);
  counts.forEach((count, bin) => {
    const y = height - (scale(count) / top) * (height - 4);
    context.lineTo((bin / counts.length) * width, y);
    context.lineTo(((bin + 1) / counts.length) * width, y);
  });
  context.lineTo(width, height);
  context.fill();
  write(byId("hist-mid"), String(Math.round(counts.length / 2)));
  write(byId("hist-end"), String(counts.length - 1));
  if (shown.mean != null) {
    context.fillStyle = style.outlineColor;
    context.fillRect((shown.mean / counts.length) * width, 0, ratio, height);
  }
}
