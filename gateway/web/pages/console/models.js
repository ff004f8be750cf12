// Every directory that was seen, live.

import { useLive } from "./live.js";
import { Badge, html } from "./ui.js";

export function Page({ live }) {
  const state = useLive(live);
  const rows = [...state.models.values()];
  return html`<h1>Models</h1><ul>${rows.map((row) => html`<li key=${row.id}>${row.display_name} <${Badge} state=${row.state} /></li>`)}</ul>`;
}
