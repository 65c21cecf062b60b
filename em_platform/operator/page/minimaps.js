// The montage as it is fitted so far; the focus of its tiles is on the map.
import { byId, make, write } from "./format.js";

export function showMinimaps({ montage_id: id, image }) {
  write(byId("fit-name"), id);
  if (!image) return;
  const src = `/api/pictures/minimap?v=${image}`;
  byId("minimaps").replaceChildren(make("figure", {}, make("img", { src, alt: `Fitted montage ${id}` })));
}
