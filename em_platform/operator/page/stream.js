// Follows the service's events; knows how far its clock is from ours.

let offset = 0;
let receivedAt = 0;

/** Unix seconds of the service's clock. */
export const now = () => Date.now() / 1000 + offset;

/** Whether the service answered within the last seconds. */
export const isLive = () => receivedAt > 0 && performance.now() - receivedAt < 6000;

/** Calls `changed(message)` for each batch of changes; a new connection starts with all of them. */
export function follow(changed) {
  let source = null;
  const listen = (message) => {
    receivedAt = performance.now();
    offset = message.now - Date.now() / 1000;
  };
  const connect = () => {
    source?.close();
    source = new EventSource("/api/events");
    source.addEventListener("changes", (event) => {
      const message = JSON.parse(event.data);
      listen(message);
      changed(message);
    });
    source.addEventListener("tick", (event) => listen(JSON.parse(event.data)));
    source.onerror = () => {
      receivedAt = 0; // until it answers again
      if (source.readyState === EventSource.CLOSED) setTimeout(connect, 2000);
    };
  };
  connect();
  addEventListener("pagehide", () => source.close());
  addEventListener("pageshow", (event) => event.persisted && connect());
}
