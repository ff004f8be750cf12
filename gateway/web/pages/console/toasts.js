// Short news at the edge of the page. What went wrong stays until it is closed.

import { html, Button } from "./ui.js";

let number = 0;
let toasts = [];
const listeners = new Set();

function set(next) {
  toasts = next;
  for (const listen of listeners) listen(toasts);
}

/** A Problem, or any error, is told with its code; a text is told for a few seconds. */
export function toast(what) {
  if (what?.name === "AbortError") return;
  const id = (number += 1);
  const problem = typeof what === "string" ? null : what;
  const text = problem ? problem.message : what;
  const same = (each) => each.text === text && each.code === (problem?.code ?? null);
  set([...toasts.filter((each) => !same(each)), { id, text, code: problem?.code ?? null, remedy: problem?.remedy ?? null, bad: Boolean(problem) }].slice(-4));
  if (!problem) setTimeout(() => dismiss(id), 5000);
}

function dismiss(id) {
  set(toasts.filter((each) => each.id !== id));
}

export function subscribe(listen) {
  listeners.add(listen);
  return () => listeners.delete(listen);
}

export function Toasts({ shown }) {
  return html`<div class="toasts" role="log" aria-live="polite" aria-label="Messages">${shown.map(
    (each) => html`<div key=${each.id} class=${`toast ${each.bad ? "bad" : ""}`}><div><p>${each.text}</p>${
      each.remedy && html`<p class="hint">${each.remedy}</p>`
    }${each.code && html`<code>${each.code}</code>`}</div><${Button} kind="small quiet" aria-label="Dismiss" onClick=${() => dismiss(each.id)}>Dismiss<//></div>`,
  )}</div>`;
}
