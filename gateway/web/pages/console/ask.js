// Questions to documents: an answer as it is said, what it rests on, and the same with other settings beside it.

import { useEffect, useMemo, useState } from "preact/hooks";
import { Button, Empty, Field, html, Spinner } from "./ui.js";
import { Answer } from "./answer.js";
import { useAnswer } from "./answering.js";
import { NewBase, useBases } from "./bases.js";
import { encoders, spelling, titles, useModels } from "./choice.js";
import { Documents } from "./documents.js";
import { Opened } from "./passages.js";
import { Programs } from "./programs.js";
import { base } from "./results.js";
import { body, defaults, EXTRACTIVE, Settings, summary } from "./settings.js";
import { asking } from "./snippets.js";
import { Trouble } from "./trouble.js";

// What was typed stays while the page is open, whatever tab is looked at.
const draft = { query: "", settings: [null, null], both: false };

export function Page({ api, live }) {
  const models = useModels(live);
  const { bases, problem, look } = useBases(api, live);
  const llms = useLlms(api, models);
  const [making, setMaking] = useState(false);
  const names = useMemo(() => called(models ?? [], llms), [models, llms]);
  const usable = encoders(models);
  const [wanted, setWanted] = useState("");
  const made = (name) => (setMaking(false), setWanted(name), look());
  const known = bases && models;
  return html`<section class="page ask"><header class="intro"><h1>Ask</h1>
      <p class="muted">Answers from your documents, with the passages that they rest on.</p></header>
    ${problem && !bases && html`<${Unavailable} problem=${problem} />`}
    ${!problem && !known && html`<p><${Spinner} label="Looking for knowledge bases" /></p>`}
    ${known && !bases.length && html`<${None} usable=${usable.length > 0} onNew=${() => setMaking(true)} />`}
    ${known && bases.length > 0 && html`<${Desk} ...${{ api, bases, models, llms, names, look, wanted }} onNew=${() => setMaking(true)} />`}
    ${making && html`<${NewBase} api=${api} models=${usable} bases=${bases ?? []} onMade=${made} onClose=${() => setMaking(false)} />`}
  </section>`;
}

function Unavailable({ problem }) {
  if (problem.code !== "ask_unavailable") return html`<${Trouble} problem=${problem} />`;
  return html`<${Empty} title="This gateway was installed without knowledge bases"><p>With this they are there after a restart:</p>
    <pre><code>pip install 'dropgate[ask]'</code></pre><//>`;
}

function None({ usable, onNew }) {
  if (!usable) return html`<${Empty} title="No model to find passages with"><p>Documents are found by an embedding model. Drop one into the
    volume first: the <a href="#models">Models</a> page says how.</p><//>`;
  return html`<${Empty} title="Ask your own documents"><p>Make a knowledge base, drop files into it, and ask. Each answer says which
      passages it rests on, and opens them in their document. No language model is needed to begin with.</p>
    <${Button} kind="primary" onClick=${onNew}>New knowledge base<//>
    <p>Or in a terminal:</p><pre><code>gateway kb add documents *.pdf *.md</code></pre><//>`;
}

