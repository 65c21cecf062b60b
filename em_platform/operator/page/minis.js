// Small pictures of the tiles, fetched a few at a time and kept at the size shown.

const AT_ONCE = 4;
const EDGE = 96;

const held = new Map();
let waiting = [];
let running = 0;
let arrived = () => {};

export const onMini = (callback) => (arrived = callback);

export function forgetMinis() {
  for (const each of held.values()) each.picture?.close();
  held.clear();
  waiting = [];
}

/** The picture of a tile where it is here; asks for it otherwise. */
export function miniOf(row, column, version, size) {
  if (!version) return null;
  const name = `${row}/${column}`;
  const mine = held.get(name);
  if (mine?.version === version) return mine.picture;
  const next = { name, version, picture: mine?.picture ?? null, edge: size > 40 ? EDGE : EDGE / 2 };
  held.set(name, next);
  waiting.push(next);
  work();
  return next.picture;
}

function work() {
  while (running < AT_ONCE && waiting.length) {
    const each = waiting.pop();
    running += 1;
    fetchMini(each).finally(() => {
      running -= 1;
      work();
    });
  }
}

async function fetchMini(each) {
  try {
    const answer = await fetch(`/api/pictures/mini/${each.name}?v=${each.version}`);
    if (!answer.ok) return;
    const picture = await createImageBitmap(await answer.blob(), {
      resizeWidth: each.edge,
      resizeHeight: each.edge,
      resizeQuality: "medium",
    });
    if (held.get(each.name) !== each) return picture.close();
    each.picture?.close();
    each.picture = picture;
    arrived();
  } catch {
    held.delete(each.name); // asked again at the next painting
  }
}
