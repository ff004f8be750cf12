// One model in the list, and all about it once it is opened.

import { LoadButton, PinButton, RollbackButton } from "./actions.js";
import { Aliases } from "./canary.js";
import { Ago, Badge, bytes, Bytes, Copy, html, number, plural, Progress, seconds, useMemo } from "./ui.js";

export const bare = (id) => id.replace(/^huggingface:/, "");

export function Row({ api, live, row, state, open, onToggle }) {
  const { aliases, caller, models } = state;
  const others = open ? models : null;
  return useMemo(
    () => html`<li class=${`model ${open ? "open" : ""}`} data-id=${row.id}>
      <div class="line">
        <button type="button" class="name" aria-expanded=${String(open)} onClick=${() => onToggle(row.id)}><i aria-hidden="true"></i><span><strong>${row.display_name}</strong><small>${bare(row.id)}</small></span></button>
        <span class="state"><${Badge} state=${row.state} />${row.pinned && html`<span class="pin">pinned</span>`}</span>
        <span class="kind">${row.kind ?? "–"}</span>
        <code class="generation">${row.generation ?? "–"}</code>
        <${Cell} name="disk"><${Bytes} of=${row.bytes_on_disk} /><//>
        <${Cell} name="device"><${Bytes} of=${row.bytes_on_device || null} /><//>
        <${Cell} name="host"><${Bytes} of=${row.bytes_parked || null} /><//>
        <${Cell} name="req/s"><span class="number">${row.requests_per_second > 0 ? row.requests_per_second.toFixed(1) : "–"}</span><//>
        <${Cell} name="last use"><span class="number"><${Ago} at=${row.last_used} now=${live.now} /></span><//>
        <span class="meta">${meta(row)}</span>
        <span class="do"><${LoadButton} api=${api} row=${row} state=${state} /></span>
      </div>
      <${Going} row=${row} live=${live} />
      ${open && html`<${Detail} api=${api} row=${row} state=${state} />`}
    </li>`,
    [row, open, aliases, caller, others],
  );
}

/** A number; its name is for those who do not see the head of the table. */
function Cell({ name, children }) {
  return html`<span class="cell"><span class="sr">${name}: </span>${children}</span>`;
}

/** What stands in the columns, in a line: for narrow screens. */
function meta(row) {
  const where = row.bytes_on_device ? `${bytes(row.bytes_on_device)} on ${row.devices.join(", ")}` : `${bytes(row.bytes_on_disk)} on disk`;
  const rate = row.requests_per_second > 0 ? `${row.requests_per_second.toFixed(1)} requests/s` : null;
  return [row.kind, where, rate].filter(Boolean).join(" · ");
}

/** What goes on, or what is wrong: seen without opening anything. */
function Going({ row, live }) {
  const pending = row.pending;
  if (row.load) return html`<div class="going"><${Loading} row=${row} live=${live} /></div>`;
  if (row.state === "copying" || pending?.state === "copying") {
    const what = `${plural(row.files ?? 0, "file")}, ${number(row.bytes_on_disk ?? 0)} bytes so far`;
    return html`<div class="going"><${Progress} label=${`${bare(row.id)} is being copied`} /><p><span class="number">${what}</span>${pending?.why && html`<span class="muted"> · ${pending.why}</span>`}${row.generation && html`<span class="muted"> · generation ${row.generation} serves meanwhile</span>`}</p></div>`;
  }
  if (!row.reasons.length) return null;
  return html`<ul class="going reasons">${row.reasons.slice(0, 3).map((reason) => html`<${Reason} key=${reason.code + reason.message} reason=${reason} />`)}${
    row.generation && html`<li class="muted">Generation ${row.generation} goes on serving.</li>`
  }</ul>`;
}

function Loading({ row, live }) {
  const { load } = row;
  const spent = Math.max(0, live.now() - load.since);
  const whole = spent + load.seconds_left;
  const known = load.state === "loading" && load.seconds_left > 0;
  return html`<${Progress} value=${known ? spent : null} max=${whole} label=${`${bare(row.id)} is being loaded`} />
    <p>${load.state === "waiting" ? "Waits for room" : "Loading"} on ${load.device}${known ? html`<span class="muted number"> · about ${seconds(load.seconds_left)} left</span>` : ""}</p>`;
}

