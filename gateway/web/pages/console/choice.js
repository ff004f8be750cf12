// Which model, and which of its generations: two lists to choose from, and what they are called.

import { useEffect, useState } from "preact/hooks";
import { Field, html, Select } from "./ui.js";

const PREFIX = "huggingface:";

/** Every model, as the live state has it; null until it is known. Another list only when what can be asked for changes,
 * and not with every number. */
export function useModels(live) {
  const [models, setModels] = useState(() => rows(live.state));
  useEffect(() => {
    let before = signature(models);
    const look = (state) => {
      const now = rows(state), told = signature(now);
      if (told !== before) setModels(now);
      before = told;
    };
    look(live.state);
    return live.subscribe(look);
  }, [live]);
  return models;
}

function rows(state) {
  return state.known ? [...state.models.values()] : null;
}

function signature(models) {
  return models && models.map((row) => [row.id, row.generation, row.display_name, row.state === "loaded", ...row.previous].join("@")).join("\n");
}

export function encoders(models) {
  return (models ?? []).filter((model) => model.kind === "encoder" && model.generation);
}

/** The best to begin with: one that is in memory, the newest of those. */
export function first(models) {
  const order = (model) => [model.state === "loaded" ? 0 : 1, -(model.since ?? 0)];
  return [...models].sort((one, other) => order(one)[0] - order(other)[0] || order(one)[1] - order(other)[1])[0];
}

/** How a request names this choice: the live generation needs no digest. */
export function spelling({ id, generation }) {
  return id.replace(PREFIX, "") + (generation ? `@${generation}` : "");
}

export function titles(models) {
  const names = models.map((model) => model.display_name);
  const twice = new Set(names.filter((name, number) => names.indexOf(name) !== number));
  return new Map(models.map(({ id, display_name: name }) => [id, twice.has(name) ? `${name} (${id.replace(PREFIX, "")})` : name]));
}

/** `value` is {id, generation}, whose generation is "" for whatever is live. */
export function ModelChoice({ models, value, onChange, label = "Model", generations = "Generation", name }) {
  const called = titles(models), chosen = models.find((model) => model.id === value.id);
  const kept = chosen?.previous ?? [];
  return html`<div class="choice">
    <${Field} label=${label}>${(id) => html`<select id=${id} name=${name} value=${value.id}
      onChange=${(event) => onChange({ id: event.currentTarget.value, generation: "" })}>
      ${groups(models).map(([namespace, members]) => html`<optgroup key=${namespace} label=${namespace}>
        ${members.map((model) => html`<option key=${model.id} value=${model.id} selected=${model.id === value.id}>${called.get(model.id)}</option>`)}
      </optgroup>`)}</select>`}<//>
    <${Select} label=${generations} name=${`${name}-generation`} value=${value.generation} disabled=${!kept.length}
      options=${[["", `${chosen?.generation ?? ""} (live)`], ...kept.map((generation) => [generation, `${generation} (kept)`])]}
      onChange=${(generation) => onChange({ id: value.id, generation })} />
  </div>`;
}

function groups(models) {
  const found = new Map();
  for (const model of models) {
    const namespace = model.namespace ?? "models";
    found.set(namespace, [...(found.get(namespace) ?? []), model]);
  }
  return [...found].sort(([one], [other]) => one.localeCompare(other));
}
