// openai-node. It asks for base64 unless told otherwise, and decodes it itself.

import OpenAI from "openai";
import { tell } from "./telling.mjs";

const client = ({ url, key }) => new OpenAI({ baseURL: `${url}/v1`, apiKey: key, maxRetries: 0 });

async function embeddings(target, texts) {
  const input = texts.length === 1 ? texts[0] : texts;
  const answer = await client(target).embeddings.create({ model: target.model, input });
  return answer.data.map((each) => each.embedding);
}

async function models(target) {
  const ids = [];
  for await (const model of client(target).models.list()) ids.push(model.id);
  return ids;
}

await tell({ embeddings, models });
