// Names that lead to a model, and the share of the clients that a canary gets.

import { mayOperate } from "./actions.js";
import { segment } from "./api.js";
import { toast } from "./toasts.js";
import { Button, Dialog, Field, html, useState } from "./ui.js";

const bare = (id) => (id ?? "").replace(/^huggingface:/, "");
const percent = (share) => `${Math.round(share * 1000) / 10}%`;

export function Aliases({ api, row, state }) {
  const [edited, edit] = useState(null);
  const mine = state.aliases.filter((alias) => alias.model === row.id || bare(alias.canary) === bare(row.id));
  return html`<section class="stack"><h3>Aliases and canaries</h3>
    ${mine.length === 0 && html`<p class="hint">No alias leads here. With one, a share of the clients can be sent to another model first.</p>`}
    ${mine.map((alias) => html`<div key=${alias.id} class="alias"><div><code>${bare(alias.id)}</code> → ${bare(alias.to)}${
      alias.canary && html`<span>, ${percent(alias.share)} to <strong>${bare(alias.canary)}</strong></span>`
    }${alias.warning && html`<p class="wrong small">${alias.warning}</p>`}</div><${Button} kind="small" disabled=${!mayOperate(state)} onClick=${() => edit(alias)} aria-label=${`Canary of ${bare(alias.id)}`}>Canary…<//></div>`)}
    <div><${Button} kind="small quiet" disabled=${!mayOperate(state)} onClick=${() => edit({ id: "", to: row.id, canary: null, share: null })}>New alias<//></div>
    ${edited && html`<${CanaryDialog} api=${api} alias=${edited} state=${state} onClose=${() => edit(null)} />`}
  </section>`;
}

function CanaryDialog({ api, alias, state, onClose }) {
  const [name, setName] = useState(bare(alias.id));
  const [canary, setCanary] = useState(bare(alias.canary));
  const [share, setShare] = useState(Math.round((alias.share ?? 0.1) * 1000) / 10);
  const [busy, set] = useState(false);
  const others = [...state.models.values()].filter((row) => row.generation && bare(row.id) !== bare(alias.to));
  const save = async () => {
    set(true);
    try {
      const body = { to: bare(alias.to), ...(canary ? { canary, share: share / 100 } : {}) };
      await api.put(`aliases/${segment(name)}`, body);
      toast(canary ? `${share}% of the clients of ${name} get ${canary}` : `everybody who asks for ${name} gets ${bare(alias.to)}`);
      onClose();
    } catch (problem) {
      toast(problem);
      set(false);
    }
  };
  return html`<${Dialog} title=${alias.id ? `Canary of ${bare(alias.id)}` : "New alias"} confirm=${canary ? `Send ${share}% there` : "Everybody to one model"} danger=${share >= 50 && Boolean(canary)}
    busy=${busy} disabled=${!name.trim()} onConfirm=${save} onClose=${onClose}>
    ${!alias.id && html`<${Field} label="Name" hint="namespace/name, as clients will ask for it" value=${name} onInput=${(event) => setName(event.currentTarget.value)} />`}
    <p>Leads to <strong>${bare(alias.to)}</strong>.</p>
    <${Field} label="Canary">${(id) => html`<select id=${id} value=${canary} onChange=${(event) => setCanary(event.currentTarget.value)}><option value="" selected=${!canary}>none: everybody gets the same</option>${
      others.map((row) => html`<option key=${row.id} value=${bare(row.id)} selected=${bare(row.id) === canary}>${bare(row.id)}</option>`)
    }</select>`}<//>
    ${canary && html`<${Field} label="Share of the clients, in percent" type="number" min="0" max="100" step="0.1" value=${share} onInput=${(event) => setShare(Math.max(0, Math.min(100, Number(event.currentTarget.value) || 0)))}
      hint="A client stays on its side; a larger share only moves clients to the canary." />`}
    <p class="hint">Written into aliases.toml on the volume, whose other lines stay as they are.</p>
  <//>`;
}
