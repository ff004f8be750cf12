// The log of what happens, live, beside how the gateway does.

import { Health } from "./health.js";
import { useLive } from "./live.js";
import { clock } from "./chart.js";
import { KINDS, kind, sentence, subject } from "./sentences.js";
import { Badge, Button, Empty, Field, html, number, plural, Select, Spinner, useEffect, useMemo, useRef, useState } from "./ui.js";

const MOST = 1500; // events that are kept
const SHOWN = 150; // that are drawn; more on demand
const PAUSE = 200; // milliseconds in which events are gathered before they are asked for
const LEVELS = [["", "All"], ["warning", "Warnings and errors"], ["error", "Errors"]];
const RANK = { debug: 0, info: 1, warning: 2, error: 3 };
const TONES = { info: "calm", debug: "calm", warning: "warn", error: "bad" };

export function Page({ api, live }) {
  return html`<div class="page-head"><h1>Events and health</h1></div><div class="split reversed"><div class="stack wide"><${Log} api=${api} live=${live} /></div><div class="stack side"><${Health} api=${api} live=${live} /></div></div>`;
}

/** The stream only says that something has happened; what, the list of the newest says, with its times: so nothing is
 *  lost or told twice when a connection breaks. Its comments have the list asked too: the first one, since something may
 *  have happened while it connected, and those that it sends when all is quiet, should the list have failed before. */
function useEvents(api, connected) {
  const [state, set] = useState({ events: [], known: false, since: null, problem: null });
  useEffect(() => {
    if (!connected) return undefined;
    const control = new AbortController();
    let timer = null;
    let newest = -1;
    const fetchNew = async () => {
      timer = null;
      try {
        const found = await api.get(`events/recent?after=${newest}`, { signal: control.signal });
        if (control.signal.aborted) return;
        newest = found.newest;
        set((known) => merged(known, found));
      } catch (problem) {
        if (!control.signal.aborted) set((known) => ({ ...known, problem }));
      }
    };
    const soon = () => (timer ??= setTimeout(fetchNew, PAUSE));
    const follow = async () => {
      try {
        await api.stream("events", null, () => {}, control.signal, { heard: soon });
      } catch {
        // the page's own connection notices, and everything begins anew once it is back
      }
      if (!control.signal.aborted) timer = setTimeout(() => (fetchNew(), follow()), 2000);
    };
    fetchNew();
    follow();
    return () => {
      control.abort();
      clearTimeout(timer);
    };
  }, [api, connected]);
  return [state, () => set((known) => ({ ...known, events: [] }))];
}

function merged(known, found) {
  const same = known.since === found.since;
  const last = same && known.events.length ? known.events[known.events.length - 1].number : -1;
  const fresh = found.events.filter((event) => event.number > last).map((event) => ({ ...event, key: `${found.since}-${event.number}` }));
  return { events: [...known.events, ...fresh].slice(-MOST), known: true, since: found.since, problem: null };
}

function Log({ api, live }) {
  const { connection } = useLive(live);
  const [{ events, known, problem }, clear] = useEvents(api, connection.state === "live");
  const [filter, choose] = useState({ level: "", kind: "", text: "" });
  const [paused, pause] = useState(null); // the key of the last event that is shown
  const [most, show] = useState(SHOWN);
  const cut = paused === null ? events.length : events.findLastIndex((event) => event.key === paused) + 1;
  const matching = useMemo(() => events.slice(0, cut).filter((event) => matches(event, filter)).reverse(), [events, cut, filter]);
  const waiting = events.length - cut;
  const change = (part) => (choose({ ...filter, ...part }), show(SHOWN));
  return html`<section class="card flush" aria-labelledby="log">
    <div class="log-head"><h2 id="log">Log</h2>
      <${Select} label="Severity" hidden options=${LEVELS} value=${filter.level} onChange=${(level) => change({ level })} />
      <${Select} label="Kind" hidden options=${[["", "Every kind"], ...KINDS]} value=${filter.kind} onChange=${(of) => change({ kind: of })} />
      <${Search} value=${filter.text} onChange=${(text) => change({ text })} />
      <${Button} kind="small" aria-pressed=${String(paused !== null)} onClick=${() => pause(paused === null ? (events[events.length - 1]?.key ?? "") : null)}>${paused === null ? "Pause" : waiting ? `Resume (${number(waiting)} new)` : "Resume"}<//>
      <${Button} kind="small quiet" onClick=${() => (clear(), pause(null))}>Clear<//></div>
    <${Announced} events=${events} />
    ${problem && html`<p class="wrong small pad" role="status">${problem.message}</p>`}
    ${!known && !problem && html`<p class="loading pad"><${Spinner} label="Waiting for events" /></p>`}
    ${known && !matching.length && html`<${Empty} title=${events.length ? "Nothing matches" : "Quiet so far"}><p>${events.length ? `${plural(events.length, "event")} are hidden by the filters.` : "Whatever happens is told here: a model that is dropped, loaded, swapped or rejected, a host that dies."}</p><//>`}
    <ol class="log-lines" aria-labelledby="log">${matching.slice(0, most).map((event) => html`<${Line} key=${event.key} event=${event} />`)}</ol>
    ${matching.length > most && html`<p class="pad"><${Button} kind="small" onClick=${() => show(most + SHOWN)}>Show older (${number(matching.length - most)})<//></p>`}
  </section>`;
}

function Search({ value, onChange }) {
  return html`<div class="search"><${Field} label="Model or text" type="search" placeholder="Model or text" value=${value} onInput=${(event) => onChange(event.currentTarget.value)} /></div>`;
}

function matches(event, { level, kind: of, text }) {
  if (level && RANK[event.level] < RANK[level]) return false;
  if (of && kind(event.event) !== of) return false;
  return !text || `${event.event} ${JSON.stringify(event.facts)}`.toLowerCase().includes(text.toLowerCase());
}

function Line({ event }) {
  const [open, set] = useState(false);
  const about = subject(event);
  return html`<li class=${`log-line ${event.level}`}><button type="button" aria-expanded=${String(open)} onClick=${() => set(!open)}>
    <time class="number" datetime=${new Date(event.at * 1000).toISOString()} title=${new Date(event.at * 1000).toLocaleString()}>${clock(event.at)}</time>
    <span class="what"><${Badge} tone=${TONES[event.level] ?? "calm"} state=${event.level}>${event.event.replaceAll("_", " ")}<//></span>
    <span class="said">${about && html`<b>${about}</b> `}${sentence(event)}</span></button>
    ${open && html`<dl class="pairs">${Object.entries(event.facts).map(([key, value]) => html`<div key=${key}><dt><code>${key}</code></dt><dd>${typeof value === "string" ? value : JSON.stringify(value)}</dd></div>`)}</dl>`}</li>`;
}

/** For people who listen: how much is new, and only now and then. */
function Announced({ events }) {
  const [text, say] = useState("");
  const told = useRef(null);
  const newest = useRef(null);
  newest.current = events;
  useEffect(() => {
    const timer = setInterval(() => {
      const all = newest.current;
      const fresh = told.current === null ? 0 : all.length - 1 - all.findLastIndex((event) => event.key === told.current);
      if (fresh > 0) say(`${plural(fresh, "new event")}, the last: ${subject(all[all.length - 1]) ?? ""} ${sentence(all[all.length - 1])}`);
      told.current = all[all.length - 1]?.key ?? told.current ?? "";
    }, 5000);
    return () => clearInterval(timer);
  }, []);
  return html`<p class="sr" role="status">${text}</p>`;
}
