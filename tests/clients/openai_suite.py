"""OpenAI's Python client: chat, completions, embeddings, models, responses. Prints `ok openai-python`."""

import base64
import json
import struct

import openai
from common import ENCODER, FUNCTION, KEY, MODEL, QUESTION, TOOLS, TOOLS_MODEL, URL, WEATHER, City, check_arguments, raises

client = openai.OpenAI(base_url=URL + "/v1", api_key=KEY, max_retries=0)
SEEDED = {"model": MODEL, "messages": QUESTION, "temperature": 0.9, "seed": 7, "max_tokens": 12}

# Chat: seeds, streams, several answers, stops, log-probabilities.
first = client.chat.completions.create(**SEEDED)
assert first.choices[0].finish_reason == "length" and first.usage.completion_tokens == 12, first
assert first.usage.total_tokens == first.usage.prompt_tokens + 12, first
assert client.chat.completions.create(**SEEDED).choices[0].message.content == first.choices[0].message.content
chunks = list(client.chat.completions.create(**SEEDED, stream=True, stream_options={"include_usage": True}))
said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
assert said == first.choices[0].message.content and chunks[-1].usage == first.usage, chunks
assert {chunk.id for chunk in chunks} == {chunks[0].id} and chunks[0].choices[0].delta.role == "assistant", chunks
both = client.chat.completions.create(**SEEDED, n=2)
assert [choice.index for choice in both.choices] == [0, 1] and both.choices[0].message.content == first.choices[0].message.content
assert both.choices[1].message.content != both.choices[0].message.content, both
mixed = {0: "", 1: ""}
for chunk in client.chat.completions.create(**SEEDED, n=2, stream=True):
    for choice in chunk.choices:
        mixed[choice.index] += choice.delta.content or ""
assert [mixed[0], mixed[1]] == [choice.message.content for choice in both.choices], mixed
word = first.choices[0].message.content.split()[2]
stopped = client.chat.completions.create(**SEEDED, stop=[word])
assert word not in stopped.choices[0].message.content and stopped.choices[0].finish_reason == "stop", stopped
told = client.chat.completions.create(**SEEDED, logprobs=True, top_logprobs=2).choices[0].logprobs.content
assert len(told) == 12 and all(len(one.top_logprobs) == 2 and one.logprob <= 0 for one in told), told
assert client.chat.completions.create(**SEEDED | {"max_tokens": None}, max_completion_tokens=3).usage.completion_tokens == 3
with client.chat.completions.create(**SEEDED, stream=True) as left:
    next(iter(left))

# A schema, filled and parsed by the client itself.
parsed = client.chat.completions.parse(model=MODEL, messages=QUESTION, response_format=City, temperature=0)
assert isinstance(parsed.choices[0].message.parsed, City), parsed

# A tool's round trip, whole and streamed.
asked = {"model": TOOLS_MODEL, "messages": QUESTION, "tools": [TOOLS], "tool_choice": "required", "reasoning_effort": "none",
         "temperature": 0, "max_tokens": 100}
answer = client.chat.completions.create(**asked).choices[0]
(call,) = answer.message.tool_calls
assert answer.finish_reason == "tool_calls" and call.function.name == "weather" and call.id, answer
check_arguments(json.loads(call.function.arguments))
pieces = list(client.chat.completions.create(**asked, stream=True))
calls = [call for chunk in pieces for choice in chunk.choices for call in choice.delta.tool_calls or []]
assert "".join(part.function.arguments or "" for part in calls) == call.function.arguments, calls
assert calls[0].id and calls[0].function.name == "weather" and pieces[-1].choices[0].finish_reason == "tool_calls", pieces
with client.chat.completions.stream(**asked) as stream:
    final = stream.get_final_completion().choices[0].message
assert final.tool_calls[0].function.arguments == call.function.arguments, final
talk = [*QUESTION, answer.message, {"role": "tool", "tool_call_id": call.id, "content": WEATHER}]
named = {"type": "function", "function": {"name": "weather"}}
for choice, reason in [("none", ("stop", "length")), (named, ("tool_calls",))]:
    ended = client.chat.completions.create(**asked | {"messages": talk, "tool_choice": choice}).choices[0]
    assert ended.finish_reason in reason and bool(ended.message.tool_calls) == (choice is named), ended

