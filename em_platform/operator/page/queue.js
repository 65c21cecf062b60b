// The queue of regions: order, remove, add and load.
import { post } from "./api.js";
import { hasControl } from "./control.js";
import { byId, make, number, write } from "./format.js";
import { toast } from "./journal.js";
import { nameOf } from "./run.js";
import { open } from "./sheet.js";

const LEVELS = { active: "good", failed: "bad", aborted: "warn", paused: "warn" };

let waiting = [];
let drawn = "";

const RANK = { pending: 1, complete: 2, aborted: 2 };

export function showQueue({ queue: entries, completed_count: completed }) {
  const queue = [...entries].sort((a, b) => (RANK[a.status] ?? 0) - (RANK[b.status] ?? 0));
  waiting = queue.filter((each) => each.status === "pending").map((each) => each.montage_id);
  write(byId("queue-count"), `${waiting.length} waiting, ${completed} done`);
  const key = JSON.stringify([queue.map((each) => [each.montage_id, each.status, each.roi_name, each.error_message, each.total_tiles])]);
  if (key === drawn) return;
  drawn = key;
  const held = document.activeElement?.dataset.held;
  byId("queue").replaceChildren(...(queue.length ? queue.map(entry) : [make("li", { class: "hint" }, "The queue is empty.")]));
  if (held) byId("queue").querySelector(`[data-held="${CSS.escape(held)}"]`)?.focus();
}

function entry(each) {
  const { montage_id: id, status, roi_name: name, error_message: why, total_tiles: total } = each;
  const tools = [];
  if (status === "pending") {
    const at = waiting.indexOf(id);
    tools.push(tool("↑", `Move ${id} up`, `up ${id}`, () => move(id, -1), at === 0));
    tools.push(tool("↓", `Move ${id} down`, `down ${id}`, () => move(id, 1), at === waiting.length - 1));
  }
  if (["pending", "complete", "aborted"].includes(status)) {
    tools.push(tool("✕", `Remove ${id}`, `remove ${id}`, () => change({ remove: [id] })));
  }
  const label = name && name !== id ? `${name} · ${id}` : id;
  return make(
    "li",
    { "data-status": status },
    make("div", {}, make("strong", { title: label }, label), make("small", {}, why ?? (total ? `${number(total)} tiles` : ""))),
    status === "pending" ? null : make("span", { class: "chip", "data-level": LEVELS[status] ?? "" }, status),
    make("span", { class: "tools" }, ...tools),
  );
}

function tool(sign, label, held, act, isUseless = false) {
  const isOff = isUseless || !hasControl();
  return make("button", { type: "button", "aria-label": label, title: label, "data-held": held, disabled: isOff, "data-useless": isUseless, onclick: act }, sign);
}

function move(id, step) {
  const order = [...waiting];
  const at = order.indexOf(id);
  const to = at + step;
  if (to < 0 || to >= order.length) return;
  [order[at], order[to]] = [order[to], order[at]];
  change({ reorder: order });
}

async function change(body) {
  try {
    await post("/api/queue", body);
  } catch (error) {
    toast(error.message);
  }
}

export function setUpQueue(about, parts) {
  byId("calibrations").replaceChildren(
    ...about.setup.map((name) => make("label", { class: "choice" }, make("input", { type: "checkbox", name: "calibrations", value: name }), ` ${nameOf(name)}`)),
  );
  const form = byId("roi-form");
  form.elements.rows.value = about.rows;
  form.elements.columns.value = about.columns;
  form.elements.overlap_percent.placeholder = `${about.overlap_percent}`;
  const showSize = () => {
    for (const box of form.querySelectorAll("[data-by]")) box.hidden = box.dataset.by !== form.elements.by.value;
  };
  for (const radio of form.elements.by) radio.addEventListener("change", showSize);
  byId("add-open").addEventListener("click", () => {
    form.elements.montage_id.value = nextId(parts());
    open(byId("roi-dialog"));
  });
  byId("load-open").addEventListener("click", () => open(byId("load-dialog")));
  send(form, byId("roi-dialog"), "/api/roi", regionOf);
  send(byId("load-form"), byId("load-dialog"), "/api/roi/load", plain);
}

function send(form, dialog, path, read) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const wrong = form.querySelector(".wrong");
    wrong.textContent = "";
    try {
      await post(path, read(form));
      dialog.close();
    } catch (error) {
      wrong.textContent = error.message;
    }
  });
}

/** An id that no montage in sight has: the highest number and one more. */
function nextId({ queue, finished }) {
  const ids = [...(queue?.queue ?? []), ...(finished ?? [])].map((each) => each.montage_id);
  const numbers = ids.map((id) => /^m-(\d+)$/.exec(id)?.[1]).filter(Boolean).map(Number);
  return `m-${String(Math.max(0, ...numbers) + 1).padStart(4, "0")}`;
}

/** The fields that were filled in; numbers as numbers. */
function plain(form) {
  const found = {};
  for (const input of form.querySelectorAll("input[name], select[name]")) {
    if (input.type === "radio" || input.type === "checkbox" || input.value === "") continue;
    found[input.name] = input.type === "number" ? Number(input.value) : input.value;
  }
  return found;
}

function regionOf(form) {
  const found = plain(form);
  const left = form.elements.by.value === "tiles" ? ["width_um", "height_um", "angle_deg"] : ["rows", "columns"];
  for (const name of left) delete found[name];
  found.calibrations = [...form.querySelectorAll("[name=calibrations]:checked")].map((box) => box.value);
  return found;
}
