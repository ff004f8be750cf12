// What the gateway looks like now. One stream for the whole page; it comes back by itself, and holds up nothing.

import { useEffect, useState } from "preact/hooks";

const FIRST = 500; // milliseconds until the first try to connect again
const LONGEST = 10_000;
const MOST_SAMPLES = 450;
const SILENT = 40_000; // a stream that says nothing for so long is dead: it comments every 15 s
const PARTS = ["version", "tenants", "caller", "models_dir", "default_model", "ready", "checks", "aliases", "ignored", "devices", "watcher"];

const NOTHING = {
  connection: { state: "connecting", problem: null, again: null },
  known: false, // whether the first whole state has come
  now: 0, // the gateway's clock, and ours at that moment
  heard: 0,
  models: new Map(),
  held: [],
  version: "",
  tenants: false,
  caller: null,
  models_dir: null,
  default_model: null,
  ready: false,
  checks: {},
  aliases: [],
  ignored: [],
  devices: [],
  watcher: null,
};

export function createLive(api) {
  let state = NOTHING;
  let control = null;
  let timer = null;
  let wait = FIRST;
  let scheduled = false;
  const listeners = new Set();

  function set(part) {
    state = { ...state, ...part };
    if (scheduled) return;
    scheduled = true;
    setTimeout(() => {
      scheduled = false;
      for (const listen of [...listeners]) listen(state);
    }, 0);
  }

  async function connect() {
    clearTimeout(timer);
    control?.abort();
    const mine = (control = new AbortController());
    const watch = watchdog(mine);
    set({ connection: { ...state.connection, state: state.known ? "reconnecting" : "connecting", again: null } });
    try {
      await api.stream("console/live", null, ({ event, data }) => take(event, data), mine.signal, watch);
      throw Object.assign(new Error("the gateway ended the stream"), { code: "unreachable" });
    } catch (problem) {
      if (mine !== control) return; // somebody connects again already
      if (problem.code === "unauthenticated") {
        set({ ...NOTHING, tenants: true, connection: { state: "key", problem, again: null } });
        return;
      }
      const again = Date.now() + wait;
      set({ connection: { state: "waiting", problem, again } });
      timer = setTimeout(connect, wait);
      wait = Math.min(LONGEST, wait * 1.7);
    } finally {
      watch.stop();
    }

    function take(event, data) {
      if (mine !== control) return;
      wait = FIRST;
      receive(event, data);
    }
  }

  function receive(event, data) {
    const whole = event === "state";
    const models = whole || data.models || data.gone ? new Map(whole ? [] : state.models) : state.models;
    for (const row of data.models ?? []) models.set(row.id, row);
    for (const id of data.gone ?? []) models.delete(id);
    const held = data.held?.length || whole ? [...(whole ? [] : state.held), ...(data.held ?? [])].slice(-MOST_SAMPLES) : state.held;
    const parts = Object.fromEntries(PARTS.filter((name) => name in data).map((name) => [name, data[name]]));
    set({ ...parts, models, held, known: true, now: data.now, heard: Date.now(), connection: { state: "live", problem: null, again: null } });
  }

  return {
    get state() {
      return state;
    },
    /** Calls `listen` with every state from now on; the answer takes it back. */
    subscribe(listen) {
      listeners.add(listen);
      return () => listeners.delete(listen);
    },
    /** Starts, or starts anew at once: with another key, or because somebody will not wait. */
    connect() {
      wait = FIRST;
      connect();
    },
    close() {
      clearTimeout(timer);
      control?.abort();
      control = null;
    },
    /** The gateway's clock now, in Unix seconds. */
    now: () => (state.now ? state.now + (Date.now() - state.heard) / 1000 : Date.now() / 1000),
  };
}

/** The state, whenever it changes. */
export function useLive(live) {
  const [state, set] = useState(live.state);
  useEffect(() => {
    set(live.state);
    return live.subscribe(set);
  }, [live]);
  return state;
}

/** Ends a stream that has gone silent: a connection may be dead without anybody saying so. */
function watchdog(control) {
  let last = Date.now();
  const timer = setInterval(() => {
    if (Date.now() - last > SILENT) control.abort();
  }, 5000);
  return { heard: () => (last = Date.now()), stop: () => clearInterval(timer) };
}
