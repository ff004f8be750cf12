// How the gateway does: whether it hears the volume, its hosts, and the last quarter of an hour.

import { Chart, short } from "./chart.js";
import { useLive } from "./live.js";
import { usePoll } from "./poll.js";
import { Ago, Badge, bytes, html, number, plural, Progress, seconds } from "./ui.js";

const PERIOD = 5000; // milliseconds: as often as a sample is made
const MOST_EXITS = 5;

export function Health({ api, live }) {
  const state = useLive(live);
  const { data } = usePoll(api, "console/health", PERIOD);
  if (state.caller && !state.caller.unrestricted) {
    return html`<p class="card muted">How the gateway as a whole does is shown to keys of all namespaces: it counts what others do.</p>`;
  }
  return html`<${Watcher} watcher=${state.watcher} now=${live.now} /><${Hosts} devices=${state.devices} exits=${data?.exits ?? []} now=${live.now} /><${Charts} samples=${data?.samples ?? []} />`;
}

function Watcher({ watcher, now }) {
  if (!watcher) return null;
  const bad = watcher.unreadable || watcher.deaf;
  return html`<section class="card stack" aria-labelledby="watcher"><div class="row between"><h2 id="watcher">Watcher</h2>${
    watcher.unreadable ? html`<${Badge} tone="bad">volume unreadable<//>` : watcher.deaf ? html`<${Badge} tone="warn">by timer alone<//>` : html`<${Badge} tone="good">${watcher.way === "polling" ? "polls the volume" : "hears the volume"}<//>`
  }</div>${bad && html`<p class="note warn">${bad}</p>`}
    <dl class="facts compact"><div><dt>Last look</dt><dd><${Ago} at=${watcher.at} now=${now} none="not yet" /></dd></div><div><dt>Looks</dt><dd>${watcher.way ? `${watcher.way === "polling" ? "every" : "when told, and every"} ${seconds(watcher.period)}${watcher.kind ? `, ${watcher.kind}` : ""}` : "–"}</dd></div><div><dt>It took</dt><dd class="number">${seconds(watcher.seconds)}</dd></div>
      <div><dt>Saw</dt><dd>${plural(watcher.directories, "directory").replace("directorys", "directories")}${watcher.unsettled ? `, ${number(watcher.unsettled)} changing` : ""}</dd></div></dl></section>`;
}

function Hosts({ devices, exits, now }) {
  const last = [...exits].reverse().slice(0, MOST_EXITS);
  return html`<section class="card stack" aria-labelledby="hosts"><h2 id="hosts">Hosts</h2>
    ${devices.map((device) => html`<div class="host" key=${device.device}><div class="row between"><strong>${device.device}</strong><span class="row">${device.restarts > 0 && html`<span class="muted small number">${plural(device.restarts, "restart")}</span>`}<${Badge} tone=${device.up ? "good" : "bad"}>${device.up ? "up" : "down"}<//></span></div>
      <${Progress} value=${device.used} max=${device.budget || 1} label=${`Memory of models on ${device.device}`} />
      <p class="hint number">${bytes(device.used)} of ${bytes(device.budget)} for models · process ${device.pid ?? "–"} has ${bytes(device.resident_memory)}</p></div>`)}
    ${last.length > 0 && html`<div class="stack tight"><h3>Died lately</h3><ul class="exits">${last.map((exit) => html`<li key=${exit.at}><span><b>${exit.device}</b> ${exit.why} <span class="muted">(status ${exit.status})</span></span><span class="muted"><${Ago} at=${exit.at} now=${now} /></span></li>`)}</ul></div>`}
  </section>`;
}

function latency(milliseconds) {
  return milliseconds >= 1000 ? `${short(milliseconds / 1000)} s` : `${short(milliseconds)} ms`;
}

function Charts({ samples }) {
  const x = samples.map((sample) => sample.at);
  const line = (label, of, color, extra) => ({ label, x, y: samples.map(of), color, ...extra });
  const milliseconds = (key) => (sample) => (sample[key] === null ? null : sample[key] * 1000);
  const devices = [...new Set(samples.flatMap((sample) => Object.keys(sample.queue_tokens)))];
  const queues = devices.map((device, index) => line(device, (sample) => sample.queue_tokens[device] ?? null, index + 1, { fill: devices.length === 1 }));
  const waiting = samples.some((sample) => sample.rows_waiting) ? [line("rows waiting", (sample) => sample.rows_waiting, 6)] : [];
  const chart = (title, series, extra) => html`<div class="card"><${Chart} title=${title} series=${series} time height=${120} floor=${0} empty="The first sample comes in a moment" ...${extra} /></div>`;
  return html`${chart("Requests a second", [line("answered", (sample) => sample.requests / sample.seconds, 1, { fill: true }), line("failed", (sample) => sample.errors / sample.seconds, 6)])}
    ${chart("Latency", [line("median", milliseconds("p50"), 2, { dots: true }), line("95%", milliseconds("p95"), 3, { dots: true })], { format: latency })}
    ${chart("Tokens waiting", [...queues, ...waiting])}
    ${chart("Texts in a batch", [line("mean", (sample) => sample.batch_texts, 4, { dots: true })])}
    ${chart("Devices busy", [line("share", (sample) => sample.busy * 100, 7, { fill: true })], { format: (value) => `${short(value)}%` })}`;
}
