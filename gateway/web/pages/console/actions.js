// What operators do to a model, each with a question first where it hurts.

import { segment } from "./api.js";
import { toast } from "./toasts.js";
import { bytes, Button, Dialog, html, useState } from "./ui.js";

export const mayOperate = (state) => !state.caller || state.caller.role !== "use";

/** Runs what is asked, one thing at a time; `busy` is the verb that goes on. */
export function useActions(api, row) {
  const [busy, set] = useState("");
  const run = async (verb, body, said) => {
    set(verb);
    try {
      await api.post(`models/${segment(row.id)}/${verb}`, body);
      toast(said);
      return true;
    } catch (problem) {
      toast(problem);
      return false;
    } finally {
      set("");
    }
  };
  return { busy, run };
}

const short = (row) => row.id.replace(/^huggingface:/, "");

/** Load or unload: the one that makes sense now. */
export function LoadButton({ api, row, state }) {
  const { busy, run } = useActions(api, row);
  const [asking, ask] = useState(false);
  const name = short(row);
  if (!row.generation) return null;
  const loaded = row.state === "loaded" || row.state === "draining";
  if (!loaded) {
    return html`<${Button} kind="small" busy=${busy === "load" || row.state === "loading"} disabled=${!mayOperate(state)} aria-label=${`Load ${name}`}
      onClick=${() => run("load", undefined, `${name} is loaded`)}>Load<//>`;
  }
  const unload = async () => {
    ask(false);
    await run("unload", undefined, `${name} is unloaded`);
  };
  return html`<${Button} kind="small" busy=${busy === "unload"} disabled=${!mayOperate(state)} aria-label=${`Unload ${name}`} onClick=${() => ask(true)}>Unload<//>
    ${asking && html`<${Dialog} title=${`Unload ${name}?`} confirm="Unload" danger onConfirm=${unload} onClose=${() => ask(false)}>
      <p>${bytes(row.bytes_on_device)} on ${row.devices.join(", ") || "the device"} become free once its last request has ended.</p>
      <p>The model stays on the volume. The next request loads it again, and waits for that.</p>
      ${row.requests_per_second > 0 && html`<p class="wrong">It is in use: ${row.requests_per_second.toFixed(1)} requests a second.</p>`}
      ${row.pinned && html`<p class="wrong">It is pinned, and may be loaded again at once.</p>`}
    <//>`}`;
}

export function PinButton({ api, row, state }) {
  const { busy, run } = useActions(api, row);
  const verb = row.pinned ? "unpin" : "pin";
  const said = row.pinned ? `${short(row)} may be evicted again` : `${short(row)} is loaded, and stays`;
  return html`<${Button} kind="small" busy=${Boolean(busy)} disabled=${!mayOperate(state) || !row.generation} aria-pressed=${String(row.pinned)}
    title="A pinned model is loaded now and after every restart, and is never evicted" onClick=${() => run(verb, undefined, said)}>${row.pinned ? "Unpin" : "Pin"}<//>`;
}

/** Back to an earlier generation, which is named. */
export function RollbackButton({ api, row, generation, state }) {
  const { busy, run } = useActions(api, row);
  const [asking, ask] = useState(false);
  const back = async () => {
    if (await run("rollback", { to: generation }, `${short(row)} serves generation ${generation}`)) ask(false);
  };
  return html`<${Button} kind="small" disabled=${!mayOperate(state)} aria-label=${`Roll back to ${generation}`} onClick=${() => ask(true)}>Roll back<//>
    ${asking && html`<${Dialog} title=${`Roll ${short(row)} back?`} confirm="Roll back" danger busy=${busy === "rollback"} onConfirm=${back} onClose=${() => ask(false)}>
      <p>Generation <code>${generation}</code> is loaded and tried beside <code>${row.generation}</code>, and then answers in its place. No request fails.</p>
      <p>It stays until something newer is dropped.</p>
      ${row.previous_breaking && html`<p class="wrong">The two make different vectors: what was indexed with one cannot be searched with the other.</p>`}
    <//>`}`;
}
