// What went wrong, where it went wrong: the code, what it means, and what to do.

import { html } from "./ui.js";

const REMEDIES = {
  model_copying: "The directory is still growing. Try again when its state is ready.",
  model_loading: "It is being brought into memory. Try again in a moment.",
  overloaded: "The device has too much to do. Try again in a moment.",
  input_too_long: "Shorten the text, or let it be cut.",
  too_many_inputs: "Send fewer texts at once.",
  body_too_large: "Send less at once.",
  generation_not_found: "It is not kept any more. Choose another generation.",
  knowledge_base_not_ready: "Its documents are being indexed. Try again when it is ready.",
  unknown_prompt: "Choose a prompt that this model has.",
  forbidden: "Use a key whose role allows it.",
  rate_limited: "The key has used up this minute. Wait, and try again.",
  ask_unavailable: "Install the gateway with knowledge bases: pip install 'dropgate[ask]'",
  document_unreadable: "Check that the file opens elsewhere; PDFs need text, not pictures of pages.",
  document_too_large: "Split it, or allow more with --max-document-bytes.",
  provider_failed: "Look at the provider, or choose another language model.",
  provider_timeout: "Ask again, or choose another language model.",
  provider_unavailable: "It has failed several times. Choose another language model for now.",
};

export function Trouble({ problem, title }) {
  const remedy = problem.remedy ?? REMEDIES[problem.code];
  return html`<div class="trouble" role="alert">
    <p>${title && html`<strong>${title} </strong>`}${problem.message} <code>${problem.code}</code></p>
    ${remedy && html`<p class="remedy">${remedy}</p>`}
  </div>`;
}
