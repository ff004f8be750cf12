// One question on its way: what the stream has told so far. Nothing of it is drawn here.

import { useEffect, useReducer, useRef } from "preact/hooks";

export const NOTHING = { busy: false, asked: null, status: "", documents: null, text: "", done: null, problem: null, notice: "" };

/** What is known after an event of `POST /ask/stream`. */
export function after(state, event) {
  switch (event.type) {
    case "asked": return { ...NOTHING, busy: true, asked: event.asked, status: "Asking…" };
    case "status": return { ...state, status: event.message };
    case "documents": return { ...state, documents: event.data, status: "Answering…" };
    case "token": return { ...state, text: state.text + event.content };
    case "clear_response": return { ...state, text: "", notice: event.message };
    case "complete": return { ...state, text: event.final_answer, documents: event.documents, done: event };
    case "error": return { ...state, problem: event };
    case "ended": return { ...state, busy: false, problem: state.problem ?? (state.done ? null : BROKEN) };
    case "failed": return { ...state, busy: false, problem: event.problem };
    case "stopped": return { ...state, busy: false, notice: "Stopped. What was said until then is not checked." };
    default: return state;
  }
}

const BROKEN = { code: "unreachable", message: "The answer broke off.", remedy: "Ask again." };

/** [state, ask(body), stop()]. Another question, or leaving the page, ends the one before. */
export function useAnswer(api) {
  const [state, tell] = useReducer(after, NOTHING);
  const going = useRef(null);
  useEffect(() => () => going.current?.abort(), []);
  const ask = async (body) => {
    going.current?.abort();
    const mine = (going.current = new AbortController());
    const told = (event) => mine.signal.aborted || tell(event);
    tell({ type: "asked", asked: body });
    try {
      await api.stream("ask/stream", { ...body, partial_answer: false }, ({ data }) => told(data), mine.signal);
      told({ type: "ended" });
    } catch (problem) {
      told({ type: "failed", problem });
    }
  };
  const stop = () => {
    if (!going.current || going.current.signal.aborted) return;
    going.current.abort();
    tell({ type: "stopped" });
  };
  return [state, ask, stop];
}
