// What was found for a question, and each passage in its document.

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { Dialog, html, number, plural, Spinner } from "./ui.js";
import { segment } from "./api.js";
import { count, parts, places } from "./codepoints.js";
import { Trouble } from "./trouble.js";

const AROUND = 3000; // characters of the document that are shown before and behind a passage, at first

export function Retrieved({ documents, citations, onOpen }) {
  if (!documents.length) return html`<p class="hint">No passage was found.</p>`;
  const cited = new Set(citations.map((each) => each.number));
  return html`<h3 class="list-head">${plural(documents.length, "passage")} found</h3>
    <ol class="passages">${documents.map((each) => html`<li key=${each.id}>
      <button type="button" class="passage-row" onClick=${() => onOpen({ id: each.id })}>
        <span class=${`cite ${cited.has(each.number) ? "" : "unused"}`} aria-hidden="true">${each.number}</span>
        <span class="passage-text"><span class="passage-source">${each.source}${each.page_number && html` <span class="muted">page ${each.page_number}</span>`}${cited.has(each.number) && html` <span class="muted">cited</span>`}</span>
          <span class="snippet">${each.snippet}</span></span>
        <${Score} score=${each.score} />
      </button></li>`)}</ol>`;
}

function Score({ score }) {
  if (score === null) return html`<span class="score hint" title="Found by its words alone">words</span>`;
  return html`<span class="score" title="Cosine between question and passage"><span class="number">${score.toFixed(3)}</span>
    <span class="score-bar" aria-hidden="true"><i style=${{ width: `${Math.max(0, score) * 100}%` }}></i></span></span>`;
}

/** The document of a passage, which is marked in it; and in the passage the quote, where there is a citation. `opened` is
 * {kb, id, citation?}, whose id is that of a passage or of a document. */
export function Opened({ api, opened, onClose }) {
  const [document, setDocument] = useState(null);
  const [problem, setProblem] = useState(null);
  useEffect(() => {
    const leaving = new AbortController();
    const path = `kb/${segment(opened.kb)}/documents/${segment(opened.id.split(":")[0])}`;
    api.get(path, { signal: leaving.signal }).then(setDocument, (failure) => leaving.signal.aborted || setProblem(failure));
    return () => leaving.abort();
  }, [api, opened]);
  return html`<${Dialog} title=${document?.name ?? "Passage"} onClose=${onClose}>
    ${problem && html`<${Trouble} problem=${problem} />`}
    ${!problem && !document && html`<p><${Spinner} label="Opening the document" /></p>`}
    ${document && html`<${Text} document=${document} opened=${opened} />`}
  <//>`;
}

function Text({ document, opened }) {
  const [whole, setWhole] = useState(false);
  const frame = useRef(null);
  const seen = useMemo(() => around(document, opened, whole), [document, opened, whole]);
  useEffect(() => {
    const mark = frame.current.querySelector("mark.quote") ?? frame.current.querySelector("mark");
    if (mark) frame.current.scrollTop = mark.offsetTop - frame.current.offsetTop - frame.current.clientHeight / 3;
  }, [seen]);
  return html`<p class="hint">${facts(document, opened, seen).join(" · ")}</p>
    <div class="document" ref=${frame} tabindex="0" role="region" aria-label=${`Text of ${document.name}`}>
      ${seen.cut[0] && "…"}${seen.before}${seen.passage !== null && html`<mark class="passage">${seen.passage[0]}${seen.passage[1] && html`<mark class="quote">${seen.passage[1]}</mark>`}${seen.passage[2]}</mark>`}${seen.behind}${seen.cut[1] && "…"}
    </div>
    ${(seen.cut[0] || seen.cut[1]) && html`<button type="button" class="button quiet small" onClick=${() => setWhole(true)}>Show the whole document</button>`}`;
}

/** The part of the text that is shown, cut into what stands before the passage, it, and what stands behind. */
function around(document, { id, citation }, whole) {
  const chunk = document.chunks.find((each) => each.id === id);
  const from = chunk?.start ?? citation?.quote_start ?? 0, to = chunk?.end ?? citation?.quote_end ?? 0;
  const marked = to > from;
  const first = whole ? 0 : Math.max(0, from - AROUND), last = whole ? Infinity : (marked ? to : 0) + AROUND;
  const [a, b, c, d] = places(document.text, first, from, to, last);
  const cut = [a > 0, d < document.text.length];
  if (!marked) return { before: document.text.slice(a, d), passage: null, behind: "", cut, missing: id.includes(":") };
  const inside = document.text.slice(b, c);
  const quote = citation ? [citation.quote_start - from, citation.quote_end - from].map((each) => Math.max(0, each)) : [0, 0];
  return { before: document.text.slice(a, b), passage: parts(inside, ...quote), behind: document.text.slice(c, d), cut, missing: false };
}

function facts(document, { citation }, seen) {
  const found = [`${number(count(document.text))} characters`];
  if (document.pages.length) found.push(plural(document.pages.length, "page"));
  if (citation?.page_number) found.push(`quoted from page ${citation.page_number}`);
  if (document.source && document.source !== document.name) found.push(document.source);
  for (const [name, value] of Object.entries(document.metadata)) found.push(`${name}: ${value}`);
  if (seen.missing) found.push("the passage is not in it any more: it was replaced since");
  return found;
}
