"""Chats with each URL given, through the official clients, streamed and whole, and embeds texts. Prints a line
`ok <client> <url>` each."""

import os
import json
import sys

import ollama
import openai

MODEL = "smollm2:135m"
SCHEMA = {"type": "object", "properties": {"capital": {"type": "string", "maxLength": 20}, "old": {"type": "boolean"}},
          "required": ["capital", "old"], "additionalProperties": False}
ENCODER = "encoder:tiny"
TEXTS = ["The cat", "a dog and the sea", "The cat"]
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]

for url in sys.argv[1:]:
    client = ollama.Client(url)
    assert MODEL in [model.model for model in client.list().models], client.list()
    assert client.show(MODEL).details.family == "llama"
    whole = client.chat(MODEL, QUESTION, options={"temperature": 0, "num_predict": 24}).message.content
    assert len(whole.split()) > 3, whole
    parts = client.chat(MODEL, QUESTION, options={"temperature": 0, "num_predict": 24}, stream=True)
    assert "".join(part.message.content for part in parts) == whole
    said = client.generate(MODEL, "The capital of France is", raw=True,
                           options={"temperature": 0, "num_predict": 8}).response
    assert "Paris" in said, said
    try:
        client.chat("nonesuch", QUESTION)
        raise SystemExit("an unknown model was answered")
    except ollama.ResponseError as error:
        assert error.status_code == 404 and "not found" in error.error, error
    filled = json.loads(client.chat(MODEL, QUESTION, format=SCHEMA, options={"temperature": 0}).message.content)
    assert list(filled) == ["capital", "old"] and isinstance(filled["old"], bool), filled
    try:
        client.chat(MODEL, QUESTION, format={"type": "array", "uniqueItems": True})
        raise SystemExit("a schema that cannot be followed was accepted")
    except ollama.ResponseError as error:
        assert error.status_code == 400 and "uniqueItems" in error.error, error
    vectors = client.embed(ENCODER, TEXTS).embeddings
    assert len(vectors) == 3 and vectors[0] == vectors[2] != vectors[1], vectors
    assert abs(sum(x * x for x in vectors[0]) - 1) < 1e-5, vectors
    assert client.embeddings(ENCODER, TEXTS[1]).embedding == vectors[1]
    assert len(client.embed(ENCODER, TEXTS[0], dimensions=8).embeddings[0]) == 8
    assert client.show(ENCODER).capabilities == ["embedding"]
    assert len(client.embed(MODEL, TEXTS[0]).embeddings[0]) == 576
    try:
        client.generate(ENCODER, "hi")
        raise SystemExit("an encoder has generated")
    except ollama.ResponseError as error:
        assert error.status_code == 400 and "does not support generate" in error.error, error
    print("ok ollama", url)

    client = openai.OpenAI(base_url=url + "/v1", api_key=os.environ["OLLAMAMAX_TEST_KEY"], max_retries=0)
    assert MODEL in [model.id for model in client.models.list()]
    answer = client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0, top_p=0.9, max_tokens=24)
    assert answer.choices[0].message.content == whole, answer
    assert answer.usage.completion_tokens > 0, answer
    chunks = list(client.chat.completions.create(
        model=MODEL, messages=QUESTION, temperature=0, top_p=0.9, max_tokens=24, stream=True,
        stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == answer.choices[0].message.content, text
    assert chunks[-1].usage.total_tokens > 0, chunks[-1]
    try:
        client.chat.completions.create(model="nonesuch", messages=QUESTION)
        raise SystemExit("an unknown model was answered")
    except openai.NotFoundError:
        pass
    said = client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0, response_format={
        "type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}})
    assert list(json.loads(said.choices[0].message.content)) == ["capital", "old"], said
    try:
        client.chat.completions.create(model=MODEL, messages=QUESTION, response_format={"type": "xml"})
        raise SystemExit("an unknown format was accepted")
    except openai.BadRequestError as error:
        assert error.param == "response_format.type", error
    # As the client asks by default, in base64, and as floats.
    for more in [{}, {"encoding_format": "float"}]:
        answer = client.embeddings.create(model=ENCODER, input=TEXTS, **more)
        pairs = [pair for data, vector in zip(answer.data, vectors) for pair in zip(data.embedding, vector)]
        assert len(pairs) == 3 * len(vectors[0]) and all(abs(a - b) < 1e-7 for a, b in pairs), answer
        assert answer.usage.total_tokens > 0, answer
    try:
        client.embeddings.create(model=ENCODER, input=[])
        raise SystemExit("nothing was embedded")
    except openai.BadRequestError:
        pass
    print("ok openai", url)
