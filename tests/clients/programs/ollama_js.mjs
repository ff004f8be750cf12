// ollama-js.

import { Ollama } from "ollama";
import { tell } from "./telling.mjs";

const client = ({ url, key }) => new Ollama({ host: url, headers: { Authorization: `Bearer ${key}` } });

async function embed(target, texts) {
  const input = texts.length === 1 ? texts[0] : texts;
  return (await client(target).embed({ model: target.model, input })).embeddings;
}

const listed = async (target) => (await client(target).list()).models.map((model) => model.model);

await tell({ embed, listed });
