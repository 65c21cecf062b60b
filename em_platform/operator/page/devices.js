// Stage, scope, camera, buffer and services; what is old looks old.
import { byId, bytes, figures, make, number, places, rate, span } from "./format.js";
import { isLive, now } from "./stream.js";

const CARDS = [
  ["Camera", ["camera.status"], camera],
  ["Scope", ["scope.status", "scope.image_shift.status"], scope],
  ["Stage", ["stage.motion.status", "stage.aperture.status", "stage.rotation.status", "stage.transfer.status"], stage],
];

export function showDevices(parts, about) {
  const staleS = about.stale_s;
  const box = byId("devices");
  CARDS.forEach(([title, topics, read], index) => {
    const card = box.children[index] ?? box.appendChild(newCard(title));
    const bodies = topics.map((topic) => parts[topic]);
    const [list, errors, age] = [card.querySelector("dl"), card.querySelector(".errors"), card.querySelector(".age")];
    const seen = Math.max(...bodies.map((each) => each?.seen_at ?? 0));
    const silent = seen ? now() - seen : null;
    const isOld = silent === null || silent > staleS || !isLive();
    card.classList.toggle("old", isOld);
    const text = silent === null ? "not seen yet" : isOld ? `last seen ${span(silent)} ago` : "live";
    if (age.textContent !== text) age.textContent = text;
    age.dataset.level = isOld ? "old" : "good";
    if (bodies.some(Boolean)) figures(list, read(...bodies.map((each) => each ?? {}), about));
    const wrong = bodies.map((each) => each?.error).filter(Boolean).join(" ");
    if (errors.textContent !== wrong) errors.textContent = wrong;
  });
}

function newCard(title) {
  return make(
    "article",
    { class: "card", "data-device": title.toLowerCase() },
    make("h3", {}, title, make("span", { class: "chip age" })),
    make("dl", { class: "figures" }),
    make("p", { class: "errors wrong", role: "status" }),
  );
}

function camera(c) {
  return [
    ["exposure", c.exposure == null ? "–" : `${number(c.exposure / 1000, 1)} ms`],
    ["gain", c.gain == null ? "–" : `${number(c.gain, 1)} dB`],
    ["frame", c.width == null ? "–" : `${c.width} × ${c.height}`],
    ["temperature", c.temp == null ? "–" : `${number(c.temp, 1)} °C`, Math.abs(c.temp - c.target_temp) > 2 ? "warn" : ""],
  ];
}

function scope(s, shift, about) {
  const rows = [
    ["magnification", s.mag == null ? "–" : `${number(s.mag)} × ${s.mag_mode === "LOWMAG" ? "(low)" : ""}`],
    ["pixel size", s.mag && about.pixel_nm ? `${number((about.pixel_nm * about.magnification) / s.mag, 2)} nm` : "–"],
    ["screen", s.screen ?? "–", s.screen === "down" ? "warn" : ""],
    ["focus", number(s.focus)],
    ["beam", s.brightness == null ? "–" : `spread ${number(s.brightness)}, spot ${s.spot_size}`],
    ["voltage", s.tank_voltage == null ? "–" : `${s.tank_voltage} kV`],
  ];
  if (shift.enabled) rows.push(["image shift", `position ${shift.current_position ?? "–"}`]);
  return rows;
}

function stage(m, aperture, rotation, transfer) {
  const rows = [
    ["x, y in µm", m.x == null ? "–" : places([m.x, m.y])],
    ["motion", m.in_motion == null ? "–" : m.in_motion ? "moving" : "at rest"],
    ["aperture", aperture.current_aperture == null ? "none" : String(aperture.current_aperture)],
  ];
  if (m.calibrated === false) rows.push(["calibration", "missing", "warn"]);
  if (transfer.current_station) rows.push(["station", transfer.in_transit ? `to ${transfer.target_station}` : transfer.current_station]);
  if (rotation.angle_x) rows.push(["tilt", `${number((rotation.angle_x * 180) / Math.PI, 1)}°`]);
  return rows;
}

export function showBuffer(buffer, upload, staleS) {
  const list = byId("buffer");
  const isOld = !buffer || now() - buffer.seen_at > staleS || !isLive();
  list.classList.toggle("old", isOld);
  if (!buffer) return figures(list, [["Buffer", "not seen yet", "old"]]);
  const free = buffer.free_space;
  figures(list, [
    ["to upload", `${number(buffer.queue_length)} tiles`],
    ["free disk", bytes(free), free < 5e9 ? "bad" : free < 2e10 ? "warn" : ""],
    ["upload", rate(buffer.upload_rate)],
    ...(isOld ? [["last seen", `${span(now() - buffer.seen_at)} ago`, "warn"]] : []),
    ...(upload?.blocked ? [["waits", upload.blocked, "warn"]] : []),
  ]);
}

export function showServices(services = {}, staleS, itself) {
  const list = byId("services");
  const rows = Object.entries(services).filter(([name]) => name !== itself).sort(([a], [b]) => a.localeCompare(b));
  // A service that speaks only when there is work is not late while there is none.
  const isLate = (each) => each.is_steady && age(each) > staleS;
  const key = JSON.stringify(rows.map(([name, each]) => [name, isLate(each) ? span(age(each)) : "", each.host, each.pid]));
  if (list.dataset.key === key) return;
  list.dataset.key = key;
  list.replaceChildren(
    ...rows.map(([name, each]) => {
      const isOld = isLate(each);
      const title = `process ${each.pid} on ${each.host}`;
      return make("li", { class: isOld ? "old" : "", title }, name, isOld ? make("small", {}, ` last seen ${span(age(each))} ago`) : null);
    }),
  );
}

const age = (each) => now() - each.seen_at;
