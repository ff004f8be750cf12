// Files on their way into a knowledge base, each for itself: sent, read, indexed, or refused with a reason.

import { useEffect, useState } from "preact/hooks";
import { Badge, bytes, html, Progress } from "./ui.js";
import { Problem, segment } from "./api.js";
import { Trouble } from "./trouble.js";

const AT_ONCE = 2;
const MOST = 500; // files that are taken at a time

// They go on while another page is looked at.
let count = 0; // what tells two files of one name apart
let rows = [];
const going = new Map(); // id -> what ends it
const listeners = new Set();

/** {rows, add(kb, files), cancel(id), settle(base), clear()}. A row is {id, kb, file, state, sent, problem, document};
 * `onStored` is called when another document is stored. */
export function useUploads(api, onStored) {
  const [shown, show] = useState(rows);
  useEffect(() => {
    show(rows);
    listeners.add(show);
    return () => listeners.delete(show);
  }, []);
  const stored = shown.filter(({ document }) => document).length;
  useEffect(() => {
    if (stored) onStored();
  }, [stored]);
  return {
    rows: shown,
    add(kb, files) {
      const added = [...files].slice(0, MOST).map((file) => ({ id: (count += 1), kb, file, state: "waiting", sent: 0, problem: null, document: null }));
      tell({ added });
      next(api);
    },
    cancel: (id) => (going.get(id)?.abort(), tell({ id, state: "gone" }), next(api)),
    settle: (base) => tell({ base }),
    clear: () => tell({ clear: true }),
  };
}

function tell(change) {
  rows = after(rows, change);
  for (const listen of listeners) listen(rows);
}

/** Begins as many as may be under way. */
function next(api) {
  const free = AT_ONCE - rows.filter(({ state }) => state === "sending" || state === "reading").length;
  for (const row of rows.filter(({ state }) => state === "waiting").slice(0, Math.max(0, free))) start(api, row);
}

async function start(api, row) {
  const leaving = new AbortController();
  going.set(row.id, leaving);
  const told = (more) => leaving.signal.aborted || tell({ id: row.id, ...more });
  told({ state: "sending" });
  try {
    const progress = (sent) => told({ sent, state: sent < row.file.size ? "sending" : "reading" });
    const { documents, state } = await send(api, row, progress, leaving.signal);
    told({ state: state === "ready" ? "done" : "indexing", document: documents[0], sent: row.file.size, stored: performance.now() });
  } catch (problem) {
    told({ state: "failed", problem });
  }
  going.delete(row.id);
  next(api);
}

function after(before, { added, base, clear, id, ...more }) {
  if (added) return [...before, ...added];
  if (clear) return before.filter(({ state }) => state !== "done" && state !== "failed");
  if (base) return before.map((row) => (row.kb === base.name && row.state === "indexing" ? settled(row, base) : row));
  return before.map((row) => (row.id === id ? { ...row, ...more } : row)).filter(({ state }) => state !== "gone");
}

/** What became of a stored document, once its knowledge base says so: as it was looked at after that. */
function settled(row, base) {
  if (base.looked < row.stored) return row;
  const failed = base.failed.find((each) => each.id === row.document.id);
  if (failed) return { ...row, state: "failed", problem: failed.error };
  return base.pending === 0 ? { ...row, state: "done" } : row;
}

/** One file, with how much of it has been sent: only XMLHttpRequest tells. Rejects with a Problem. */
function send(api, { kb, file }, onProgress, signal) {
  const request = new XMLHttpRequest(), form = new FormData();
  form.append("file", file, file.name);
  return new Promise((resolve, reject) => {
    request.upload.addEventListener("progress", ({ loaded }) => onProgress(Math.min(loaded, file.size)));
    request.upload.addEventListener("load", () => onProgress(file.size));
    request.addEventListener("error", () => reject(new Problem({ code: "unreachable", message: "the gateway does not answer, or has refused the file before it was sent" })));
    request.addEventListener("load", () => {
      const answer = request.response ?? {};
      if (request.status < 300) resolve(answer);
      else reject(new Problem({ code: `http_${request.status}`, message: `the gateway answered ${request.status}`, status: request.status, ...answer.error }));
    });
    request.addEventListener("abort", () => reject(new DOMException("cancelled", "AbortError")));
    signal.addEventListener("abort", () => request.abort());
    request.open("POST", `kb/${segment(kb)}/documents?wait=false`);
    request.responseType = "json";
    if (api.key) request.setRequestHeader("X-API-Key", api.key);
    request.send(form);
  });
}

const SAID = { waiting: "waiting", sending: "sending", reading: "being read", indexing: "being indexed", done: "can be found", failed: "failed" };
const TONES = { waiting: "calm", sending: "busy", reading: "busy", indexing: "busy", done: "good", failed: "bad" };

export function Uploads({ uploads, kb }) {
  const mine = uploads.rows.filter((row) => row.kb === kb);
  if (!mine.length) return null;
  const over = mine.filter(({ state }) => state === "done" || state === "failed").length;
  return html`<div class="uploads"><header class="side-head"><h3>Brought in</h3>
      <span class="hint" role="status">${over} of ${mine.length} done</span>
      ${over > 0 && html`<button type="button" class="button quiet small" onClick=${uploads.clear}>Clear</button>`}</header>
    <ul>${mine.slice(-30).map((row) => html`<li key=${row.id}>
      <span class="clip" title=${row.file.name}>${row.file.name}</span><span class="hint number">${bytes(row.file.size)}</span>
      <${Badge} tone=${TONES[row.state]}>${row.document?.status === "unchanged" && row.state === "done" ? "unchanged" : SAID[row.state]}<//>
      ${row.state === "waiting" || row.state === "sending" ? html`<button type="button" class="button quiet small" aria-label=${`Cancel ${row.file.name}`} onClick=${() => uploads.cancel(row.id)}>Cancel</button>` : html`<span></span>`}
      ${row.state === "sending" && html`<${Progress} value=${row.sent} max=${row.file.size || 1} label=${`${row.file.name} sent`} />`}
      ${(row.state === "reading" || row.state === "indexing") && html`<${Progress} label=${`${row.file.name} ${SAID[row.state]}`} />`}
      ${row.problem && html`<${Trouble} problem=${row.problem} />`}
    </li>`)}</ul></div>`;
}