function Desk({ api, bases, models, llms, names, look, wanted, onNew }) {
  const [form, setForm] = useState(() => begun(bases, llms));
  const [opened, setOpened] = useState(null);
  const answers = [useAnswer(api), useAnswer(api)];
  const change = (more) => setForm((before) => Object.assign(draft, { ...before, ...more }) && { ...draft });
  const set = (number) => (settings) => change({ settings: form.settings.map((each, at) => (at === number ? settings : each)) });
  useEffect(() => {
    if (bases.some(({ name }) => name === wanted)) set(0)({ ...form.settings[0], kb: wanted });
  }, [wanted, bases.length]);
  const settings = form.settings.map((each) => repaired(each, bases, llms));
  const chosen = form.both ? [0, 1] : [0], busy = answers.some(([state]) => state.busy);
  const rerankers = models.filter((model) => model.kind === "reranker" && model.generation).map(({ id }) => id);
  const submit = (event) => {
    event.preventDefault();
    const query = form.query.trim();
    if (!query || busy) return;
    if (!form.both) answers[1][2]();
    for (const number of chosen) answers[number][1](body(query, settings[number]));
  };
  const quick = (event) => event.key === "Enter" && !event.shiftKey && !event.isComposing && submit(event);
  const stop = () => answers.forEach(([, , end]) => end());
  const shown = chosen.filter((number) => answers[number][0].asked);
  const first = bases.find(({ name }) => name === settings[0].kb);
  return html`<div class="ask-grid"><div class="ask-main">
      <form class="card ask-form" onSubmit=${submit}>
        <${Field} label="Question">${(id) => html`<textarea id=${id} name="query" rows="2" value=${form.query} onKeyDown=${quick}
          placeholder="What would you like to know?" onInput=${(event) => change({ query: event.currentTarget.value })}></textarea>`}<//>
        <div class=${`ask-settings ${form.both ? "two" : "one"}`}>${chosen.map((number) => html`<${Settings} key=${number} title=${form.both ? ["First", "Second"][number] : ""}
          suffix=${number ? "-second" : ""} settings=${settings[number]} onChange=${set(number)} ...${{ bases, llms, rerankers, names }} />`)}</div>
        <div class="actions">${busy ? html`<${Button} key="stop" onClick=${stop}>Stop<//>` : html`<${Button} key="go" type="submit" kind="primary" disabled=${!form.query.trim()}>Ask<//>`}
          <label class="check"><input type="checkbox" name="both" checked=${form.both} onChange=${(event) => change({ both: event.currentTarget.checked })} /> Two settings side by side</label></div>
      </form>
      ${shown.length > 0 && html`<div class=${`sides ${form.both ? "two" : "one"}`}>${shown.map((number) => html`<${Answer} key=${number}
        title=${form.both ? ["First answer", "Second answer"][number] : "Answer"} about=${about(answers[number][0].asked, names)} state=${answers[number][0]} names=${names}
        onOpen=${(passage) => setOpened({ ...passage, kb: answers[number][0].asked.knowledge_base })} />`)}</div>
        <${Code} asked=${answers[shown[0]][0].asked} keyed=${Boolean(api.key)} />`}
    </div>
    ${first && html`<aside class="ask-aside"><${Documents} key=${first.name} api=${api} base=${first} names=${names} look=${look} onNew=${onNew}
      onOpen=${(document) => setOpened({ ...document, kb: first.name })} /></aside>`}
    ${opened && html`<${Opened} api=${api} opened=${opened} onClose=${() => setOpened(null)} />`}
  </div>`;
}

function begun(bases, llms) {
  const fullest = [...bases].sort((one, other) => other.documents - one.documents)[0].name;
  const [one, two] = draft.settings;
  const settings = [one ?? defaults(fullest), two ?? { ...defaults(fullest), hybrid: false }];
  return Object.assign(draft, { settings: settings.map((each) => repaired(each, bases, llms)) }) && { ...draft };
}

/** Settings whose knowledge base and language model are there. */
function repaired(settings, bases, llms) {
  const kb = bases.some(({ name }) => name === settings.kb) ? settings.kb : bases[0].name;
  return { ...settings, kb, llm: llms.includes(settings.llm) ? settings.llm : llms[0] };
}

function about(asked, names) {
  return summary({ kb: asked.knowledge_base, llm: asked.llm_model, passages: asked.max_documents, hybrid: asked.hybrid !== false,
    reranker: asked.rerank_model, threshold: asked.score_threshold ?? "" }, names);
}

function Code({ asked, keyed }) {
  const programs = useMemo(() => asking({ base: base(), body: asked, keyed }), [asked, keyed]);
  return html`<${Programs} programs=${programs} title="The same, as a program" />`;
}

/** Who can answer; again when other models are served. */
function useLlms(api, models) {
  const [llms, setLlms] = useState([EXTRACTIVE]);
  useEffect(() => {
    const leaving = new AbortController();
    api.get("models/llms", { signal: leaving.signal }).then((answer) => setLlms(answer.models), () => {});
    return () => leaving.abort();
  }, [api, models]);
  return llms;
}

/** id -> what it is called, of embedding models, rerankers and language models. */
function called(models, llms) {
  const names = titles(models);
  for (const id of llms) {
    const [provider, ...rest] = id.split(":");
    if (id === EXTRACTIVE) names.set(id, "Quotes alone");
    else if (!names.has(id)) names.set(id, `${rest.join(":")} (${provider})`);
  }
  for (const { id } of models) if (!names.has(spelling({ id }))) names.set(spelling({ id }), names.get(id));
  return names;
}
