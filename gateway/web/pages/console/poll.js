// Asking again and again: never twice at once, never while nobody looks, and what was known stays while nothing answers.

import { useEffect, useRef, useState } from "./ui.js";

/** `period` in milliseconds; a function is asked after each answer. -> {data, problem, again()} */
export function usePoll(api, path, period) {
  const [state, set] = useState({ path, data: null, problem: null });
  const again = useRef(() => {});
  useEffect(() => {
    if (path === null) return undefined;
    const control = new AbortController();
    let timer = null;
    let asking = false;
    const ask = async () => {
      clearTimeout(timer);
      if (asking || document.hidden) return;
      asking = true;
      let wait = typeof period === "function" ? period(null) : period;
      try {
        const data = await api.get(path, { signal: control.signal });
        set({ path, data, problem: null });
        if (typeof period === "function") wait = period(data);
      } catch (problem) {
        if (control.signal.aborted) return;
        set((known) => ({ path, data: known.path === path ? known.data : null, problem }));
      }
      asking = false;
      timer = setTimeout(ask, wait);
    };
    const seen = () => !document.hidden && ask();
    document.addEventListener("visibilitychange", seen);
    again.current = ask;
    ask();
    return () => {
      control.abort();
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", seen);
    };
  }, [api, path]);
  const known = state.path === path ? state : { data: null, problem: null };
  return { data: known.data, problem: known.problem, again: () => again.current() };
}

/** What stands behind the tab's name in the address, without its first slash. */
export function useRest() {
  const rest = () => location.hash.slice(1).split("/").slice(1).map(decoded).join("/");
  const [found, set] = useState(rest);
  useEffect(() => {
    const change = () => set(rest());
    addEventListener("hashchange", change);
    return () => removeEventListener("hashchange", change);
  }, []);
  return found;
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}
