"""Ollama's Python client: what is served of it, streamed and whole. Prints `ok ollama-python`."""

import asyncio
import tempfile

import ollama
from common import City, ENCODER, GGUF, KEY, MODEL, QUESTION, TOOLS, TOOLS_MODEL, URL, WEATHER, raises

client = ollama.Client(URL, headers={"Authorization": f"Bearer {KEY}"})
SEEDED = {"temperature": 0.9, "seed": 7, "num_predict": 16}

# What a seed says, it says again, whole and in parts.
first = client.generate(MODEL, "Tell me of the sea.", options=SEEDED)
assert first.done and first.done_reason == "length" and first.eval_count == 16 and first.prompt_eval_count > 3, first
assert first.total_duration > 0 and first.context, first
parts = list(client.generate(MODEL, "Tell me of the sea.", options=SEEDED, stream=True))
assert "".join(part.response for part in parts) == first.response and len(parts) > 4, parts
assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True], parts
other = client.generate(MODEL, "Tell me of the sea.", options=SEEDED | {"seed": 8})
assert other.response != first.response, other
went_on = client.generate(MODEL, "And more.", context=first.context, options={"num_predict": 2})
assert went_on.prompt_eval_count > first.prompt_eval_count, went_on
stopped = client.generate(MODEL, "The capital of France is", raw=True, options={"temperature": 0, "stop": [" Paris"]})
assert "Paris" not in stopped.response and stopped.done_reason == "stop", stopped
told = client.generate(MODEL, "Hi", logprobs=True, top_logprobs=3, options={"temperature": 0, "num_predict": 3})
assert len(told.logprobs) == 3 and all(len(one.top_logprobs) == 3 for one in told.logprobs), told
assert all(one.token == one.top_logprobs[0].token and one.logprob <= 0 for one in told.logprobs), told
loaded = client.generate(MODEL, keep_alive="10m")
assert loaded.done and loaded.done_reason == "load", loaded

# Tools are accepted and answered; what comes back of them is understood.
answer = client.chat(TOOLS_MODEL, QUESTION, tools=[TOOLS], think=False, options={"temperature": 0, "num_predict": 16})
assert answer.message.content or answer.message.tool_calls, answer
call = {"function": {"name": "weather", "arguments": {"city": "Paris", "celsius": True}}}
talk = [*QUESTION, {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_name": "weather", "content": WEATHER}]
told = client.chat(TOOLS_MODEL, talk, tools=[TOOLS], think=False, options={"temperature": 0, "num_predict": 16})
assert told.prompt_eval_count > answer.prompt_eval_count and told.message.role == "assistant", told
raises(ollama.ResponseError, lambda: client.chat(MODEL, QUESTION, tools=[TOOLS]), 400, "does not support tools")
thought = client.chat(TOOLS_MODEL, QUESTION, think=True, options={"temperature": 0, "num_predict": 8})
assert thought.message.thinking, thought
raises(ollama.ResponseError, lambda: client.chat(MODEL, QUESTION, think=True), 400, "does not support thinking")
filled = client.chat(MODEL, QUESTION, format=City.model_json_schema(), options={"temperature": 0})
City.model_validate_json(filled.message.content)
free = client.generate(MODEL, "Say hello.", format="json", options={"temperature": 0, "num_predict": 40}).response
assert free.lstrip()[0] in "{[", free

# Vectors.
assert len(client.embed(MODEL, "The cat").embeddings[0]) == 576
assert client.embed(ENCODER, ["a cat", "a cat"]).embeddings[0] == client.embeddings(ENCODER, "a cat").embedding
assert client.embed(ENCODER, []).embeddings == []

# Models: made, shown, listed, copied, deleted.
made = list(client.create("ollama-python", from_=MODEL, system="Be brief.", parameters={"num_predict": 4, "stop": ["X"]}, stream=True))
assert made[-1].status == "success" and len(made) > 2, made
shown = client.show("ollama-python")
assert "num_predict" in shown.parameters and "Be brief." in shown.modelfile and "completion" in shown.capabilities, shown
assert shown.modelinfo["general.architecture"] == "llama", shown
client.copy("ollama-python", "ollama-python:copy")
listed = {model.model: model for model in client.list().models}
assert listed["ollama-python:copy"].digest == listed["ollama-python:latest"].digest, listed
assert client.chat("ollama-python:copy", QUESTION).eval_count <= 4
for name in ["ollama-python", "ollama-python:copy"]:
    assert client.delete(name).status == "success"
raises(ollama.ResponseError, lambda: client.show("ollama-python"), 404, "not found")
assert any(model.model in (MODEL, TOOLS_MODEL) and model.size > 90_000_000 for model in client.ps().models), client.ps()
with tempfile.NamedTemporaryFile() as file:
    file.write(b"no model at all\n")
    file.flush()
    digest = client.create_blob(file.name)
    assert digest == client.create_blob(file.name) and digest.startswith("sha256:")
raises(ollama.ResponseError, lambda: client.create("broken", files={"a.gguf": digest}), 400, "GGUF")
digest = client.create_blob(GGUF)
assert client.create("uploaded", files={"encoder.gguf": digest}).status == "success"
assert len(client.embed("uploaded", "a cat").embeddings[0]) == client.show("uploaded").modelinfo["nomic-bert.embedding_length"]
assert client.delete("uploaded").status == "success"

# Errors.
for call in [client.generate, client.chat, client.embed, client.show, client.delete, lambda name: client.copy(name, "x")]:
    raises(ollama.ResponseError, lambda: call("nonesuch"), 404, "not found")
raises(ollama.ResponseError, lambda: list(client.chat("nonesuch", QUESTION, stream=True)), 404, "not found")
raises(ollama.ResponseError, lambda: client.chat(MODEL, QUESTION, options={"temperature": "hot"}), 400, "temperature")
raises(ollama.ResponseError, lambda: client.chat(MODEL, QUESTION, keep_alive="soon"), 400, "duration")
stranger = ollama.Client(URL, headers={"Authorization": "Bearer omk_nonsense"})
raises(ollama.ResponseError, stranger.list, 401, "")


async def at_once():
    """The asynchronous client, several requests in flight; one stream is left early."""
    client = ollama.AsyncClient(URL)
    ask = lambda: client.generate(MODEL, "Tell me of the sea.", options=SEEDED)
    for answer in await asyncio.gather(ask(), ask(), ask()):
        assert answer.response == first.response, answer
    async for part in await client.chat(MODEL, QUESTION, stream=True):
        assert part.message.content is not None
        break
    assert (await client.generate(MODEL, "Tell me of the sea.", options=SEEDED)).response == first.response


asyncio.run(at_once())
print("ok ollama-python")
