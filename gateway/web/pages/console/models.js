// Every directory that was seen, live: filtered, sorted, and as many at once as anybody reads.

import { Budget } from "./budget.js";
import { useLive } from "./live.js";
import { bare, Row } from "./row.js";
import { Button, Copy, Empty, html, number, plural, Select, Spinner, useCallback, useEffect, useMemo, useRef, useState } from "./ui.js";

const PAGE = 60;
const FILTERS = [
  ["all", "All", () => true],
  ["loaded", "Loaded", (row) => row.state === "loaded" || row.state === "draining"],
  ["ready", "Ready", (row) => row.state === "ready"],
  ["busy", "Arriving", (row) => ["copying", "loading", "waiting_for_base"].includes(row.state) || Boolean(row.pending)],
  ["wrong", "Not served", (row) => row.reasons.length > 0],
  ["pinned", "Pinned", (row) => row.pinned],
];
const SORTS = {
  name: (a, b) => (bare(a.id) < bare(b.id) ? -1 : 1),
  use: (a, b) => (b.last_used ?? 0) - (a.last_used ?? 0) || SORTS.name(a, b),
  rate: (a, b) => b.requests_per_second - a.requests_per_second || SORTS.use(a, b),
  disk: (a, b) => (b.bytes_on_disk ?? 0) - (a.bytes_on_disk ?? 0) || SORTS.name(a, b),
  device: (a, b) => b.bytes_on_device - a.bytes_on_device || SORTS.name(a, b),
  newest: (a, b) => (b.since ?? Infinity) - (a.since ?? Infinity) || SORTS.name(a, b),
};
const ORDERS = [["name", "Name"], ["use", "Last use"], ["rate", "Requests per second"], ["device", "Bytes on device"], ["disk", "Bytes on disk"], ["newest", "Newest"]];

export function Page({ api, live }) {
  const state = useLive(live);
  const [text, setText] = useState("");
  const [filter, setFilter] = useState("all");
  const [order, setOrder] = useState("name");
  const rows = useMemo(() => [...state.models.values()], [state.models]);
  const found = useMemo(() => chosen(rows, text, filter, order), [rows, text, filter, order]);
  if (!state.known) return html`<h1>Models</h1><${Waiting} state=${state} />`;
  return html`
    <div class="models-head"><h1>Models</h1>
      <div class="field search"><label for="search" class="sr">Search models</label><input id="search" type="search" placeholder="Search name or id" value=${text} onInput=${(event) => setText(event.currentTarget.value)} /></div>
      <${Select} label="Sort by" hidden options=${ORDERS.map(([key, name]) => [key, `Sort: ${name}`])} value=${order} onChange=${setOrder} />
    </div>
    <${Budget} state=${state} />
    ${rows.length > 0 && html`<${Filters} rows=${rows} value=${filter} onChange=${setFilter} />`}
    <p class="sr" role="status">${plural(found.length, "model")} shown</p>
    ${rows.length === 0 ? html`<${Teach} state=${state} />` : html`<${List} api=${api} live=${live} state=${state} rows=${found} />`}
    <${Ignored} ignored=${state.ignored} />`;
}

function chosen(rows, text, filter, order) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const [, , passes] = FILTERS.find(([key]) => key === filter);
  const matches = (row) => words.every((word) => row.id.toLowerCase().includes(word) || row.display_name.toLowerCase().includes(word) || (row.generation ?? "").startsWith(word));
  return rows.filter((row) => passes(row) && matches(row)).sort(SORTS[order]);
}

function Filters({ rows, value, onChange }) {
  const counts = useMemo(() => FILTERS.map(([, , passes]) => rows.filter(passes).length), [rows]);
  return html`<div class="filters" role="group" aria-label="Show">${FILTERS.map(
    ([key, name], index) => (counts[index] > 0 || key === value || key === "all") && html`<button key=${key} type="button" aria-pressed=${String(key === value)} onClick=${() => onChange(key)}>${name} <span class="number">${number(counts[index])}</span></button>`,
  )}</div>`;
}

function List({ api, live, state, rows }) {
  const [open, setOpen] = useState(() => new Set());
  const [shown, show] = useState(PAGE);
  const more = useRef(null);
  const toggle = useCallback((id) => setOpen((before) => (before.has(id) ? new Set([...before].filter((each) => each !== id)) : new Set(before).add(id))), []);
  useEffect(() => {
    if (!more.current) return undefined;
    const seen = new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && show((count) => count + PAGE), { rootMargin: "400px" });
    seen.observe(more.current);
    return () => seen.disconnect();
  }, [shown, rows.length]);
  if (!rows.length) return html`<${Empty} title="No model is like that"><p>Another word, or another filter.</p><//>`;
  return html`<div class="card models">
    <div class="line head" aria-hidden="true"><span>Model</span><span>State</span><span>Kind</span><span>Generation</span><span>Disk</span><span>Device</span><span>Host</span><span>Req/s</span><span>Last use</span><span></span></div>
    <ul aria-label="Models">${rows.slice(0, shown).map((row) => html`<${Row} key=${row.id} api=${api} live=${live} row=${row} state=${state} open=${open.has(row.id)} onToggle=${toggle} />`)}</ul>
    ${shown < rows.length && html`<p class="more" ref=${more}><${Button} onClick=${() => show(shown + PAGE)}>Show more: ${number(rows.length - shown)} are left<//></p>`}
  </div>`;
}

function Waiting({ state }) {
  const { connection } = state;
  if (connection.state === "key") return html`<${Empty} title="This gateway asks for a key"><p>Enter yours with the button at the top. It shows what that key may see.</p><//>`;
  if (connection.state === "waiting") return html`<${Empty} title="The gateway does not answer"><p>${connection.problem?.message}. The page goes on trying.</p><//>`;
  return html`<p class="loading"><${Spinner} label="Asking the gateway" /></p>`;
}

/** Nothing is there yet: how to change that. */
function Teach({ state }) {
  if (state.caller && !state.caller.unrestricted) return html`<${Empty} title="Nothing here yet"><p>No model that this key may see is on the volume.</p><//>`;
  const root = state.models_dir ?? "models";
  return html`<${Empty} title="Drop a model, and it is served">
    <p>Copy a directory onto the volume, whichever way you like. It appears here while it is being copied, and is served once it is whole.</p>
    <${Copy} label="Copy the cp line" text=${`cp -r ./my-model ${root}/finetuned/my-model`} />
    <${Copy} label="Copy the kubectl line" text=${`kubectl cp ./my-model POD:${root}/finetuned/my-model`} />
    <${Copy} label="Copy the pull line" text="gateway pull sentence-transformers/all-MiniLM-L6-v2" />
  <//>`;
}

function Ignored({ ignored }) {
  if (!ignored.length) return null;
  return html`<details class="card ignored"><summary>${plural(ignored.length, "name")} on the volume ${ignored.length === 1 ? "is no model" : "are no models"}</summary><ul>${ignored.slice(0, 200).map((each) => html`<li key=${each.name}><code>${each.name}</code> <span class="muted">${each.why}</span></li>`)}</ul></details>`;
}
