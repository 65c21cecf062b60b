// Colour scales that stay apart for colour-blind eyes (viridis' and cividis' anchors).

const VIRIDIS = ["#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725"];
const CIVIDIS = ["#00224e", "#123570", "#3b496c", "#575d6d", "#707173", "#8a8678", "#a59c74", "#c3b369", "#fee838"];

const STEPS = 64;

function steps(anchors) {
  const points = anchors.map((hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)));
  return Array.from({ length: STEPS }, (_, step) => {
    const place = (step / (STEPS - 1)) * (points.length - 1);
    const low = Math.min(Math.floor(place), points.length - 2);
    const mixed = points[low].map((v, i) => Math.round(v + (points[low + 1][i] - v) * (place - low)));
    return `rgb(${mixed.join(",")})`;
  });
}

const SCALES = { focus: steps(VIRIDIS), quality: steps(CIVIDIS) };

/** The colour of `share`, 0 bad to 1 good. */
export function colour(scale, share) {
  const step = Math.round(Math.min(1, Math.max(0, share)) * (STEPS - 1));
  return SCALES[scale][step];
}

/** Paint the whole scale, bad at the left, with a mark at the share of the limit. */
export function paintScale(canvas, scale, limit) {
  const context = canvas.getContext("2d");
  for (let x = 0; x < canvas.width; x += 1) {
    context.fillStyle = colour(scale, x / (canvas.width - 1));
    context.fillRect(x, 0, 1, canvas.height);
  }
  if (limit == null) return;
  context.fillStyle = "#fff";
  context.fillRect(Math.round(limit * canvas.width) - 1, 0, 2, canvas.height);
}
