// What every page is made of. Text is always text here: nothing takes markup.

import { h } from "preact";
import { useEffect, useId, useRef, useState } from "preact/hooks";
import htm from "htm";

export { Component, createContext, createRef, Fragment, h, render, toChildArray } from "preact";
export { useCallback, useContext, useEffect, useId, useLayoutEffect, useMemo, useReducer, useRef, useState } from "preact/hooks";
export const html = htm.bind(h);

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

export function bytes(count) {
  if (count === null || count === undefined) return "–";
  let unit = 0;
  while (count >= 1024 && unit < UNITS.length - 1) {
    count /= 1024;
    unit += 1;
  }
  return `${unit === 0 || count >= 100 ? Math.round(count) : count.toFixed(1)} ${UNITS[unit]}`;
}

export function number(value, digits = 0) {
  return value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

/** "3 models", "1 model". */
export function plural(count, noun) {
  return `${number(count)} ${noun}${count === 1 ? "" : "s"}`;
}

export function seconds(value) {
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  if (value < 60) return `${value.toFixed(value < 10 ? 1 : 0)} s`;
  return value < 3600 ? `${Math.floor(value / 60)} min ${Math.round(value % 60)} s` : `${(value / 3600).toFixed(1)} h`;
}

export function ago(age) {
  if (age < 5) return "just now";
  if (age < 60) return `${Math.floor(age)} s ago`;
  if (age < 3600) return `${Math.floor(age / 60)} min ago`;
  if (age < 86400) return `${Math.floor(age / 3600)} h ago`;
  return `${Math.floor(age / 86400)} d ago`;
}

export function Bytes({ of }) {
  return html`<span class="number" title=${of === null || of === undefined ? null : `${number(of)} bytes`}>${bytes(of)}</span>`;
}

// One clock for all that tells an age.
const ticks = new Set();
setInterval(() => {
  for (const tick of ticks) tick();
}, 1000);

/** An age that stays true. `at` in Unix seconds; `now()` is the clock that it was taken with. */
export function Ago({ at, now = () => Date.now() / 1000, none = "–" }) {
  const text = () => (at === null || at === undefined ? none : ago(now() - at));
  const [, set] = useState("");
  useEffect(() => {
    const tick = () => set(text());
    ticks.add(tick);
    return () => ticks.delete(tick);
  }, [at, now]);
  const title = at ? new Date(at * 1000).toLocaleString() : null;
  return html`<time title=${title} datetime=${at ? new Date(at * 1000).toISOString() : null}>${text()}</time>`;
}

export function Button({ kind = "", busy = false, disabled = false, children, ...rest }) {
  const refused = busy || disabled;
  const onClick = refused ? (event) => event.preventDefault() : rest.onClick;
  return html`<button type="button" ...${rest} class=${`button ${kind} ${rest.class ?? ""}`} onClick=${onClick}
    aria-disabled=${refused ? "true" : null} aria-busy=${busy ? "true" : null}>${busy && html`<${Spinner} />`}${children}</button>`;
}

const TONES = {
  loaded: "good", ready: "calm", loading: "busy", copying: "busy", draining: "busy", waiting_for_base: "warn", rejected: "bad",
  done: "good", live: "good", running: "busy", indexing: "busy", failed: "bad", stalled: "warn", warning: "warn", error: "bad",
};

/** A state: a word with a colour, never a colour alone. */
export function Badge({ state, tone, children }) {
  return html`<span class=${`badge ${tone ?? TONES[state] ?? "calm"}`} data-state=${state}><i aria-hidden="true"></i>${children ?? String(state).replaceAll("_", " ")}</span>`;
}

export function Spinner({ label }) {
  return html`<span class="spinner" role=${label ? "status" : null} aria-hidden=${label ? null : "true"}>${label && html`<span class="sr">${label}</span>`}</span>`;
}

/** `value` of `max`; without one, something goes on and nobody knows how far it is. */
export function Progress({ value, max = 1, label }) {
  const known = value !== null && value !== undefined;
  const share = known ? Math.max(0, Math.min(1, value / max)) : 0;
  return html`<div class=${`progress ${known ? "" : "unknown"}`} role="progressbar" aria-label=${label} aria-valuemin="0" aria-valuemax="100"
    aria-valuenow=${known ? Math.round(share * 100) : null}><div style=${{ width: known ? `${share * 100}%` : null }}></div></div>`;
}

export function Empty({ title, children }) {
  return html`<div class="empty"><h2>${title}</h2>${children}</div>`;
}

export function Field({ label, hint, children, ...rest }) {
  const id = useId();
  return html`<div class="field"><label for=${id}>${label}</label>${
    children ? children(id) : html`<input id=${id} ...${rest} aria-describedby=${hint ? `${id}-hint` : null} />`
  }${hint && html`<p class="hint" id=${`${id}-hint`}>${hint}</p>`}</div>`;
}

/** `options` are [value, text] or texts. */
export function Select({ label, options, value, onChange, hidden = false, ...rest }) {
  const id = useId();
  const pairs = options.map((option) => (Array.isArray(option) ? option : [option, option]));
  return html`<div class="field"><label for=${id} class=${hidden ? "sr" : null}>${label}</label><select id=${id} ...${rest} value=${value}
    onChange=${(event) => onChange(event.currentTarget.value)}>${pairs.map(([key, text]) => html`<option key=${key} value=${key} selected=${key === value}>${text}</option>`)}</select></div>`;
}

/** A line or some, with a button that copies it. */
export function Copy({ text, label = "Copy" }) {
  const [done, set] = useState(false);
  const copy = async () => {
    await copied(text);
    set(true);
    setTimeout(() => set(false), 1500);
  };
  return html`<div class="copy"><pre tabindex="0" role="region" aria-label=${`${label}: text`}><code>${text}</code></pre><${Button} kind="small quiet" onClick=${copy} aria-label=${label}>${done ? "Copied" : "Copy"}<//><span class="sr" role="status">${done ? "Copied" : ""}</span></div>`;
}

export async function copied(text) {
  if (navigator.clipboard && isSecureContext) return navigator.clipboard.writeText(text);
  const area = Object.assign(document.createElement("textarea"), { value: text, className: "sr" });
  document.body.append(area);
  area.select();
  document.execCommand("copy"); // plain HTTP has no other way
  area.remove();
}

/** Tabs of a page's own; the tabs of the whole console are links. `tabs` are [value, text]. */
export function Tabs({ tabs, value, onChange, label }) {
  const move = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const index = (tabs.findIndex(([key]) => key === value) + step + tabs.length) % tabs.length;
    onChange(tabs[index][0]);
    event.currentTarget.children[index].focus();
  };
  return html`<div class="tabs" role="tablist" aria-label=${label} onKeyDown=${move}>${tabs.map(
    ([key, text]) => html`<button key=${key} type="button" role="tab" aria-selected=${String(key === value)} tabindex=${key === value ? 0 : -1} onClick=${() => onChange(key)}>${text}</button>`,
  )}</div>`;
}

/** A question that has to be answered before anything else. Says what will happen; `confirm` is the verb. */
export function Dialog({ title, confirm, danger = false, busy = false, disabled = false, onConfirm, onClose, children }) {
  const element = useRef(null);
  const id = useId();
  useEffect(() => {
    const before = document.activeElement;
    element.current.showModal();
    return () => before?.isConnected && before.focus();
  }, []);
  const submit = (event) => {
    event.preventDefault();
    if (!busy && !disabled) onConfirm?.();
  };
  const cancel = (event) => {
    event.preventDefault();
    onClose();
  };
  return html`<dialog ref=${element} aria-labelledby=${id} onCancel=${cancel}><form onSubmit=${submit}><h2 id=${id}>${title}</h2><div class="body">${children}</div><footer>
    <${Button} onClick=${onClose}>${confirm ? "Cancel" : "Close"}<//>${confirm && html`<${Button} type="submit" kind=${danger ? "danger" : "primary"} busy=${busy} disabled=${disabled} onClick=${null}>${confirm}<//>`}
  </footer></form></dialog>`;
}
