// The knowledge bases there are; a new one, and the end of one.

import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import { Dialog, Field, html, plural, Select } from "./ui.js";
import { segment } from "./api.js";
import { first, titles } from "./choice.js";
import { Trouble } from "./trouble.js";

const GLANCE = 700; // milliseconds between looks at a base that is being indexed

/** {bases, problem, look()}; `bases` is null until they are known. One that is being indexed is looked at until it is done,
 * and all of them again when the gateway is back, or another key is used. */
export function useBases(api, live) {
  const [bases, setBases] = useState(null);
  const [problem, setProblem] = useState(null);
  const leaving = useRef(null), newest = useRef(0); // when the look began that is shown
  const look = useCallback(async () => {
    const { signal } = leaving.current, looked = performance.now();
    try {
      const { knowledge_bases: found } = await api.get("kb", { signal });
      if (looked < newest.current) return; // a later look was faster
      newest.current = looked;
      setBases(found.map((base) => ({ ...base, looked })));
      setProblem(null);
    } catch (failure) {
      if (!signal.aborted && looked >= newest.current) setProblem(failure);
    }
  }, [api]);
  useEffect(() => {
    leaving.current = new AbortController();
    look();
    let before = live.state.connection.state;
    const forget = live.subscribe(({ connection: { state } }) => {
      if (state === "live" && before !== "live") look();
      before = state;
    });
    return () => (leaving.current.abort(), forget());
  }, [look, live]);
  const working = (bases ?? []).some((base) => base.pending > 0 || base.state === "indexing" || base.reindex?.state === "building");
  useEffect(() => {
    if (!working) return undefined;
    const timer = setTimeout(look, GLANCE);
    return () => clearTimeout(timer);
  }, [bases, problem, working, look]); // after one that failed, too
  return { bases, problem, look };
}

export function NewBase({ api, models, bases, onMade, onClose }) {
  const [name, setName] = useState(bases.length ? "" : "documents");
  const [model, setModel] = useState(() => first(models)?.id ?? "");
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState(null);
  const called = titles(models), twice = bases.some((base) => base.name === name.trim());
  const make = async () => {
    setBusy(true);
    try {
      await api.post(`kb/${segment(name.trim())}/documents?embedding_model=${encodeURIComponent(model)}`, { documents: [] });
      onMade(name.trim());
    } catch (failure) {
      setProblem(failure);
      setBusy(false);
    }
  };
  return html`<${Dialog} title="New knowledge base" confirm="Create" busy=${busy} disabled=${!name.trim() || twice} onConfirm=${make} onClose=${onClose}>
    ${problem && html`<${Trouble} problem=${problem} />`}
    <${Field} label="Name" name="kb-name" value=${name} autocomplete="off" spellcheck=${false} autofocus onInput=${(event) => setName(event.currentTarget.value)}
      hint=${twice ? "There is one of this name." : "Letters, digits, dots, _ and -. Names are exact."} />
    <${Select} label="Embedding model" name="kb-model" options=${models.map(({ id }) => [id, called.get(id)])} value=${model} onChange=${setModel} />
    <p class="hint">All its documents are embedded with this model. When another generation of it goes live, they are embedded anew
      beside the old index, and nobody notices.</p>
  <//>`;
}

export function DeleteBase({ api, base, onGone, onClose }) {
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState(null);
  const go = async () => {
    setBusy(true);
    try {
      await api.delete(`kb/${segment(base.name)}`);
      onGone();
    } catch (failure) {
      setProblem(failure);
      setBusy(false);
    }
  };
  return html`<${Dialog} title=${`Delete ${base.name}?`} confirm="Delete" danger busy=${busy} onConfirm=${go} onClose=${onClose}>
    ${problem && html`<${Trouble} problem=${problem} />`}
    <p>The knowledge base <strong>${base.name}</strong> goes with its ${plural(base.documents, "document")}, their text and their
      index. Nothing of it can be brought back.</p>
  <//>`;
}

export function DeleteDocument({ api, base, document, onGone, onClose }) {
  const [problem, setProblem] = useState(null);
  const go = () => api.delete(`kb/${segment(base.name)}/documents/${document.id}`).then(onGone, setProblem);
  return html`<${Dialog} title="Delete this document?" confirm="Delete" danger onConfirm=${go} onClose=${onClose}>
    ${problem && html`<${Trouble} problem=${problem} />`}
    <p><strong class="wrap">${document.name}</strong> leaves ${base.name}, and is found no more.</p>
  <//>`;
}
