import { Empty, html } from "./ui.js";

export function Page() {
  return html`<${Empty} title="Ask"><p>This page is not here yet.</p><//>`;
}
