// The fitted montage and its focus map, as the fit draws them.
import { byId, make, number, write } from "./format.js";

export function showMinimaps(minimaps) {
  write(byId("fit-name"), minimaps.montage_id);
  const titles = { montage: "Montage", focus: "Focus (lower is sharper)" };
  const shown = Object.entries(titles).filter(([kind]) => minimaps[kind].image);
  const pair = byId("minimaps");
  if (!shown.length) return;
  pair.replaceChildren(
    ...shown.map(([kind, title]) => {
      const { image, bar, min, max } = minimaps[kind];
      const legend = [];
      if (kind === "focus" && bar && min != null) {
        const src = `/api/pictures/minimap/${kind}_bar?v=${bar}`;
        legend.push(number(min, 2), make("img", { class: "bar", src, alt: "colour bar" }), number(max, 2));
      }
      return make(
        "figure",
        {},
        make("img", { src: `/api/pictures/minimap/${kind}?v=${image}`, alt: `${title} of ${minimaps.montage_id}` }),
        make("figcaption", {}, make("span", {}, title), make("span", { class: "legend" }, ...legend)),
      );
    }),
  );
}
