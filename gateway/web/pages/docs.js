// Shows /openapi.json and sends requests from it. No library, and nothing of the answers is ever taken as HTML.
"use strict";

const MOST = 20000; // characters of an answer that are shown
const NAMES = { native: "Dropgate", openai: "OpenAI", rerank: "Rerank", tei: "text-embeddings-inference", ollama: "Ollama",
  triton: "Triton repository", pull: "Pulling", stream: "Events", metrics: "Metrics", openapi: "This description" };

const byId = (id) => document.getElementById(id);

function element(kind, attributes = {}, ...children) {
  const made = document.createElement(kind);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// Text in which `words` are code.
function prose(text) {
  return text.split("`").map((part, number) => (number % 2 ? element("code", {}, part) : part));
}

function field(parameter) {
  const input = element("input", { "data-name": parameter.name, "data-in": parameter.in, autocomplete: "off" });
  if (parameter.name === "model") input.setAttribute("list", "models");
  return element("label", {}, `${parameter.name} (${parameter.in})`, input);
}

function failures(operation, components) {
  const list = element("ul", { class: "codes" });
  for (const [status, answer] of Object.entries(operation.responses)) {
    if (!answer.$ref) continue;
    const described = components.responses[answer.$ref.split("/").pop()].description;
    list.append(element("li", {}, `${status}: ${described}`));
  }
  return element("details", {}, element("summary", {}, "What can go wrong"), list);
}

function card(path, method, operation, components) {
  const said = operation.requestBody?.content["application/json"];
  const fields = (operation.parameters ?? []).map(field);
  const text = said && element("textarea", { spellcheck: "false", "aria-label": "body" });
  if (text) text.value = said.example ? JSON.stringify(said.example, null, 2) : "{}";
  const send = element("button", { type: "button" }, "Send");
  const answer = element("div");
  const inside = element("div", { class: "inside" }, ...fields);
  if (text) inside.append(element("label", {}, "body", text));
  inside.append(send, answer, failures(operation, components));
  send.addEventListener("click", () => ask(path, method, fields, text, send, answer));
  const summary = element("summary", {}, element("span", { class: `method ${method}` }, method),
    element("span", { class: "path" }, path), element("span", { class: "what" }, ...prose(operation.summary)));
  return element("details", { class: "operation" }, summary, inside);
}

function address(path, fields) {
  let filled = path;
  const query = new URLSearchParams();
  for (const input of fields.map((label) => label.querySelector("input"))) {
    const value = input.value || (input.dataset.name === "model" ? byId("model").value : "");
    if (input.dataset.in === "path") {
      if (!value) throw new Error(`${input.dataset.name} is needed`);
      filled = filled.replace(`{${input.dataset.name}}`, encodeURIComponent(value));
    } else if (value) query.set(input.dataset.name, value);
  }
  return filled.slice(1) + (query.size ? `?${query}` : "");
}

async function ask(path, method, fields, text, send, shown) {
  send.disabled = true;
  const headers = {};
  if (byId("key").value) headers.Authorization = `Bearer ${byId("key").value}`;
  if (byId("model").value) headers["X-Model"] = byId("model").value;
  const began = performance.now();
  try {
    const target = new URL(address(path, fields), new URL(".", location.href));
    const answer = await fetch(target, { method: method.toUpperCase(), headers, body: text?.value });
    const content = await beginning(answer);
    const took = Math.round(performance.now() - began);
    const kept = ["x-model", "x-model-generation", "retry-after", "x-request-id"].filter((name) => answer.headers.has(name));
    shown.replaceChildren(
      element("p", { class: answer.ok ? "status" : "status bad" }, `${answer.status} ${answer.statusText}, ${took} ms`),
      element("pre", {}, kept.map((name) => `${name}: ${answer.headers.get(name)}\n`).join("") + "\n" + content));
  } catch (error) {
    shown.replaceChildren(element("p", { class: "status bad" }, String(error.message ?? error)));
  }
  send.disabled = false;
}

// Of a stream that does not end, what has come within a second; of any answer, no more than can be read.
async function beginning(answer) {
  if (!answer.body) return "";
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  const stream = (answer.headers.get("content-type") ?? "").startsWith("text/event-stream");
  const end = stream && new Promise((resolve) => setTimeout(resolve, 1000, { done: true }));
  let content = "";
  while (content.length < MOST) {
    const { done, value } = await (end ? Promise.race([reader.read(), end]) : reader.read());
    if (done) break;
    content += value;
  }
  reader.cancel();
  if (content.length >= MOST) return content.slice(0, MOST) + "\n...";
  try { return JSON.stringify(JSON.parse(content), null, 1).replace(/\n\s+(-?[\d.eE+-]+,?)(?=\n)/g, " $1"); } catch { return content; }
}

function filter() {
  const wanted = byId("find").value.toLowerCase();
  for (const section of document.querySelectorAll("section")) {
    let some = false;
    for (const each of section.querySelectorAll(".operation")) {
      each.hidden = !each.querySelector("summary").textContent.toLowerCase().includes(wanted);
      some ||= !each.hidden;
    }
    section.hidden = !some;
  }
}

async function nameModels() {
  const headers = byId("key").value ? { Authorization: `Bearer ${byId("key").value}` } : {};
  const answer = await fetch("v1/models", { headers });
  if (!answer.ok) return;
  byId("models").replaceChildren(...(await answer.json()).data.map((model) => element("option", { value: model.id })));
}

async function show() {
  const description = await (await fetch("openapi.json")).json();
  byId("version").textContent = description.info.version;
  byId("about").textContent = description.info.description;
  const order = Object.keys(NAMES);
  const place = (tag) => (order.indexOf(tag.name) + order.length) % order.length;
  for (const tag of description.tags.sort((one, other) => place(one) - place(other))) {
    const section = element("section", {}, element("h2", {}, NAMES[tag.name] ?? tag.name), element("p", {}, ...prose(tag.description)));
    for (const [path, methods] of Object.entries(description.paths))
      for (const [method, operation] of Object.entries(methods))
        if (operation.tags[0] === tag.name) section.append(card(path, method, operation, description.components));
    byId("operations").append(section);
  }
  byId("find").addEventListener("input", filter);
  byId("key").addEventListener("change", nameModels);
  await nameModels();
}

show();
