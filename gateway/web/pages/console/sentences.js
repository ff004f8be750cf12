// Events in words. What is not known here is told by its fields.

import { bytes, number, plural, seconds } from "./ui.js";

export const KINDS = [
  ["models", "Models"],
  ["loads", "Loads and unloads"],
  ["hosts", "Hosts"],
  ["aliases", "Aliases"],
  ["knowledge", "Knowledge bases"],
  ["pulls", "Pulls"],
  ["gateway", "Gateway and watcher"],
];
const OF = { generation: "loads", load: "loads", runtime: "loads", host: "hosts", aliases: "aliases", reindex: "knowledge", documents: "knowledge", document: "knowledge", indexing: "knowledge", pull: "pulls" };

export function kind(name) {
  if (name === "model_pulling" || name === "model_pulled") return "pulls";
  const first = name.split("_")[0];
  return first === "model" ? "models" : (OF[first] ?? "gateway");
}

/** Whom it is about: a model, a device, a knowledge base. */
export function subject({ facts }) {
  return facts.model ?? facts.models?.join(", ") ?? facts.kb ?? facts.device ?? null;
}

const WORDS = {
  model_copying: () => "is being copied",
  model_accepted: (of) => `accepted as ${of.generation}, ${bytes(of.bytes)}`,
  model_rejected: (of) => `${of.reasons?.map((reason) => `${reason.message}. ${reason.remedy}`).join(" ") ?? ""}${of.serving ? ` ${of.serving} goes on serving.` : ""}`,
  model_swapped: (of) => `${of.generation} went live in place of ${of.previous}${of.breaking ? "; indexes built before are void" : ""}`,
  model_rolled_back: (of) => `rolled back from ${of.previous} to ${of.generation}${of.breaking ? "; indexes built before are void" : ""}`,
  model_removed: (of) => `has gone from the volume${of.generation ? `, with ${of.generation}` : ""}`,
  model_pulling: (of) => `${bytes(of.bytes)} of ${bytes(of.total)} are here`,
  model_pulled: (of) => `${bytes(of.bytes)} came from the hub in ${seconds(of.seconds)}`,
  model_fetching: (of) => `${bytes(of.bytes)} of ${bytes(of.total)} came from the bucket`,
  pull_failed: (of) => of.message,
  generation_loaded: (of) => `${of.generation} loaded on ${of.device} in ${seconds(of.seconds)}, ${bytes(of.bytes)}${of.returned ? ", from host memory" : ""}`,
  generation_unloaded: (of) => `${of.generation} unloaded from ${of.device}: ${String(of.why).replaceAll("_", " ")}`,
  generation_thinned: (of) => `${of.generation} let go from the disk, ${bytes(of.bytes)}: fetched when it is asked for`,
  load_failed: (of) => `${of.message}; not tried again for ${seconds(of.retry_after)}`,
  generation_quarantined: (of) => `${of.message}; for ${seconds(of.retry_after)}`,
  runtime_fell_back: (of) => of.message,
  host_started: (of) => `process ${of.pid} is up after ${seconds(of.seconds)}, with ${bytes(of.budget)} for models`,
  host_exited: (of) => `process ${of.pid} ended: ${of.why} (status ${of.status})`,
  aliases_changed: (of) => `${plural(of.aliases?.length ?? 0, "alias").replace(/aliass$/, "aliases")} in force${of.removed?.length ? `, without ${of.removed.join(", ")}` : ""}`,
  aliases_rejected: (of) => of.message,
  reindex_started: (of) => `goes over to ${of.generation} of ${of.model}`,
  reindex_progress: (of) => `${number(of.documents)} of ${number(of.total)} documents`,
  reindex_finished: (of) => `${number(of.documents)} documents in ${seconds(of.seconds)}`,
  reindex_failed: (of) => of.message,
  documents_indexed: (of) => `${plural(of.documents, "document")}, ${plural(of.chunks, "chunk")}${of.pending ? `, ${number(of.pending)} to come` : ""}`,
  document_failed: (of) => `${of.document}: ${of.message}`,
  indexing_stalled: (of) => of.message,
  volume_unreadable: (of) => of.message,
  watcher_rebuilt: (of) => `it had gone deaf: ${of.why}`,
  watcher_deaf: (of) => `only the timer sees what changes: ${of.why}`,
  stopping: (of) => `${of.why}: what is in flight has ${seconds(of.seconds)}`,
  notice: (of) => `${of.code}: ${of.message}`,
};

export function sentence({ event, facts }) {
  const said = WORDS[event];
  try {
    if (said) return String(said(facts) ?? "");
  } catch {
    // a field is not what it was: then its fields are told
  }
  return Object.entries(facts).map(([key, value]) => `${key} ${typeof value === "string" ? value : JSON.stringify(value)}`).join(", ");
}