# Completions.
text = {"model": MODEL, "prompt": "The sea is", "temperature": 0, "max_tokens": 6}
whole = client.completions.create(**text)
parts = list(client.completions.create(**text, stream=True, stream_options={"include_usage": True}))
assert "".join(part.choices[0].text for part in parts if part.choices) == whole.choices[0].text != "", parts
assert parts[-1].usage.completion_tokens == 6 == whole.usage.completion_tokens, parts[-1]
assert len(client.completions.create(**text | {"prompt": ["a", "b"]}).choices) == 2

# Models and vectors.
assert {MODEL, TOOLS_MODEL} <= {model.id for model in client.models.list()}
assert client.models.retrieve(MODEL).id == MODEL and client.models.retrieve(MODEL).object == "model"
plain, packed = (client.embeddings.create(model=ENCODER, input="a cat", **kind) for kind in ({"encoding_format": "float"}, {}))
pairs = list(zip(plain.data[0].embedding, packed.data[0].embedding, strict=True))
assert pairs and all(abs(a - b) < 1e-7 for a, b in pairs) and packed.usage.total_tokens > 0, pairs
raw = client.embeddings.create(model=ENCODER, input="a cat", encoding_format="base64").data[0].embedding
assert list(struct.unpack(f"<{len(pairs)}f", base64.b64decode(raw))) == list(packed.data[0].embedding), raw
assert len(client.embeddings.create(model=ENCODER, input=["a", "b"], dimensions=8).data[1].embedding) == 8

# Responses: whole, streamed, parsed, a function's round trip.
ask = {"model": MODEL, "input": "Tell me of the sea.", "instructions": "Be brief.", "temperature": 0, "max_output_tokens": 12}
answer = client.responses.create(**ask)
assert answer.output_text and answer.usage.output_tokens <= 12 and answer.object == "response", answer
events = list(client.responses.create(**ask, stream=True))
assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == answer.output_text, events
assert [event.sequence_number for event in events] == list(range(len(events))), events
assert events[0].type == "response.created" and events[-1].response.output_text == answer.output_text, events
assert events[-1].response.usage.output_tokens == answer.usage.output_tokens, events[-1]
assert isinstance(client.responses.parse(model=MODEL, input=QUESTION, text_format=City, temperature=0).output_parsed, City)
ask = {"model": TOOLS_MODEL, "tools": [{"type": "function", **FUNCTION}], "tool_choice": "required",
       "reasoning": {"effort": "none"}, "temperature": 0}
asked = client.responses.create(**ask, input=QUESTION)
(call,) = [item for item in asked.output if item.type == "function_call"]
check_arguments(json.loads(call.arguments))
with client.responses.stream(**ask, input=QUESTION) as stream:
    kinds = [event.type for event in stream]
    (again,) = [item for item in stream.get_final_response().output if item.type == "function_call"]
assert "response.function_call_arguments.done" in kinds and again.arguments == call.arguments, kinds
result = {"type": "function_call_output", "call_id": call.call_id, "output": WEATHER}
ended = client.responses.create(**ask | {"tool_choice": "none", "max_output_tokens": 12}, input=[*QUESTION, *asked.output, result])
assert ended.output_text and not [item for item in ended.output if item.type == "function_call"], ended

# Errors.
raises(openai.NotFoundError, lambda: client.chat.completions.create(**SEEDED | {"model": "nonesuch"}), 404, "not found")
raises(openai.NotFoundError, lambda: client.chat.completions.create(**SEEDED | {"model": "nonesuch"}, stream=True), 404, "not found")
raises(openai.NotFoundError, lambda: client.models.retrieve("nonesuch"), 404, "not found")
raises(openai.NotFoundError, lambda: client.responses.create(model="nonesuch", input="hi"), 404, "not found")
raises(openai.BadRequestError, lambda: client.chat.completions.create(**SEEDED | {"temperature": -3}), 400, "temperature")
raises(openai.BadRequestError, lambda: client.chat.completions.create(**SEEDED | {"messages": []}), 400, "messages")
assert raises(openai.BadRequestError, lambda: client.chat.completions.create(**SEEDED, n=1000), 400, "n").param == "n"
raises(openai.BadRequestError, lambda: client.chat.completions.create(**SEEDED, tools=[TOOLS]), 400, "does not support tools")
raises(openai.AuthenticationError, openai.OpenAI(base_url=URL + "/v1", api_key="omk_nonsense", max_retries=0).models.list, 401, "")
print("ok openai-python")
