// An answer as it comes, with marks that open what it rests on.

import { Badge, html, plural, Spinner } from "./ui.js";
import { places } from "./codepoints.js";
import { duration } from "./embedded.js";
import { Retrieved } from "./passages.js";
import { Trouble } from "./trouble.js";

/** `names` has what models are called; `onOpen({id, citation?})` shows a passage in its document. */
export function Answer({ title, about, state, names, onOpen }) {
  const { busy, done, documents, notice, problem, status, text } = state;
  return html`<section class="card answer" aria-label=${title} aria-busy=${busy ? "true" : "false"}>
    <header class="side-head"><h2>${title}</h2>${done && html`<${Verdict} done=${done} />`}
      ${busy && html`<span class="muted status" role="status"><${Spinner} /> ${status}</span>`}</header>
    <p class="hint about">${about}</p>
    ${problem && html`<${Trouble} problem=${problem} />`}
    ${notice && html`<p class="hint">${notice}</p>`}
    ${text && html`<div class="answer-text"><${Said} text=${text} done=${done} documents=${documents ?? []} onOpen=${onOpen} />${busy && html`<span class="caret" aria-hidden="true"></span>`}</div>`}
    ${done && html`<${Took} done=${done} names=${names} />`}
    ${documents && html`<${Retrieved} documents=${documents} citations=${done?.citations ?? []} onOpen=${onOpen} />`}
    <p class="sr" role="status">${done ? `Answered, with ${plural(done.citations.length, "citation")}` : ""}</p>
  </section>`;
}

function Verdict({ done }) {
  if (done.refused) return html`<${Badge} tone="warn">not in the documents<//>`;
  return done.supported ? html`<${Badge} tone="good">supported<//>` : html`<${Badge} tone="warn">not supported by the passages<//>`;
}

/** The text, with a button in place of each number in brackets that names a passage. */
function Said({ text, done, documents, onOpen }) {
  const known = new Map(documents.map((each) => [each.number, each]));
  return text.split(/(\[\d+\])/).map((part, place, all) => {
    const number = Number(/^\[(\d+)\]$/.exec(part)?.[1]), found = known.get(number);
    if (!found) return part;
    const citation = nearest(done, number, all.slice(0, place).join(""));
    return html`<button type="button" class="cite" onClick=${() => onOpen({ id: found.id, citation })}
      aria-label=${`Passage ${number}, ${found.source}`} title=${citation ? `“${citation.quote}”` : found.source}>${number}</button>`;
  });
}

/** The citation of this number whose statement ends last before the mark; `before` is the text up to it. */
function nearest(done, number, before) {
  const mine = (done?.citations ?? []).filter((each) => each.number === number);
  const ended = mine.filter((each) => places(done.final_answer, each.end)[0] <= before.length);
  return ended.sort((one, other) => other.end - one.end)[0] ?? mine[0];
}

function Took({ done, names }) {
  const { timings, usage } = done;
  const facts = [
    ["Answered by", names.get(done.llm_model) ?? done.llm_model],
    ...(done.embedding_model ? [["Found with", html`${names.get(done.embedding_model) ?? done.embedding_model} <code class="generation">${done.generation}</code>`]] : []),
    ["Finding", duration(timings.retrieval)],
    ...(timings.first_token ? [["First word", duration(timings.first_token)]] : []),
    ["In all", duration(timings.total)],
    ...(usage.prompt_tokens + usage.completion_tokens ? [["Tokens", `${usage.prompt_tokens} + ${usage.completion_tokens}`]] : []),
  ];
  return html`<dl class="measures">${facts.map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>
    ${done.left_out.length > 0 && html`<p class="hint">Left out, for want of room: ${done.left_out.join(", ")}</p>`}`;
}
