// Who has control: taking it, keeping it by a heartbeat, giving it up.
import { heldToken, holdToken, post } from "./api.js";
import { byId, make, write } from "./format.js";
import { toast } from "./journal.js";
import { open } from "./sheet.js";

let holder = "";
let onChange = () => {};

/** Whether this page has control. */
export const hasControl = () => heldToken() !== "" && holder !== "";

export function setUpControl(heartbeatS, changed) {
  onChange = changed;
  const dialog = byId("control-dialog");
  const form = byId("control-form");
  form.elements.name.value = localStorage.getItem("operator-name") ?? "";
  byId("control").addEventListener("click", () => (hasControl() ? release() : open(dialog)));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    take(form, dialog);
  });
  setInterval(beat, heartbeatS * 1000);
  beat();
}

/** Show who has control; where it was ours, only after the service has confirmed it. */
export async function showControl(control) {
  holder = control.holder;
  if (!holder) holdToken("");
  else await beat();
  draw();
}

async function take(form, dialog) {
  const wrong = form.querySelector(".wrong");
  wrong.textContent = "";
  const name = form.elements.name.value.trim();
  try {
    const { token } = await post("/api/control", { name, take_over: holder !== "" });
    holdToken(token);
    holder = name;
    localStorage.setItem("operator-name", name);
    dialog.close();
  } catch (error) {
    wrong.textContent = error.message;
  }
  draw();
}

async function release() {
  try {
    await post("/api/control/release");
  } catch (error) {
    toast(error.message);
  }
  holdToken("");
  draw();
}

/** Report that this page is open; learn that another has taken over. */
async function beat() {
  if (!heldToken()) return;
  try {
    await post("/api/control/heartbeat");
  } catch (error) {
    if (error.status !== 403) return;
    holdToken("");
    toast(error.message);
    draw();
  }
}

function draw() {
  const mine = hasControl();
  const text = mine ? `you (${holder})` : holder || "free";
  write(byId("holder"), text);
  const button = byId("control");
  write(button, mine ? "Release" : holder ? "Take over …" : "Take control …");
  document.body.classList.toggle("in-control", mine);
  write(byId("control-title"), holder ? `Take control over from ${holder}` : "Take control");
  write(byId("control-ok"), holder ? `Take over from ${holder}` : "Take control");
  byId("control-text").replaceChildren(
    holder
      ? make("span", {}, `${holder} has control now and is notified at once.`)
      : "One operator at a time can start, pause and set up. Stopping is available to all users.",
  );
  onChange();
}
