// The montages that have ended, with links to what Dagster made of them.
import { byId, clock, make, number } from "./format.js";

const OUTCOMES = { completed: ["good", "complete"], error: ["bad", "error"], cancelled: ["warn", "cancelled"] };
const RUNS = { success: "good", failure: "bad", canceled: "warn" };

export function showFinished(entries, web) {
  const body = byId("finished");
  if (!entries.length) return;
  body.replaceChildren(...entries.map((entry) => row(entry, address(web))));
}

/** The Dagster UI as this browser reaches it. */
function address({ host, port }) {
  const isHere = ["127.0.0.1", "localhost", "0.0.0.0", "::", "::1"].includes(host);
  return `http://${isHere ? location.hostname : host}:${port}`;
}

function row(entry, base) {
  const [level, word] = OUTCOMES[entry.outcome] ?? ["", entry.outcome];
  return make(
    "tr",
    {},
    make("th", { scope: "row", title: entry.acquisition_id }, entry.acquisition_id),
    make("td", {}, clock(entry.at)),
    make("td", {}, number(entry.tiles)),
    make("td", {}, make("span", { class: "chip", "data-level": level, title: entry.reason }, word)),
    make("td", {}, ...stitching(entry, base)),
  );
}

function stitching({ acquisition_id: id, outcome, run }, base) {
  if (outcome !== "completed") return ["–"];
  const partition = `${base}/assets/mosaic?view=partitions&partition=${encodeURIComponent(id)}`;
  const found = [link(partition, "mosaic")];
  if (!run) return [make("span", { class: "chip", "data-level": "old" }, "not started"), " ", ...found];
  const [level, word] = verdict(run);
  const title = [...run.failed, ...(run.warnings ?? [])].join("\n");
  return [
    make("span", { class: "chip", "data-level": level, title }, word),
    " ",
    link(`${base}/runs/${run.run_id}`, "run"),
    " ",
    ...found,
  ];
}

/** Failed checks that are only warnings do not make a stitching fail. */
function verdict(run) {
  const failed = run.failed.length;
  const warnings = run.warnings?.length ?? 0;
  if (failed) return ["bad", `${failed} failed`];
  if (run.status !== "success") return [RUNS[run.status] ?? "", run.status];
  if (warnings) return ["warn", `${warnings} warning${warnings > 1 ? "s" : ""}`];
  return ["good", "good"];
}

const link = (href, text) => make("a", { href, target: "_blank", rel: "noopener noreferrer" }, text);
