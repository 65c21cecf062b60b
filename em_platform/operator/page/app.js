// Puts the page together: one stream of changes, and a function for each part of it.
import { get } from "./api.js";
import { setUpControl, showControl } from "./control.js";
import { showDevices, showServices, showBuffer } from "./devices.js";
import { showFinished } from "./finished.js";
import { byId, write } from "./format.js";
import { showBanner, showPath, showQc } from "./header.js";
import { showJournal } from "./journal.js";
import { setUpLive, showNewest } from "./live.js";
import { setUpMap, showMap } from "./map.js";
import { showMinimaps } from "./minimaps.js";
import { setUpQueue, showQueue } from "./queue.js";
import { setUpRun, showActions, showProgress } from "./run.js";
import { setUpSheets } from "./sheet.js";
import { follow } from "./stream.js";

/** All parts as the service has sent them. */
const parts = {};
let about = { stale_s: 5, heartbeat_s: 10, setup: [], web: {} };
let changed = new Set();
let isDrawing = false;

const ON_CHANGE = {
  newest: () => showNewest(parts.newest),
  journal: () => showJournal(parts.journal),
  finished: () => showFinished(parts.finished, about.web),
  minimaps: () => showMinimaps(parts.minimaps),
  queue: () => showQueue(parts.queue),
  control: () => showControl(parts.control),
};

function draw() {
  isDrawing = false;
  for (const name of changed) ON_CHANGE[name]?.();
  const some = (...names) => names.some((name) => changed.has(name));
  if (some("control", "actions", "mode", "stopping", "queue")) showActions(parts);
  changed = new Set();
  showAged();
}

/** What depends on the time too; also drawn where nothing has changed. */
function showAged() {
  showPath(parts, about.stale_s);
  showQc(parts.qc, about.stale_s);
  showBanner(parts.broker);
  showDevices(parts, about);
  showServices(parts.services, about.stale_s, about.service);
  showBuffer(parts.buffer, parts.upload, about.stale_s);
  showProgress(parts);
}

function take(message) {
  Object.assign(parts, message.parts);
  for (const name of Object.keys(message.parts)) changed.add(name);
  if (message.map) showMap(message.map);
  if (!isDrawing) {
    isDrawing = true;
    requestAnimationFrame(draw);
  }
}

async function begin() {
  about = await get("/api/about");
  write(byId("microscope"), about.microscope);
  setUpControl(about.heartbeat_s, () => showActions(parts));
  setUpSheets();
  setUpLive();
  setUpMap(about);
  setUpRun(about.setup);
  setUpQueue(about, () => parts);
  follow(take);
  setInterval(showAged, 1000);
}

begin();
