// The frame: tabs by the hash of the address, theme, key, connection, and what went wrong.

import { createApi } from "./api.js";
import { Connection, KeyDialog, Theme, Who } from "./frame.js";
import { createLive, useLive } from "./live.js";
import { subscribe, toast, Toasts } from "./toasts.js";
import { Component, Empty, html, render, Spinner, useEffect, useRef, useState } from "./ui.js";

const TABS = [
  ["models", "Models", () => import("./models.js")],
  ["try", "Try it", () => import("./try.js")],
  ["ask", "Ask", () => import("./ask.js")],
  ["training", "Training", () => import("./training.js")],
  ["events", "Events", () => import("./events.js")],
];
const pages = new Map(); // name -> Page, once it is here

function wanted() {
  const name = location.hash.slice(1).split(/[/?]/)[0];
  return TABS.some(([known]) => known === name) ? name : "models";
}

function useTab() {
  const [tab, set] = useState(wanted);
  useEffect(() => {
    const change = () => set(wanted());
    addEventListener("hashchange", change);
    return () => removeEventListener("hashchange", change);
  }, []);
  return tab;
}

/** A page that fails says so, and takes no other with it. */
class Guarded extends Component {
  componentDidCatch(error) {
    console.error(error);
    this.setState({ error });
  }

  render({ name, children }, { error }) {
    if (!error) return children;
    return html`<${Empty} title="This page failed"><p>${String(error.message ?? error)}</p><p><a href=${`#${name}`} onClick=${() => this.setState({ error: null })}>Try again</a></p><//>`;
  }
}

function Loaded({ name, api, live }) {
  const [Page, set] = useState(() => pages.get(name) ?? null);
  useEffect(() => {
    let here = true;
    const load = TABS.find(([known]) => known === name)[2];
    load().then(
      (module) => {
        pages.set(name, module.Page);
        if (here) set(() => module.Page);
      },
      () => here && toast({ code: "unreachable", message: "this page could not be loaded", remedy: "Reload once the gateway is back." }),
    );
    return () => (here = false);
  }, [name]);
  if (!Page) return html`<p class="loading"><${Spinner} label="Loading the page" /></p>`;
  return html`<${Page} api=${api} live=${live} />`;
}

function App({ api, live }) {
  const tab = useTab();
  const state = useLive(live);
  const [shown, show] = useState([]);
  const [asking, ask] = useState(false);
  const main = useRef(null);
  const first = useRef(true);
  useEffect(() => subscribe(show), []);
  useEffect(() => api.onUnauthenticated(() => ask(true)), [api]);
  useEffect(() => {
    document.title = `${TABS.find(([name]) => name === tab)[1]} · Dropgate`;
    if (!first.current) main.current.focus({ preventScroll: true });
    first.current = false;
  }, [tab]);
  const enter = (key) => {
    api.key = key;
    ask(false);
    live.connect();
  };
  return html`
    <a class="skip" href=${`#${tab}`} onClick=${(event) => (event.preventDefault(), main.current.focus())}>Skip to the page</a>
    <header class="top">
      <div class="brand"><img src="console/icon.svg" alt="" width="22" height="22" /><strong>Dropgate</strong><span class="version">${state.version}</span></div>
      <nav aria-label="Pages">${TABS.map(([name, text]) => html`<a key=${name} href=${`#${name}`} aria-current=${name === tab ? "page" : null}>${text}</a>`)}</nav>
      <div class="tools"><${Connection} state=${state} live=${live} /><${Who} state=${state} onKey=${() => ask(true)} /><${Theme} /></div>
    </header>
    <main ref=${main} tabindex="-1" id="main"><${Guarded} key=${tab} name=${tab}><${Loaded} name=${tab} api=${api} live=${live} /><//></main>
    <${Toasts} shown=${shown} />
    ${asking && html`<${KeyDialog} api=${api} state=${state} onEnter=${enter} onClose=${() => ask(false)} />`}`;
}

const api = createApi();
const live = createLive(api);
render(html`<${App} api=${api} live=${live} />`, document.getElementById("app"));
live.connect();
