// The playground: texts in, vectors out, and how near they are to each other by one model or by two.

import { useEffect, useRef, useState } from "preact/hooks";
import { Button, Empty, Field, html, Select } from "./ui.js";
import { ModelChoice, encoders, first as begin, spelling, titles, useModels } from "./choice.js";
import { Results } from "./results.js";
import { embed } from "./embedded.js";

const EXAMPLES = {
  Meaning: ["The beam was lost twice in March.", "In spring the electrons vanished two times.", "The pump is serviced once a year.",
    "Every year somebody looks after the pump.", "Lunch is served at noon.", "We eat at twelve."],
  Search: ["How long does a cathode last?", "Its new cathode lasts for about a year.", "The cathode is made of gallium arsenide.",
    "The cafeteria lasts through the summer.", "Who may enter the tunnel?", "Nobody enters the tunnel while the beam is on."],
  Opposites: ["The experiment succeeded.", "The experiment failed.", "It did not fail.", "It was a success.", "Nothing worked."],
};
const IDLE = { result: null, problem: null, busy: false };

// What was typed stays while the page is open, whatever tab is looked at.
const draft = { text: EXAMPLES.Meaning.join("\n"), choices: [null, null], both: false, prompt: "" };

export function Page({ api, live }) {
  const models = useModels(live), usable = encoders(models);
  if (usable.length) return html`<${Playground} api=${api} models=${usable} />`;
  return html`<section class="page try" aria-busy=${!models}><h1>Try it</h1>
    ${models ? html`<${NoModels} />` : html`<p class="muted">Looking for models…</p>`}</section>`;
}

function NoModels() {
  return html`<${Empty} title="Nothing to embed with yet">
    <p>Drop a model directory into the volume, and it can be asked a moment later. With a sentence-transformers model at hand:</p>
    <pre><code>cp -r my-model /path/to/models/finetuned/my-model</code></pre>
    <p>The <a href="#models">Models</a> page shows it arriving, and says why if it may not be served.</p>
  <//>`;
}

function Playground({ api, models }) {
  const [form, setForm] = useState(() => ({ ...draft }));
  const [asked, setAsked] = useState(null);
  const [sides, setSides] = useState([IDLE, IDLE]);
  const leaving = useRef(null);
  const change = (more) => setForm((before) => Object.assign(draft, { ...before, ...more }) && { ...draft });
  useEffect(() => () => leaving.current?.abort(), []);

  const choices = repaired(models, form.choices), prompts = usePrompts(api, choices.slice(0, form.both ? 2 : 1));
  const texts = form.text.split("\n").map((line) => line.trim()).filter(Boolean);
  const busy = sides.some((side) => side.busy);
  const run = () => {
    leaving.current?.abort();
    const going = (leaving.current = new AbortController());
    const chosen = choices.slice(0, form.both ? 2 : 1);
    const options = prompts.includes(form.prompt) ? { prompt_name: form.prompt } : {};
    const names = titles(models);
    setAsked({ texts, options, models: chosen.map(spelling), titles: chosen.map((choice) => titled(names, choice, chosen)) });
    setSides((before) => [0, 1].map((number) => (number < chosen.length ? { ...before[number], busy: true, problem: null } : IDLE)));
    chosen.forEach((choice, number) => {
      const told = (state) => going.signal.aborted || setSides((all) => all.map((side, at) => (at === number ? { ...IDLE, ...state } : side)));
      embed(api, { inputs: texts, model: spelling(choice), ...options }, going.signal).then(
        (result) => told({ result: { ...result, texts } }), (failure) => told({ problem: failure }));
    });
  };
  const stop = () => {
    leaving.current?.abort();
    setSides((all) => all.map((side) => (side.busy ? { ...IDLE, problem: { code: "stopped", message: "Stopped before the answer came." } } : side)));
  };
  return html`<section class="page try"><header class="intro"><h1>Try it</h1>
      <p class="muted">Texts in, vectors out. Lines that mean the same should be near each other.</p></header>
    <${Form} ...${{ models, choices, prompts, form, change, texts, busy, run, stop }} />
    ${asked && html`<${Results} key="results" sides=${sides} asked=${asked} keyed=${Boolean(api.key)} />`}
  </section>`;
}

