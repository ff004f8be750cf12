// Files on their way into a knowledge base, each for itself: sent, read, indexed, or refused with a reason.

import { useEffect, useReducer, useRef } from "preact/hooks";
import { Badge, bytes, html, Progress } from "./ui.js";
import { Problem, segment } from "./api.js";
import { Trouble } from "./trouble.js";

const AT_ONCE = 2;
const MOST = 500; // files that are taken at a time

let count = 0; // what tells two files of one name apart

/** {rows, add(kb, files), cancel(id), settle(base), clear()}. A row is {id, kb, file, state, sent, problem, document}. */
export function useUploads(api, onStored) {
  const [rows, tell] = useReducer(after, []);
  const going = useRef(new Map());
  useEffect(() => () => going.current.forEach((each) => each.abort()), []);
  useEffect(() => {
    const free = AT_ONCE - rows.filter((row) => row.state === "sending" || row.state === "reading").length;
    for (const row of rows.filter(({ state }) => state === "waiting").slice(0, Math.max(0, free))) start(row);
  }, [rows]);

  async function start(row) {
    if (going.current.has(row.id)) return;
    const leaving = new AbortController();
    going.current.set(row.id, leaving);
    const told = (more) => leaving.signal.aborted || tell({ id: row.id, ...more });
    told({ state: "sending" });
    try {
      const progress = (sent) => told({ sent, state: sent < row.file.size ? "sending" : "reading" });
      const { documents, state } = await send(api, row, progress, leaving.signal);
      told({ state: state === "ready" ? "done" : "indexing", document: documents[0], sent: row.file.size });
      onStored(row.kb);
    } catch (problem) {
      told({ state: "failed", problem });
    }
  }
  return {
    rows,
    add: (kb, files) => tell({ added: [...files].slice(0, MOST).map((file) => ({ id: (count += 1), kb, file, state: "waiting", sent: 0, problem: null, document: null })) }),
    cancel: (id) => (going.current.get(id)?.abort(), tell({ id, state: "gone" })),
    settle: (base) => tell({ base }),
    clear: () => tell({ clear: true }),
  };
}

function after(rows, { added, base, clear, id, ...more }) {
  if (added) return [...rows, ...added];
  if (clear) return rows.filter(({ state }) => state !== "done" && state !== "failed");
  if (base) return rows.map((row) => (row.kb === base.name && row.state === "indexing" ? settled(row, base) : row));
  return rows.map((row) => (row.id === id ? { ...row, ...more } : row)).filter(({ state }) => state !== "gone");
}

/** What became of a stored document, once its knowledge base says so. */
function settled(row, base) {
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
    signal.addEventListener("abort", () => request.abort());
    request.open("POST", `kb/${segment(kb)}/documents?wait=false`);
    request.responseType = "json";
    if (api.key) request.setRequestHeader("X-API-Key", api.key);
    request.send(form);
  });
}

const SAID = { waiting: "waiting", sending: "sending", reading: "being read", indexing: "being indexed", done: "can be found", failed: "failed" };
const TONES = { waiting: "calm", sending: "busy", reading: "busy", indexing: "busy", done: "good", failed: "bad" };

export function Uploads({ uploads }) {
  const { rows } = uploads;
  if (!rows.length) return null;
  const over = rows.filter(({ state }) => state === "done" || state === "failed").length;
  return html`<div class="uploads"><header class="side-head"><h3>Brought in</h3>
      <span class="hint" role="status">${over} of ${rows.length} done</span>
      ${over > 0 && html`<button type="button" class="button quiet small" onClick=${uploads.clear}>Clear</button>`}</header>
    <ul>${rows.slice(-30).map((row) => html`<li key=${row.id}>
      <span class="clip" title=${row.file.name}>${row.file.name}</span><span class="hint number">${bytes(row.file.size)}</span>
      <${Badge} tone=${TONES[row.state]}>${row.document?.status === "unchanged" && row.state === "done" ? "unchanged" : SAID[row.state]}<//>
      ${row.state === "waiting" || row.state === "sending" ? html`<button type="button" class="button quiet small" aria-label=${`Cancel ${row.file.name}`} onClick=${() => uploads.cancel(row.id)}>Cancel</button>` : html`<span></span>`}
      ${row.state === "sending" && html`<${Progress} value=${row.sent} max=${row.file.size || 1} label=${`${row.file.name} sent`} />`}
      ${(row.state === "reading" || row.state === "indexing") && html`<${Progress} label=${`${row.file.name} ${SAID[row.state]}`} />`}
      ${row.problem && html`<${Trouble} problem=${row.problem} />`}
    </li>`)}</ul></div>`;
}
