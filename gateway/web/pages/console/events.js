import { Empty, html } from "./ui.js";

export function Page() {
  return html`<${Empty} title="Events"><p>This page is not here yet.</p><//>`;
}
