// A request as a program, in the language that one likes.

import { useState } from "preact/hooks";
import { html } from "./ui.js";
import { Copied } from "./strips.js";

const chosen = { name: "curl" }; // the last language, for the next program

export function Programs({ programs, title }) {
  const [name, setName] = useState(chosen.name);
  const shown = programs.find((each) => each.name === name) ?? programs[0];
  const choose = (wanted) => setName((chosen.name = wanted));
  return html`<section class="card programs" aria-label=${title}>
    <header class="side-head"><h2>${title}</h2>
      <span class="marks">${programs.map((each) => html`<button type="button" class="chip" key=${each.name}
        aria-pressed=${each === shown} onClick=${() => choose(each.name)}>${each.name}</button>`)}</span>
      <${Copied} label="Copy" of=${shown.name} text=${() => shown.code} /></header>
    <pre class="code" tabindex="0" aria-label=${shown.name}><code>${shown.code}</code></pre>
  </section>`;
}