/** The choices, and others in place of those that are not there, or not any more. */
function repaired(models, [one, two]) {
  const known = (choice) => choice && models.find(({ id, previous }) => id === choice.id && (!choice.generation || previous.includes(choice.generation)));
  const first = known(one) ? one : { id: begin(models).id, generation: "" };
  return [first, known(two) ? two : other(models, first)];
}

/** What is worth comparing with: the generation before, else another model. */
function other(models, { id }) {
  const [before] = models.find((model) => model.id === id).previous;
  if (before) return { id, generation: before };
  return { id: (models.find((model) => model.id !== id) ?? models[0]).id, generation: "" };
}

function titled(names, { id, generation }, chosen) {
  const twice = chosen.length > 1 && chosen.every((choice) => choice.id === id);
  return names.get(id) + (generation ? ` @${generation}` : twice ? " (live)" : "");
}

function Form({ models, choices, prompts, form, change, texts, busy, run, stop }) {
  const choose = (number) => (choice) => change({ choices: choices.map((each, at) => (at === number ? choice : each)) });
  const submit = (event) => {
    event.preventDefault();
    if (texts.length && !busy) run();
  };
  const quick = (event) => event.key === "Enter" && (event.ctrlKey || event.metaKey) && submit(event);
  return html`<form class="card try-form" onSubmit=${submit}>
    <div class="try-texts"><${Field} label="Texts, one a line">${(id) => html`<textarea id=${id} name="texts" rows="9" spellcheck=${false} value=${form.text}
        onKeyDown=${quick} onInput=${(event) => change({ text: event.currentTarget.value })}></textarea>`}<//>
      <p class="hint"><span class="number">${texts.length}</span> ${texts.length === 1 ? "text" : "texts"}
        <span class="examples">Examples: ${Object.entries(EXAMPLES).map(([name, lines]) => html`
          <button type="button" class="link" onClick=${() => change({ text: lines.join("\n") })}>${name}</button>`)}</span></p>
    </div>
    <div class="try-options">
      <${ModelChoice} models=${models} value=${choices[0]} onChange=${choose(0)} name="model" />
      <label class="check"><input type="checkbox" name="both" checked=${form.both}
        onChange=${(event) => change({ both: event.target.checked })} /> Side by side with</label>
      ${form.both && html`<${ModelChoice} models=${models} value=${choices[1]} onChange=${choose(1)} label="Other model" generations="Other generation" name="other" />`}
      ${prompts.length > 0 && html`<${Select} label="Prompt" name="prompt" value=${form.prompt} onChange=${(prompt) => change({ prompt })}
        options=${[["", "the model's own"], ...prompts]} />`}
      <div class="actions">${busy ? html`<${Button} key="stop" onClick=${stop}>Stop<//>` : html`<${Button} key="go" type="submit" kind="primary" disabled=${!texts.length}>Embed<//>`}
        <kbd class="hint">Ctrl Enter</kbd></div>
    </div>
  </form>`;
}

/** The names of the prompts that the chosen models have. */
function usePrompts(api, choices) {
  const [names, setNames] = useState([]);
  const spelt = choices.map(spelling).join("\n");
  useEffect(() => {
    const leaving = new AbortController();
    const asked = spelt.split("\n").map((model) => api.get(`info?model=${encodeURIComponent(model)}`, { signal: leaving.signal }));
    Promise.allSettled(asked).then((answers) => {
      const found = answers.flatMap(({ value }) => Object.entries(value?.prompts ?? {})).filter(([, prompt]) => prompt);
      if (!leaving.signal.aborted) setNames([...new Set(found.map(([name]) => name))]);
    });
    return () => leaving.abort();
  }, [api, spelt]);
  return names;
}
