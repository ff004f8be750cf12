// Training runs on the volume, and what changed between two generations of a model.

import { Changes } from "./compare.js";
import { usePoll, useRest } from "./poll.js";
import { Run, RunState, wording } from "./run.js";
import { short } from "./chart.js";
import { segment } from "./api.js";
import { Ago, Copy, Empty, html, number, Progress, Spinner, Tabs, useEffect, useRef } from "./ui.js";

const SOON = 2500; // milliseconds until the next look, while something goes on
const LATER = 10_000;
const VIEWS = [["runs", "Runs"], ["changes", "What changed"]];

export function Page({ api, live }) {
  const rest = useRest();
  const view = rest === "changes" || rest.startsWith("changes/") ? "changes" : "runs";
  const go = (to) => (location.hash = to === "changes" ? "#training/changes" : "#training");
  return html`<div class="page-head"><h1>Training</h1><${Tabs} label="Views of training" tabs=${VIEWS} value=${view} onChange=${go} /></div>
    ${view === "changes" ? html`<${Changes} api=${api} live=${live} wanted=${rest.slice("changes/".length)} />` : html`<${Runs} api=${api} wanted=${rest} />`}`;
}

export const link = (id) => `#training/${segment(id)}`;

function Runs({ api, wanted }) {
  const { data, problem } = usePoll(api, "runs", (found) => (found?.runs.some(goesOn) ? SOON : LATER));
  if (!data) return problem ? html`<${Failed} problem=${problem} />` : html`<p class="loading"><${Spinner} label="Looking for runs" /></p>`;
  if (!data.runs.length && !data.models.length) return html`<${Nothing} folder=${data.folder} />`;
  const shown = wanted || data.runs[0]?.id || null;
  return html`${problem && html`<p class="wrong small" role="status">Not up to date: ${problem.message}</p>`}
    <div class=${`split ${wanted ? "chosen" : ""}`}>
      <div class="stack side"><${List} data=${data} shown=${shown} /><${Trained} models=${data.models} /></div>
      <div class="stack wide"><a class="back" href="#training">All runs</a>${shown ? html`<${Chosen} key=${shown} api=${api} id=${shown} asked=${Boolean(wanted)} />` : html`<p class="muted">No run lies in ${data.folder ?? "a folder that this key sees"}.</p>`}</div>
    </div>`;
}

const goesOn = (run) => run.status === "running" || run.status === "queued";

function List({ data, shown }) {
  return html`<section class="card flush" aria-label="Runs"><ul class="runs">${data.runs.map((run) => html`<${Row} key=${run.id} run=${run} current=${run.id === shown} />`)}</ul>
    ${data.left_out > 0 && html`<p class="hint foot">${number(data.left_out)} older runs are not read.</p>`}</section>`;
}

function Row({ run, current }) {
  const share = run.steps ? run.step / run.steps : null;
  return html`<li><a class="run-row" href=${link(run.id)} aria-current=${current ? "true" : null}>
    <span class="run-name"><strong>${run.name}</strong><${RunState} run=${run} /></span>
    <span class="run-facts"><span>${run.base ?? "base unknown"}</span><${Ago} at=${run.started_at ?? run.updated_at} /></span>
    ${run.status === "running" && !run.stalled && html`<${Progress} value=${share} label=${`Progress of ${run.name}`} />`}
    ${run.after !== null && html`<span class="run-facts"><span>${run.metric}</span><span class="number">${short(run.before)} → <b>${short(run.after)}</b></span></span>`}
    ${run.status === "failed" && run.error && html`<span class="run-error">${run.error}</span>`}
  </a></li>`;
}

function Chosen({ api, id, asked }) {
  const { data, problem } = usePoll(api, `runs/${segment(id)}`, (run) => (run && goesOn(run) ? SOON : LATER));
  const place = useRef(null);
  const here = Boolean(data);
  useEffect(() => {
    if (here && asked) place.current?.focus({ preventScroll: true });
  }, [here]);
  if (!data) return problem ? html`<${Failed} problem=${problem} />` : html`<p class="loading"><${Spinner} label="Reading the run" /></p>`;
  return html`<div class="stack focused" ref=${place} tabindex="-1" role="region" aria-label=${`Run ${data.name}`}><${Run} run=${data} /></div>`;
}

/** Models whose own metadata says what they were trained from: their run may be on another machine. */
function Trained({ models }) {
  if (!models.length) return null;
  return html`<section class="card flush" aria-labelledby="trained"><h2 class="head" id="trained">Served, with a record</h2><ul class="runs">${models.map((model) => {
    const scores = wording(model.scores);
    return html`<li key=${model.id}><a class="run-row" href=${`#training/changes/${segment(model.id)}`}><span class="run-name"><strong>${model.display_name}</strong><code>${model.generation}</code></span>
      ${scores && html`<span class="run-facts"><span>${scores.metric}</span><span class="number">${scores.text}</span></span>`}</a></li>`;
  })}</ul></section>`;
}

function Failed({ problem }) {
  return html`<div class="card stack" role="alert"><p class="wrong">${problem.message}</p>${problem.remedy && html`<p class="hint">${problem.remedy}</p>`}<p><a href="#training">All runs</a></p></div>`;
}

function Nothing({ folder }) {
  const output = `${folder ?? "runs"}/first`;
  return html`<div class="card"><${Empty} title="No training run here yet"><p>A run shows up by itself, with its curves, as soon as it writes into ${folder ? html`<code>${folder}</code>` : "the folder of runs"}. Start one:</p>
    <${Copy} label="Copy the command" text=${`trainer finetune --data train.jsonl --base-model all-MiniLM-L6-v2 --lora --output ${output}`} />
    <p>Runs of a namespace lie one folder deeper, <code>${folder ?? "runs"}/NAMESPACE/NAME</code>, and are seen by its keys. <code>--runs-dir</code> names another folder.</p><//></div>`;
}
