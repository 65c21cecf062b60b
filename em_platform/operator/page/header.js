// The bar at the top: state path, QC light, and what is wrong with the connection.
import { byId, capital, make, span, write } from "./format.js";
import { isLive, now } from "./stream.js";

const QC_WORDS = { GOOD: "Good", STOP_AT_END: "Stop at end", STOP_NOW: "Stop now" };
const QC_LEVELS = { GOOD: "good", STOP_AT_END: "warn", STOP_NOW: "bad" };

/** Steps within a request to a device, which come and go within milliseconds. */
const PASSING = new Set(["request", "success", "wait", "begin"]);

/** `MoveStage` as "move stage". */
const plain = (step) => capital(step.replace(/([a-z0-9])([A-Z])/g, "$1 $2").toLowerCase());

export function showPath({ state }, staleS) {
  const list = byId("path");
  const named = state?.path?.filter((step) => !PASSING.has(step.toLowerCase()));
  const steps = named?.length ? named : ["unknown"];
  const silent = state ? now() - state.seen_at : 0;
  const isOld = silent > 2 * staleS || !isLive();
  list.classList.toggle("old", isOld);
  write(byId("path-age"), isOld && state ? `State · last seen ${span(silent)} ago` : "State");
  const key = steps.join("/");
  if (list.dataset.key === key) return;
  list.dataset.key = key;
  list.replaceChildren(
    ...steps.map((step, index) =>
      make("li", { "aria-current": index === steps.length - 1 ? "step" : null }, plain(step)),
    ),
  );
}

export function showQc(qc, staleS) {
  const light = byId("qc");
  if (!qc) {
    light.dataset.level = "old";
    write(byId("qc-status"), "QC: unknown");
    write(byId("qc-reason"), "not seen since the start");
    return;
  }
  const silent = now() - qc.seen_at;
  const isOld = silent > staleS || !isLive();
  light.dataset.level = isOld && qc.status === "GOOD" ? "old" : QC_LEVELS[qc.status] ?? "bad";
  light.classList.toggle("old", isOld);
  write(byId("qc-status"), `QC: ${QC_WORDS[qc.status] ?? qc.status}`);
  const why = qc.reason || (qc.status === "GOOD" ? "all QC checks pass" : "no reason given");
  const by = qc.status !== "GOOD" && qc.by !== "qc" ? ` (${qc.by})` : "";
  const since = `for ${span(now() - qc.since)}`;
  write(byId("qc-reason"), isOld ? `last seen ${span(silent)} ago: ${why}` : `${why}${by} · ${since}`);
  light.title = byId("qc-reason").textContent;
}

export function showBanner(broker) {
  const link = byId("link");
  const banner = byId("banner");
  let sentence = "";
  if (!isLive()) {
    sentence = "The operator service does not answer. What you see is old; trying again.";
    write(link, "service away");
    link.dataset.level = "bad";
  } else if (broker && !broker.connected) {
    sentence = `The broker at ${broker.address} has not answered for ${span(now() - broker.since)}. What you see is old, and no command reaches the microscope.`;
    write(link, "broker away");
    link.dataset.level = "bad";
  } else {
    write(link, "live");
    link.dataset.level = "good";
  }
  document.body.classList.toggle("old", sentence !== "");
  if (banner.hidden !== (sentence === "")) banner.hidden = sentence === "";
  write(banner, sentence);
}
