// What stands in the header: how the connection is, who asks, and the theme.

import { Badge, Button, Dialog, Field, html, useEffect, useState } from "./ui.js";

const THEMES = ["auto", "light", "dark"];
const THEME = "dropgate.theme";

export function Theme() {
  const [theme, set] = useState(() => document.documentElement.dataset.wanted);
  const choose = (value) => {
    document.documentElement.dataset.wanted = value;
    try {
      localStorage.setItem(THEME, value);
    } catch {
      // then it lasts as long as the page
    }
    set(value);
    dispatchEvent(new Event("themewanted"));
  };
  const next = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
  return html`<${Button} kind="quiet small" class="theme" onClick=${() => choose(next)} aria-label=${`Theme: ${theme}. Change to ${next}`} title=${`Theme: ${theme}`}><${Glyph} name=${theme} /><//>`;
}

function Glyph({ name }) {
  const paths = {
    auto: html`<circle cx="8" cy="8" r="6" /><path d="M8 2a6 6 0 0 1 0 12z" fill="currentColor" />`,
    light: html`<circle cx="8" cy="8" r="3" /><path d="M8 1v1.5M8 13.5V15M1 8h1.5M13.5 8H15M3 3l1 1M12 12l1 1M13 3l-1 1M4 12l-1 1" />`,
    dark: html`<path d="M13.5 9.8A6 6 0 1 1 6.2 2.5a5 5 0 0 0 7.3 7.3z" />`,
  };
  return html`<svg viewBox="0 0 16 16" width="16" height="16" aria-hidden="true" fill="none" stroke="currentColor" stroke-width="1.5" stroke-linecap="round">${paths[name]}</svg>`;
}

/** Live, or since when not and what is done about it. */
export function Connection({ state, live }) {
  const { connection } = state;
  const left = useCountdown(connection.again);
  if (connection.state === "live") {
    const unready = state.known && !state.ready;
    return html`<span role="status" class="connection"><${Badge} state=${unready ? "warning" : "live"}>${unready ? unreadiness(state.checks) : "live"}<//></span>`;
  }
  if (connection.state === "key") return html`<span role="status" class="connection"><${Badge} state="warning">key needed<//></span>`;
  if (connection.state !== "waiting") return html`<span role="status" class="connection"><${Badge} state="loading">${connection.state}<//></span>`;
  return html`<span class="connection"><span role="status"><${Badge} state="error">no connection<//></span>
    <${Button} kind="small quiet" onClick=${() => live.connect()} title=${connection.problem?.message}>retry${left > 0 ? ` (${left} s)` : ""}<//></span>`;
}

function unreadiness(checks) {
  if (!checks.not_draining) return "stopping";
  return checks.host ? "looking at the volume" : "no host is up";
}

function useCountdown(until) {
  const left = () => (until ? Math.max(0, Math.ceil((until - Date.now()) / 1000)) : 0);
  const [, set] = useState(0);
  useEffect(() => {
    if (!until) return undefined;
    const timer = setInterval(() => set(left()), 500);
    return () => clearInterval(timer);
  }, [until]);
  return left();
}

/** Whose key it is. Nothing where there are no keys. */
export function Who({ state, onKey }) {
  if (!state.tenants) return null;
  const { caller } = state;
  const label = caller ? `${caller.tenant} · ${caller.role}` : "Enter key";
  return html`<${Button} kind="small" onClick=${onKey} title=${caller ? sees(caller) : null}>${label}<//>`;
}

export function sees(caller) {
  if (caller.unrestricted) return "This key sees every model.";
  return `This key sees: ${caller.namespaces.map((each) => (each === "." ? "the models root" : each)).join(", ")}.`;
}

export function KeyDialog({ api, state, onEnter, onClose }) {
  const [key, set] = useState("");
  const { caller } = state;
  return html`<${Dialog} title="API key" confirm="Use this key" disabled=${!key.trim()} onConfirm=${() => onEnter(key.trim())} onClose=${onClose}>
    ${caller && html`<p>In use: <strong>${caller.name || caller.tenant}</strong> of ${caller.tenant}, role ${caller.role}. ${sees(caller)}</p>`}
    ${!caller && state.connection.problem && api.key && html`<p class="wrong" role="alert">${state.connection.problem.message}</p>`}
    <${Field} label="Key" type="password" autocomplete="off" spellcheck="false" autofocus value=${key} onInput=${(event) => set(event.currentTarget.value)}
      hint="Kept in this tab until it is closed, and sent to this gateway alone. An operator makes one with: gateway keys create NAME" />
    ${api.key && html`<${Button} kind="small" onClick=${() => onEnter("")}>Forget the key<//>`}
  <//>`;
}