export function Reason({ reason }) {
  return html`<li class="reason"><p><strong>${reason.message}</strong> <code>${reason.code}</code></p>${reason.remedy && html`<p class="hint">${reason.remedy}</p>`}</li>`;
}

function Detail({ api, row, state }) {
  const name = bare(row.id);
  return html`<div class="detail">
    <section class="stack"><h3>Facts</h3><dl>${facts(row).map(([term, value]) => html`<div key=${term}><dt>${term}</dt><dd>${value}</dd></div>`)}</dl>
      <div class="row"><${PinButton} api=${api} row=${row} state=${state} /></div>
      ${row.warnings.map((warning) => html`<p key=${warning} class="warning small">${warning}</p>`)}</section>
    <section class="stack"><h3>Generations</h3><${Generations} api=${api} row=${row} state=${state} /><${Versions} row=${row} /></section>
    <${Aliases} api=${api} row=${row} state=${state} />
    <section class="stack wide"><h3>Ask for it</h3><${Copy} label="Copy the curl line" text=${asked(row, name)} /></section>
    ${Object.keys(row.metadata).length > 0 && html`<section class="stack wide"><h3>Metadata</h3><pre class="metadata" tabindex="0" role="region" aria-label="Metadata"><code>${JSON.stringify(row.metadata, null, 2)}</code></pre></section>`}
  </div>`;
}

function asked(row, name) {
  const url = new URL(row.kind === "reranker" ? "rerank" : row.kind === "generator" ? "v1/completions" : "embed", document.baseURI).href;
  const bodies = {
    reranker: { model: name, query: "what is stored?", documents: ["The ring stores the beam."] },
    generator: { model: name, prompt: "Once upon a time" },
  };
  const body = bodies[row.kind] ?? { model: name, inputs: ["The ring stores the beam."] };
  return `curl -s ${url} -d '${JSON.stringify(body)}'`;
}

function facts(row) {
  const all = [
    ["Id", html`<code>${row.id}</code>`],
    ["Path", row.path && html`<code>${row.path}</code>`],
    ["Vectors", row.dim && `${number(row.dim)} numbers${row.normalized ? ", unit length" : ""}`],
    ["At most", row.max_tokens && `${number(row.max_tokens)} tokens`],
    ["Library", row.library],
    ["Base", row.base && html`<code>${row.base}</code>`],
    ["Computed by", row.runtime && `${row.runtime}, ${row.dtype}${row.fell_back ? ` (fell back: ${row.fell_back})` : ""}`],
    ["On", row.devices.length ? row.devices.join(", ") : null],
    ["Files", row.files],
    ["Live since", row.since && new Date(row.since * 1000).toLocaleString()],
    ["Load failed", row.load_error],
    ["Quarantine", row.quarantine && `${seconds(row.quarantine)} left`],
  ];
  return all.filter(([, value]) => value !== null && value !== undefined && value !== "");
}

function Generations({ api, row, state }) {
  if (!row.generation) return html`<p class="hint">Nothing of it has been served yet.</p>`;
  return html`<ul class="generations"><li><code>${row.generation}</code><${Badge} state="live">live<//></li>${row.previous.map(
    (generation) => html`<li key=${generation}><code>${generation}</code>${row.rolled_back_from.includes(generation) && html`<span class="muted small">rolled back from</span>`}<${RollbackButton} api=${api} row=${row} generation=${generation} state=${state} /></li>`,
  )}</ul>${row.previous.length === 0 && html`<p class="hint">No earlier one is kept: a second drop of this name makes one.</p>`}`;
}

function Versions({ row }) {
  if (!row.versions.length) return null;
  return html`<ul class="generations">${row.versions.map((version) => html`<li key=${version.version}><span>version ${version.version}</span><${Badge} state=${version.live ? "live" : version.state}>${version.live ? "live" : null}<//></li>`)}</ul>`;
}
