// The figures and faults of the tile that is selected.
import { get } from "./api.js";
import { byId, capital, make, number, places, spoken } from "./format.js";

let asked = 0;

const fullOf = (row, column) => `/api/tiles/${row}/${column}/full`;

/** Show a tile in full resolution, in a tab of its own. */
export const openTile = (row, column) => window.open(fullOf(row, column), "_blank", "noopener");

export async function showTile(place) {
  const box = byId("tile");
  asked += 1;
  const mine = asked;
  if (!place) {
    if (!box.dataset.place) return;
    box.dataset.place = "";
    box.replaceChildren(make("p", { class: "hint" }, "Click a tile, or use the arrow keys, for its figures; double-click or Enter opens it in full resolution."));
    return;
  }
  const tile = await get(`/api/tiles/${place.row}/${place.column}`).catch(() => null);
  if (!tile || mine !== asked) return;
  box.dataset.place = `${place.row}/${place.column}`;
  box.replaceChildren(...drawn(tile));
}

function drawn(tile) {
  const verdict = tile.passed == null ? ["", "not judged yet"] : tile.passed ? ["good", "passed"] : ["bad", "failed"];
  const picture = tile.mini
    ? make("img", {
        src: `/api/pictures/mini/${tile.row}/${tile.column}?v=${tile.mini}`,
        alt: "Small picture of the tile",
        title: "Open the tile in full resolution",
        onclick: () => openTile(tile.row, tile.column),
      })
    : null;
  const rows = [
    ["sharpness", `${number(tile.focus, 3)}`],
    ["grey", `${number(tile.minimum)} … ${number(tile.maximum)}`],
    ["mean ± std", `${number(tile.mean)} ± ${number(tile.std)}`],
    ["matches", tile.tried ? `${tile.good} of ${tile.tried} good` : "no neighbour yet"],
    ["stage, µm", tile.stage_nm ? places(tile.stage_nm) : "–"],
  ];
  for (const [side, each] of Object.entries(tile.neighbours)) {
    const shift = each.dx == null ? "" : `${number(each.dx, 1)}, ${number(each.dy, 1)} px`;
    const found = each.tried == null || each.good === each.tried ? "" : `${each.good}/${each.tried} · `;
    rows.push([`${side} edge`, `${found}${shift}`]);
  }
  return [
    picture,
    make(
      "div",
      { class: "about" },
      make("p", {}, make("strong", {}, `Row ${tile.row}, column ${tile.column} `), make("span", { class: "chip", "data-level": verdict[0] }, verdict[1]), " ", make("a", { href: fullOf(tile.row, tile.column), target: "_blank", rel: "noopener" }, "Full resolution")),
      make("dl", { class: "figures" }, ...rows.map(([term, text]) => make("div", {}, make("dt", {}, term), make("dd", {}, text)))),
      tile.faults.length ? make("ul", { class: "faults" }, ...tile.faults.map(fault)) : null,
    ),
  ].filter(Boolean);
}

function fault(each) {
  const text = `${capital(spoken(each.fault_type))}: severity ${number(each.severity * 100)} %, confidence ${number(each.confidence * 100)} %, ${each.scope}`;
  const metrics = Object.entries(each.metrics ?? {}).map(([name, value]) => `${spoken(name)} ${typeof value === "number" ? number(value, 3) : value}`);
  return make("li", {}, text, metrics.length ? ` (${metrics.join(", ")})` : "");
}
