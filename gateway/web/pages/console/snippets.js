// What is on the screen as a program: the same request, for curl and Python. A key is never written into it.

const KEY = "DROPGATE_KEY"; // the environment variable that the programs read
const WIDE = 76; // characters of a line

/** Programs that ask for these embeddings. `base` is the gateway's address; `models` are asked one after the other;
 * `options` are further fields of `POST /embed`, only those that are set; `keyed` where the gateway asks for a key. */
export function embedding(request) {
  return [
    { name: "curl", code: curl(request) },
    { name: "Python", code: httpx(request) },
    { name: "openai-python", code: openai(request) },
  ];
}

/** The same for a question: `body` is that of `POST /ask`. */
export function asking({ base, body, keyed }) {
  const call = post(`${base}/ask`, python(body, "    "), keyed, 300);
  return [
    { name: "curl", code: command(`${base}/ask`, body, keyed) },
    { name: "Python", code: `${imports(keyed, "import httpx")}\n${call}\nprint(answer.json()["answer"])` },
  ];
}

function curl({ base, texts, models, options, keyed }) {
  return models.map((model) => command(`${base}/embed`, { inputs: texts, model, ...options }, keyed)).join("\n\n");
}

function command(url, body, keyed) {
  const line = JSON.stringify(body), text = line.length > WIDE ? JSON.stringify(body, null, 2) : line;
  const lines = [`curl -s ${shell(url)}`];
  if (keyed) lines.push(`-H "Authorization: Bearer $${KEY}"`);
  lines.push("-H 'Content-Type: application/json'", `-d ${shell(text)}`);
  return lines.join(" \\\n  ");
}

function httpx({ base, texts, models, options, keyed }) {
  const head = imports(keyed, "import httpx");
  const shown = `vectors = answer.json()["embeddings"]\nprint(len(vectors), len(vectors[0]))`;
  if (models.length < 2) {
    const body = python({ inputs: texts, model: models[0], ...options }, "    ");
    return `${head}\n${post(`${base}/embed`, body, keyed)}\n${shown}`;
  }
  const more = Object.entries(options).map(([name, value]) => `, ${python(name)}: ${python(value)}`).join("");
  const call = post(`${base}/embed`, `{"inputs": texts, "model": model${more}}`, keyed);
  return `${head}\ntexts = ${python(texts, "")}\n\nfor model in ${python(models)}:\n${indented(`${call}\n${shown}`)}`;
}

function post(url, body, keyed, seconds = 60) {
  const headers = keyed ? `    headers={"Authorization": "Bearer " + os.environ["${KEY}"]},\n` : "";
  return `answer = httpx.post(\n    ${python(url)},\n${headers}    json=${body},\n    timeout=${seconds},\n)\n` +
    "answer.raise_for_status()";
}

function openai({ base, texts, models, options, keyed }) {
  const { dimensions, ...rest } = options;
  const more = dimensions ? `, dimensions=${dimensions}` : "";
  const extra = Object.keys(rest).length ? `, extra_body=${python(rest)}` : "";
  const key = keyed ? `os.environ["${KEY}"]` : '"none"';
  const call = (model) => `answer = client.embeddings.create(model=${model}, input=texts${more}${extra})\n` +
    "vectors = [row.embedding for row in answer.data]\nprint(len(vectors), len(vectors[0]))";
  const calls = models.length < 2 ? call(python(models[0])) : `for model in ${python(models)}:\n${indented(call("model"))}`;
  return `${imports(keyed, "from openai import OpenAI")}\n` +
    `client = OpenAI(base_url=${python(`${base}/v1`)}, api_key=${key})\ntexts = ${python(texts, "")}\n\n${calls}`;
}

function imports(keyed, line) {
  return keyed ? `import os\n\n${line}\n` : `${line}\n`;
}

/** A literal of Python. What JSON has for texts and numbers, Python has too. A long one is broken into lines, which begin
 * with `margin`, where there is one. */
export function python(value, margin) {
  if (value === null || value === undefined) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value === "string") return JSON.stringify(value).replace(/[\u007f-\u009f\u2028\u2029]/g, escaped);
  if (typeof value !== "object") return String(value);
  const deeper = margin === undefined ? undefined : `${margin}    `;
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  const items = Array.isArray(value)
    ? value.map((each) => python(each, deeper))
    : Object.entries(value).map(([name, each]) => `${python(name)}: ${python(each, deeper)}`);
  const line = `${open}${items.join(", ")}${close}`;
  if (margin === undefined || (line.length <= WIDE && !line.includes("\n"))) return line;
  return `${open}\n${items.map((item) => `${deeper}${item},\n`).join("")}${margin}${close}`;
}

function escaped(character) {
  return `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`;
}

/** A word of a POSIX shell. */
export function shell(text) {
  return /^[\w.,:/@%+=-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

function indented(text) {
  return text.replace(/^(?=.)/gm, "    ");
}
