// Ollama's JavaScript client: what is served of it, streamed and whole, and `abort()`. Prints `ok ollama-javascript`.

import assert from "node:assert/strict";
import { Ollama } from "ollama";
import { ENCODER, KEY, MODEL, QUESTION, SCHEMA, TOOL, TOOLS_MODEL, URL, WEATHER, checkArguments, gather } from "./common.mjs";

const client = new Ollama({ host: URL, headers: { Authorization: `Bearer ${KEY}` } });
const SEEDED = { temperature: 0.9, seed: 7, num_predict: 16 };
const refused = (call, status, text) =>
  assert.rejects(call, (error) => error.status_code === status && error.message.includes(text));

// What a seed says, it says again, whole and in parts.
const ask = { model: MODEL, prompt: "Tell me of the sea.", options: SEEDED };
const first = await client.generate(ask);
assert(first.done && first.eval_count === 16 && first.prompt_eval_count > 3, JSON.stringify(first));
const parts = await gather(await client.generate({ ...ask, stream: true }));
assert.equal(parts.map((part) => part.response).join(""), first.response);
assert(parts.length > 4 && parts.at(-1).done);
assert.notEqual((await client.generate({ ...ask, options: { ...SEEDED, seed: 8 } })).response, first.response);
const talk = { model: MODEL, messages: QUESTION, options: SEEDED };
const whole = await client.chat(talk);
const said = await gather(await client.chat({ ...talk, stream: true }));
assert.equal(said.map((part) => part.message.content).join(""), whole.message.content);
const told = await client.chat({ ...talk, logprobs: true, top_logprobs: 2 });
assert(told.logprobs.length === 16 && told.logprobs.every((one) => one.top_logprobs.length === 2));

// A stream is cut, and the next request is answered as ever.
const endless = await client.generate({ ...ask, options: { ...SEEDED, num_predict: 4000 }, stream: true });
await assert.rejects(async () => {
  for await (const part of endless) if (part.response) endless.abort();
}, { name: "AbortError" });
assert.equal((await client.generate(ask)).response, first.response);

// Tools, thinking, a schema.
const able = { model: TOOLS_MODEL, messages: QUESTION, tools: [TOOL], think: false, options: { temperature: 0, num_predict: 16 } };
const asked = await client.chat(able);
assert(asked.message.content || asked.message.tool_calls, JSON.stringify(asked));
const call = { function: { name: "weather", arguments: { city: "Paris", celsius: true } } };
const turns = [...QUESTION, { role: "assistant", content: "", tool_calls: [call] }, { role: "tool", tool_name: "weather", content: WEATHER }];
assert((await client.chat({ ...able, messages: turns })).prompt_eval_count > asked.prompt_eval_count);
const thought = await client.chat({ ...able, tools: [], think: true, options: { temperature: 0, num_predict: 8 } });
assert(thought.message.thinking, JSON.stringify(thought));
const filled = await client.chat({ model: MODEL, messages: QUESTION, format: SCHEMA, options: { temperature: 0 } });
checkArguments(JSON.parse(filled.message.content));

// Vectors.
const { embeddings } = await client.embed({ model: ENCODER, input: ["a cat", "the sea"] });
assert.equal(embeddings.length, 2);
assert.deepEqual((await client.embeddings({ model: ENCODER, prompt: "a cat" })).embedding, embeddings[0]);
assert.equal((await client.embed({ model: MODEL, input: "a cat" })).embeddings[0].length, 576);

// Models: made, shown, listed, copied, deleted.
const name = "ollama-javascript";
const made = await gather(await client.create({ model: name, from: MODEL, system: "Be brief.", parameters: { num_predict: 4 }, stream: true }));
assert.equal(made.at(-1).status, "success");
const shown = await client.show({ model: name });
assert(shown.modelfile.includes("Be brief.") && shown.parameters.includes("num_predict") && shown.capabilities.includes("completion"));
await client.copy({ source: name, destination: `${name}:copy` });
const { models } = await client.list();
const digest = (wanted) => models.find((model) => model.name === wanted).digest;
assert.equal(digest(`${name}:copy`), digest(`${name}:latest`));
for (const model of [name, `${name}:copy`]) assert.equal((await client.delete({ model })).status, "success");
await refused(client.show({ model: name }), 404, "not found");
assert((await client.ps()).models.length > 0);
assert.match((await client.version()).version, /^\d+\.\d+\.\d+/);

// Errors.
await refused(client.chat({ ...talk, model: "nonesuch" }), 404, "not found");
await refused(client.chat({ ...talk, model: "nonesuch", stream: true }), 404, "not found");
await refused(client.delete({ model: "nonesuch" }), 404, "not found");
await refused(client.generate({ ...ask, options: { temperature: "hot" } }), 400, "temperature");
await refused(client.chat({ ...talk, tools: [TOOL] }), 400, "does not support tools");
await refused(new Ollama({ host: URL, headers: { Authorization: "Bearer omk_nonsense" } }).list(), 401, "");
console.log("ok ollama-javascript");
