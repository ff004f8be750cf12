// Asking the gateway. Every failure is a Problem; the key goes in a header and is kept for the session only.

const KEY = "dropgate.key";
const PATIENCE = 30_000; // milliseconds for an answer
const LONG = 600_000; // of work: loads, answers

/** What went wrong: a stable code, a sentence, the HTTP status (0 where there was no answer), what would help. */
export class Problem extends Error {
  constructor({ code, message, status = 0, remedy = null, ...details }) {
    super(message);
    Object.assign(this, { name: "Problem", code, status, remedy, details });
  }
}

const REMEDIES = {
  unauthenticated: "Enter a key with the button at the top.",
  forbidden: "Ask for a key with a higher role.",
  unreachable: "Is the gateway running? The page goes on trying.",
};

export function createApi() {
  const listeners = new Set();

  async function send(method, path, { body, signal, timeout = PATIENCE, headers = {}, key = api.key } = {}) {
    const form = body instanceof FormData;
    const clock = AbortSignal.timeout(timeout);
    const all = signal ? AbortSignal.any([signal, clock]) : clock;
    const sent = { ...headers };
    if (key) sent["X-API-Key"] = key;
    if (body !== undefined && !form) sent["Content-Type"] = "application/json";
    let response;
    try {
      const content = body === undefined || form ? body : JSON.stringify(body);
      response = await fetch(path, { method, headers: sent, body: content, signal: all, cache: "no-store" });
    } catch (error) {
      throw failed(error, clock, timeout);
    }
    if (!response.ok) throw await refusal(response);
    return response;
  }

  async function json(method, path, body, options) {
    const response = await send(method, path, { ...options, body });
    try {
      return await response.json();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Problem({ code: "unreachable", message: "the answer broke off", status: response.status });
    }
  }

  function told(problem) {
    if (problem.code === "unauthenticated") for (const listen of listeners) listen(problem);
    return problem;
  }

  async function refusal(response) {
    let said = {};
    try {
      said = (await response.json()).error ?? {};
    } catch {
      // a proxy's own page: its status says enough
    }
    if (typeof said === "string") said = { message: said };
    const code = said.code ?? response.headers.get("X-Gateway-Error") ?? `http_${response.status}`;
    const message = said.message ?? `the gateway answered ${response.status}`;
    return told(new Problem({ ...said, code, message, status: response.status, remedy: said.remedy ?? REMEDIES[code] }));
  }

  /** Server-sent events over fetch, so that the key goes in a header: `onEvent({event, data})`. Ends when the stream
   *  does. `heard` is called with whatever comes, comments too. */
  async function stream(path, body, onEvent, signal, { heard } = {}) {
    const method = body === undefined || body === null ? "GET" : "POST";
    const response = await send(method, path, {
      body: body ?? undefined,
      signal,
      timeout: 2 ** 31 - 1,
      headers: { Accept: "text/event-stream" },
    });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      let part;
      try {
        part = await reader.read();
      } catch (error) {
        if (signal?.aborted) throw error;
        throw new Problem({ code: "unreachable", message: "the stream broke off", remedy: REMEDIES.unreachable });
      }
      if (part.done) return;
      heard?.();
      text += part.value;
      const blocks = text.split("\n\n");
      text = blocks.pop();
      for (const block of blocks) deliver(block, onEvent);
    }
  }

  const api = {
    get: (path, options) => json("GET", path, undefined, options),
    post: (path, body, options) => json("POST", path, body, { timeout: LONG, ...options }),
    put: (path, body, options) => json("PUT", path, body, { timeout: LONG, ...options }),
    delete: (path, options) => json("DELETE", path, undefined, options),
    send,
    stream,
    get key() {
      return sessionStorage.getItem(KEY) ?? "";
    },
    set key(value) {
      if (value) sessionStorage.setItem(KEY, value);
      else sessionStorage.removeItem(KEY);
    },
    /** Calls `listen` whenever a key is asked for; the answer takes it back. */
    onUnauthenticated(listen) {
      listeners.add(listen);
      return () => listeners.delete(listen);
    },
  };
  return api;
}

/** An id or name as part of a path: its slashes stay. */
export function segment(name) {
  return name.split("/").map(encodeURIComponent).join("/");
}

function failed(error, clock, timeout) {
  if (clock.aborted) {
    return new Problem({ code: "timeout", message: `no answer within ${Math.round(timeout / 1000)} s` });
  }
  if (error.name === "AbortError") return error;
  return new Problem({ code: "unreachable", message: "the gateway does not answer", remedy: REMEDIES.unreachable });
}

/** One block of a stream; its data is JSON, or else text as it is. */
function deliver(block, onEvent) {
  let name = "message";
  const lines = [];
  for (const line of block.split("\n")) {
    if (line.startsWith("event:")) name = line.slice(6).trim();
    else if (line.startsWith("data:")) lines.push(line.slice(5).replace(/^ /, ""));
  }
  if (!lines.length) return;
  const text = lines.join("\n");
  let data = text;
  try {
    data = JSON.parse(text);
  } catch {
    // text
  }
  onEvent({ event: name, data });
}
