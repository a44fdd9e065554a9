// What the suites share: where the cluster is, what is asked, and a tool.

import assert from "node:assert/strict";

export const URL = process.env.OLLAMAMAX_TEST_URL;
export const KEY = process.env.OLLAMAMAX_TEST_KEY;
export const ENCODER = process.env.OLLAMAMAX_TEST_ENCODER;
export const MODEL = "smollm2:135m";
// The same, with a template that knows tools and thinking.
export const TOOLS_MODEL = "tools:135m";
export const QUESTION = [{ role: "user", content: "What is the weather in Paris?" }];
export const WEATHER = '{"sky": "clear", "degrees": 21}';
export const SCHEMA = {
  type: "object",
  properties: { city: { type: "string", maxLength: 12 }, celsius: { type: "boolean" } },
  required: ["city", "celsius"],
  additionalProperties: false,
};
export const FUNCTION = { name: "weather", description: "The weather of a city", parameters: SCHEMA };
export const TOOL = { type: "function", function: FUNCTION };

// What a constrained call, or answer, may say.
export const checkArguments = (given) => {
  assert.deepEqual(Object.keys(given), ["city", "celsius"]);
  assert.equal(typeof given.celsius, "boolean");
};

export const gather = async (stream) => {
  const parts = [];
  for await (const part of stream) parts.push(part);
  return parts;
};
