// Progress of the montage, the run and setup buttons, and the two stops.
import { post } from "./api.js";
import { hasControl } from "./control.js";
import { byId, capital, clock, figures, make, number, places, span, spoken, write } from "./format.js";
import { say, toast } from "./journal.js";
import { now } from "./stream.js";

const RUN = ["start", "pause", "resume", "retry", "cancel"];
const NAMES = { auto_focus: "Focus", auto_exposure: "Exposure", lens_correction: "Lens correction", bright_field: "Bright field", dark_field: "Dark field", beam_center: "Beam centre", beam_spread: "Beam spread", find_aperture: "Find aperture", calibrate_resolution: "Resolution" };

export const nameOf = (action) => NAMES[action] ?? capital(spoken(action));

export function setUpRun(setup) {
  const button = (action, path, body) =>
    make("button", { type: "button", "data-action": action, onclick: () => order(path, body, nameOf(action)) }, nameOf(action));
  byId("run").replaceChildren(...RUN.map((command) => button(command, "/api/run", { command })));
  byId("setup").replaceChildren(...setup.map((routine) => button(routine, "/api/setup", { routine })));
  byId("stop-now").addEventListener("click", () => order("/api/stop", { when: "now" }, "Stop now"));
  byId("stop-end").addEventListener("click", () => order("/api/stop", { when: "at_end" }, "Stop at end"));
  addEventListener(
    "keydown",
    (event) => {
      if (!(event.ctrlKey || event.metaKey) || (event.key !== "." && event.code !== "Period")) return;
      event.preventDefault();
      if (!event.repeat) order("/api/stop", { when: "now" }, "Stop now");
    },
    { capture: true },
  );
}

async function order(path, body, name) {
  try {
    await post(path, body);
    say(`${name} was sent`);
  } catch (error) {
    toast(error.message);
  }
}

/** Enable what makes sense now, and explain why the rest is disabled. */
export function showActions({ actions = {}, mode, stopping }) {
  const mine = hasControl();
  for (const button of document.querySelectorAll("[data-action]")) {
    const why = actions[button.dataset.action] ?? (mine ? "" : "take control first");
    button.disabled = why !== "";
    button.title = why;
  }
  const end = byId("stop-end");
  write(end, stopping ? "Stopping at end" : "Stop at end");
  end.disabled = Boolean(stopping || actions.abort_at_end);
  end.classList.toggle("is-on", Boolean(stopping));
  end.title = stopping?.why ?? actions.abort_at_end ?? "Finish the montage, then stop; available to all users";
  byId("stop-now").title = "Stop the stage and lower the screen at once; available to all users (Ctrl .)";
  for (const button of document.querySelectorAll("#add-open, #load-open, #queue button")) {
    button.disabled = !mine;
    button.title = mine ? "" : "take control first";
  }
  const hint = mine ? (actions.start && mode === "preview" ? actions.start : "") : "Take control to start, pause or change the queue.";
  write(byId("run-hint"), capital(hint));
  write(byId("setup-hint"), mine && actions.auto_focus ? capital(actions.auto_focus) : "");
}

export function showProgress({ montage, mode }) {
  if (!montage) return;
  const { current_tile: done = 0, total_tiles: total = 0, state } = montage;
  const isRunning = ["started", "in_progress", "resumed"].includes(state);
  write(byId("run-name"), `${montage.montage_id} · ${spoken(state)}`);
  const meter = byId("meter");
  meter.setAttribute("aria-valuemax", total || 1);
  meter.setAttribute("aria-valuenow", done);
  meter.dataset.state = state;
  meter.firstElementChild.style.width = `${total ? (100 * done) / total : 0}%`;
  write(byId("done"), `${number(done)} / ${number(total)} tiles`);
  write(byId("eta"), eta(montage, isRunning));
  figures(byId("speed"), [
    ["tiles/min", number(montage.throughput_tiles_per_min, 1)],
    ["running", span(montage.duration_seconds)],
    ["last tile, µm", montage.current_position ? places(montage.current_position) : "–"],
    ["cycle", ms(montage.avg_cycle_time_ms)],
    ["stage", ms(montage.stage_move_time_ms)],
    ["capture", ms(montage.capture_time_ms)],
  ]);
}

function eta({ estimated_completion: end, error_message: why, seen_at: at, state }, isRunning) {
  if (why && state === "error") return why;
  if (!isRunning) return `${spoken(state)} at ${clock(at)}`;
  if (!end) return "";
  const unix = Date.parse(/[zZ]|[+-]\d\d:?\d\d$/.test(end) ? end : `${end}Z`) / 1000;
  return `${span(unix - now())} left, done at ${clock(unix, false)}`;
}

const ms = (value) => (value == null ? "–" : `${number(value)} ms`);
