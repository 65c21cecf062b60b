// Forms that open over the page and leave it usable: the stops are always in reach.

/** Open a dialog that is not modal; Escape and its Back button close it. */
export function open(dialog) {
  for (const other of document.querySelectorAll("dialog[open]")) other.close();
  const opener = document.activeElement;
  dialog.querySelector(".wrong").textContent = "";
  dialog.show();
  dialog.querySelector("input")?.focus();
  dialog.addEventListener("close", () => opener?.focus(), { once: true });
}

export function setUpSheets() {
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.querySelector("[data-close]").addEventListener("click", () => dialog.close());
    dialog.addEventListener("keydown", (event) => event.key === "Escape" && dialog.close());
  }
}
