// How a question is answered: from which documents, by whom, and which passages. And the body that says so.

import { Field, html, plural, Select } from "./ui.js";

export const EXTRACTIVE = "extractive";

export function defaults(kb) {
  return { kb, llm: "", passages: 5, hybrid: true, reranker: "", threshold: "", temperature: "", prompt: "" };
}

/** What `POST /ask` is sent: only what differs from its own defaults, but for what people look for in it. */
export function body(query, settings) {
  const { kb, llm, passages, hybrid, reranker, threshold, temperature, prompt } = settings;
  const spoken = llm && llm !== EXTRACTIVE;
  return {
    query, knowledge_base: kb, ...(llm && { llm_model: llm }), max_documents: Number(passages) || 5,
    ...(hybrid || { hybrid: false }), ...(reranker && { rerank_model: reranker }),
    ...(threshold !== "" && { score_threshold: Number(threshold) }),
    ...(spoken && temperature !== "" && { temperature: Number(temperature) }), ...(spoken && prompt.trim() && { prompt: prompt.trim() }),
  };
}

/** What is special about these settings, for the head of an answer. */
export function summary({ kb, llm, passages, hybrid, reranker, threshold }, names) {
  return [kb, llm && names.get(llm), plural(Number(passages), "passage"), hybrid ? "" : "by meaning alone", reranker && `ordered by ${names.get(reranker) ?? reranker}`,
    threshold !== "" && `from ${threshold}`].filter(Boolean).join(" · ");
}

export function Settings({ title, settings, onChange, bases, llms, rerankers, names, suffix }) {
  const set = (name) => (value) => onChange({ ...settings, [name]: value });
  const typed = (name) => (event) => set(name)(event.currentTarget.value);
  const spoken = settings.llm !== EXTRACTIVE;
  return html`<fieldset class="settings"><legend class=${title ? "" : "sr"}>${title || "Settings"}</legend>
    <${Select} label="Knowledge base" name=${`kb${suffix}`} value=${settings.kb} options=${bases.map(({ name }) => name)} onChange=${set("kb")} />
    <${Select} label="Answered by" name=${`llm${suffix}`} value=${settings.llm} options=${llms.map((id) => [id, names.get(id) ?? id])} onChange=${set("llm")} />
    <${Select} label="Found by" name=${`hybrid${suffix}`} value=${settings.hybrid ? "yes" : "no"} onChange=${(value) => set("hybrid")(value === "yes")}
      options=${[["yes", "Meaning and words"], ["no", "Meaning alone"]]} />
    <${Field} label="Passages" name=${`passages${suffix}`} type="number" min="1" max="50" value=${settings.passages} onInput=${typed("passages")} />
    ${rerankers.length > 0 && html`<${Select} label="Ordered anew by" name=${`reranker${suffix}`} value=${settings.reranker} onChange=${set("reranker")}
      options=${[["", "nobody"], ...rerankers.map((id) => [id, names.get(id)])]} />`}
    <${Field} label="Least cosine" name=${`threshold${suffix}`} type="number" min="-1" max="1" step="0.05" placeholder="0" value=${settings.threshold} onInput=${typed("threshold")} />
    ${spoken && html`<${Field} label="Temperature" name=${`temperature${suffix}`} type="number" min="0" max="2" step="0.1" placeholder="the provider's" value=${settings.temperature} onInput=${typed("temperature")} />
      <${Field} label="Instructions">${(id) => html`<textarea id=${id} name=${`prompt${suffix}`} rows="2" placeholder="ours" value=${settings.prompt} onInput=${typed("prompt")}></textarea>`}<//>`}
  </fieldset>`;
}
