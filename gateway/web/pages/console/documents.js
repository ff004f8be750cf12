// What is in a knowledge base: its state, its documents, and more of them by dropping files.

import { useEffect, useRef, useState } from "preact/hooks";
import { Ago, Badge, html, number, plural, Progress } from "./ui.js";
import { segment } from "./api.js";
import { DeleteBase, DeleteDocument } from "./bases.js";
import { Trouble } from "./trouble.js";
import { Uploads, useUploads } from "./uploads.js";

const PAGE = 50;

export function Documents({ api, base, names, look, onOpen, onNew }) {
  const uploads = useUploads(api, look);
  const [asked, setAsked] = useState(null);
  useEffect(() => uploads.settle(base), [base]);
  const done = () => (setAsked(null), look());
  return html`<section class="card documents" aria-label=${`Knowledge base ${base.name}`}>
    <header class="side-head"><h2 class="wrap">${base.name}</h2><${Badge} state=${base.state} />
      <button type="button" class="button small" onClick=${onNew}>New…</button></header>
    <${State} base=${base} names=${names} />
    <${Drop} onFiles=${(files) => uploads.add(base.name, files)} />
    <${Uploads} uploads=${uploads} kb=${base.name} />
    <${List} api=${api} base=${base} onOpen=${onOpen} onDelete=${(document) => setAsked({ document })} />
    <footer><button type="button" class="button quiet small danger-text" onClick=${() => setAsked({})}>Delete this knowledge base…</button></footer>
    ${asked?.document && html`<${DeleteDocument} api=${api} base=${base} document=${asked.document} onGone=${done} onClose=${() => setAsked(null)} />`}
    ${asked && !asked.document && html`<${DeleteBase} api=${api} base=${base} onGone=${done} onClose=${() => setAsked(null)} />`}
  </section>`;
}

function State({ base, names }) {
  const { error, failed, pending, reindex } = base;
  return html`<dl class="measures">
      <div><dt>Documents</dt><dd>${number(base.documents)}</dd></div><div><dt>Passages</dt><dd>${number(base.chunks)}</dd></div>
      <div><dt>Embedded with</dt><dd>${names.get(base.model ?? base.embedding_model) ?? base.embedding_model} <code class="generation">${base.generation ?? ""}</code></dd></div>
    </dl>
    ${pending > 0 && html`<div class="working"><span role="status">${plural(pending, "document")} to be indexed</span><${Progress} label="Indexing" /></div>`}
    ${reindex && html`<p class="hint" role="status">Generation ${reindex.generation}: ${reindex.message || `${reindex.state}, ${reindex.documents} of ${reindex.total} documents embedded anew`}</p>`}
    ${error && html`<${Trouble} problem=${error} title="Stalled:" />`}
    ${failed.slice(0, 5).map((each) => html`<${Trouble} key=${each.id} problem=${each.error} title=${`${each.name}:`} />`)}`;
}

/** Where files are dropped, or chosen. */
function Drop({ onFiles }) {
  const [over, setOver] = useState(false);
  const input = useRef(null);
  const drop = async (event) => {
    event.preventDefault();
    setOver(false);
    onFiles(await dropped(event.dataTransfer));
  };
  const chosen = (event) => {
    onFiles([...event.target.files]);
    event.target.value = ""; // the same file may be chosen again
  };
  return html`<div class=${`drop ${over ? "over" : ""}`} onDragOver=${(event) => (event.preventDefault(), setOver(true))}
    onDragLeave=${(event) => event.currentTarget.contains(event.relatedTarget) || setOver(false)} onDrop=${drop}>
    <p>Drop documents here: text, Markdown, HTML, PDF</p>
    <button type="button" class="button" onClick=${() => input.current.click()}>Choose files</button>
    <input ref=${input} type="file" multiple hidden onChange=${chosen} aria-label="Files for the knowledge base" />
  </div>`;
}

/** The files of a drop, those in folders too. */
async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return [...transfer.files];
  return (await Promise.all(entries.map(within))).flat();
}

async function within(entry) {
  if (entry.isFile) return [await new Promise((resolve, reject) => entry.file(resolve, reject))];
  const reader = entry.createReader(), found = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return (await Promise.all(found.map(within))).flat();
    found.push(...some.filter((each) => !each.name.startsWith(".")));
  }
}

function List({ api, base, onOpen, onDelete }) {
  const [found, setFound] = useState({ documents: [], total: 0 });
  const [limit, setLimit] = useState(PAGE);
  const [problem, setProblem] = useState(null);
  useEffect(() => {
    const leaving = new AbortController();
    api.get(`kb/${segment(base.name)}/documents?limit=${limit}`, { signal: leaving.signal }).then(
      (answer) => (setFound(answer), setProblem(null)), (failure) => leaving.signal.aborted || setProblem(failure));
    return () => leaving.abort();
  }, [api, base.name, base.documents, base.chunks, base.pending, limit]);
  if (problem) return html`<${Trouble} problem=${problem} />`;
  return html`<ul class="document-list" aria-label="Documents">${found.documents.map((each) => html`<li key=${each.id}>
      <button type="button" class="link clip" onClick=${() => onOpen({ id: each.id })} title=${each.name}>${each.name}</button>
      <span class="hint number">${each.pages > 0 ? plural(each.pages, "page") : `${number(each.characters)} chars`}</span>
      <span class="hint"><${Ago} at=${each.added} /></span>
      <button type="button" class="button quiet small" aria-label=${`Delete ${each.name}`} title="Delete" onClick=${() => onDelete(each)}>×</button>
    </li>`)}</ul>
    ${found.total > found.documents.length && html`<button type="button" class="button quiet small" onClick=${() => setLimit(limit + 4 * PAGE)}>
      More of ${number(found.total)}</button>`}`;
}
