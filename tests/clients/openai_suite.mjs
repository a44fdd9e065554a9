// OpenAI's JavaScript client: chat, completions, embeddings, models, responses. Prints `ok openai-javascript`.

import assert from "node:assert/strict";
import OpenAI from "openai";
import { ENCODER, FUNCTION, KEY, MODEL, QUESTION, SCHEMA, TOOL, TOOLS_MODEL, URL, WEATHER, checkArguments, gather } from "./common.mjs";

const client = new OpenAI({ baseURL: `${URL}/v1`, apiKey: KEY, maxRetries: 0 });
const SEEDED = { model: MODEL, messages: QUESTION, temperature: 0.9, seed: 7, max_tokens: 12 };
const create = (more) => client.chat.completions.create({ ...SEEDED, ...more });
const refused = (call, kind, text) =>
  assert.rejects(async () => call(), (error) => error instanceof kind && error.message.includes(text));
const one = (list) => {
  assert.equal(list.length, 1);
  return list[0];
};

// Chat: seeds, streams, several answers, a stop, log-probabilities.
const first = await create({});
const text = first.choices[0].message.content;
assert(text && first.choices[0].finish_reason === "length" && first.usage.completion_tokens === 12);
assert.equal((await create({})).choices[0].message.content, text);
const chunks = await gather(await create({ stream: true, stream_options: { include_usage: true } }));
assert.equal(chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join(""), text);
assert.deepEqual(chunks.at(-1).usage, first.usage);
const both = await create({ n: 2 });
assert(both.choices[0].message.content === text && both.choices[1].message.content !== text);
const word = text.split(" ")[3];
const stopped = (await create({ stop: [word] })).choices[0];
assert(!stopped.message.content.includes(word) && stopped.finish_reason === "stop");
assert.equal((await create({ logprobs: true, top_logprobs: 2 })).choices[0].logprobs.content.length, 12);

// A stream is cut, and the next request is answered as ever.
const endless = await create({ stream: true, max_tokens: 4000 });
for await (const chunk of endless) if (chunk.choices[0].delta.content) endless.controller.abort();
assert(endless.controller.signal.aborted);
assert.equal((await create({})).choices[0].message.content, text);

// A schema, and a tool's round trip, whole and streamed.
const shape = { type: "json_schema", json_schema: { name: "weather", schema: SCHEMA, strict: true } };
const parsed = await client.chat.completions.parse({ model: MODEL, messages: QUESTION, temperature: 0, response_format: shape });
checkArguments(parsed.choices[0].message.parsed ?? JSON.parse(parsed.choices[0].message.content));
const asking = { model: TOOLS_MODEL, tools: [TOOL], tool_choice: "required", reasoning_effort: "none", temperature: 0, max_tokens: 100 };
const answer = (await create(asking)).choices[0];
const call = one(answer.message.tool_calls);
assert(answer.finish_reason === "tool_calls" && call.id && call.function.name === "weather");
checkArguments(JSON.parse(call.function.arguments));
const streamed = await client.chat.completions.stream({ ...SEEDED, ...asking }).finalMessage();
assert.equal(one(streamed.tool_calls).function.arguments, call.function.arguments);
const talk = [...QUESTION, answer.message, { role: "tool", tool_call_id: call.id, content: WEATHER }];
const ended = (await create({ ...asking, tool_choice: "none", messages: talk })).choices[0];
assert(!ended.message.tool_calls && ended.finish_reason !== "tool_calls");

// Completions, models, vectors.
const asked = { model: MODEL, prompt: "The sea is", temperature: 0, max_tokens: 6 };
const whole = (await client.completions.create(asked)).choices[0].text;
const parts = await gather(await client.completions.create({ ...asked, stream: true }));
assert.equal(parts.map((part) => part.choices[0]?.text ?? "").join(""), whole);
const ids = (await gather(client.models.list())).map((model) => model.id);
assert(ids.includes(MODEL) && ids.includes(TOOLS_MODEL));
assert.equal((await client.models.retrieve(MODEL)).id, MODEL);
const vector = async (more) => (await client.embeddings.create({ model: ENCODER, input: "a cat", ...more })).data[0].embedding;
const [packed, plain] = [await vector({}), await vector({ encoding_format: "float" })];
assert(packed.length === plain.length && packed.every((value, place) => Math.abs(value - plain[place]) < 1e-7));
assert.equal(typeof (await vector({ encoding_format: "base64" })), "string");

// Responses: whole, streamed, a function's round trip.
const response = await client.responses.create({ model: MODEL, input: "Tell me of the sea.", temperature: 0, max_output_tokens: 12 });
const events = await gather(
  await client.responses.create({ model: MODEL, input: "Tell me of the sea.", temperature: 0, max_output_tokens: 12, stream: true }));
const deltas = events.filter((event) => event.type === "response.output_text.delta");
assert(response.output_text && deltas.map((event) => event.delta).join("") === response.output_text);
assert(events.at(-1).response.usage.output_tokens === response.usage.output_tokens);
const able = { model: TOOLS_MODEL, tools: [{ type: "function", ...FUNCTION }], reasoning: { effort: "none" }, temperature: 0 };
const outcome = await client.responses.create({ ...able, tool_choice: "required", input: QUESTION });
const wanted = one(outcome.output.filter((item) => item.type === "function_call"));
checkArguments(JSON.parse(wanted.arguments));
const result = { type: "function_call_output", call_id: wanted.call_id, output: WEATHER };
const last = await client.responses.create({
  ...able, tool_choice: "none", max_output_tokens: 12, input: [...QUESTION, ...outcome.output, result] });
assert(last.output_text, JSON.stringify(last));

// Errors.
await refused(() => create({ model: "nonesuch" }), OpenAI.NotFoundError, "not found");
await refused(() => create({ model: "nonesuch", stream: true }), OpenAI.NotFoundError, "not found");
await refused(() => client.models.retrieve("nonesuch"), OpenAI.NotFoundError, "not found");
await refused(() => create({ temperature: -3 }), OpenAI.BadRequestError, "temperature");
await refused(() => create({ tools: [TOOL] }), OpenAI.BadRequestError, "does not support tools");
const stranger = new OpenAI({ baseURL: `${URL}/v1`, apiKey: "omk_nonsense", maxRetries: 0 });
await refused(() => stranger.chat.completions.create(SEEDED), OpenAI.AuthenticationError, "401");
console.log("ok openai-javascript");
