// Speaks to the service: JSON in, JSON out, every error is one sentence.

export class Refused extends Error {
  constructor(sentence, status, facts = {}) {
    super(sentence);
    this.status = status;
    this.facts = facts;
  }
}

let token = sessionStorage.getItem("control-token") ?? "";

export const heldToken = () => token;

export function holdToken(given) {
  token = given;
  if (given) sessionStorage.setItem("control-token", given);
  else sessionStorage.removeItem("control-token");
}

export async function post(path, body = {}) {
  const headers = { "Content-Type": "application/json" };
  if (token) headers["X-Control-Token"] = token;
  let answer;
  try {
    answer = await fetch(path, { method: "POST", headers, body: JSON.stringify(body) });
  } catch {
    throw new Refused("page: the operator service does not answer; nothing was sent", 0);
  }
  return read(answer);
}

export async function get(path) {
  return read(await fetch(path));
}

async function read(answer) {
  const found = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refused(found.error ?? `status ${answer.status}`, answer.status, found);
  return found;
}
