"""LiteLLM by its providers for Ollama and for OpenAI's endpoint. Prints `ok litellm`."""

import json
import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm
from common import ENCODER, KEY, MODEL, QUESTION, TOOLS, TOOLS_MODEL, URL, City, check_arguments, raises

litellm.telemetry = False
litellm.suppress_debug_info = True
PROVIDERS = {"ollama_chat/": URL, "openai/": URL + "/v1"}
SAID = []

for provider, base in PROVIDERS.items():
    reach = {"api_base": base, "api_key": KEY, "max_retries": 0}
    ask = {"model": provider + MODEL, "messages": QUESTION, "temperature": 0, "top_p": 0.9, "seed": 7, "max_tokens": 12, **reach}
    answer = litellm.completion(**ask)
    said = answer.choices[0].message.content
    assert said and 0 < answer.usage.completion_tokens <= 12 and answer.usage.prompt_tokens > 3, answer
    parts = list(litellm.completion(**ask, stream=True, stream_options={"include_usage": True}))
    assert "".join(part.choices[0].delta.content or "" for part in parts if part.choices) == said, parts
    shape = {"type": "json_schema", "json_schema": {"name": "city", "schema": City.model_json_schema(), "strict": True}}
    City.model_validate_json(litellm.completion(**ask | {"max_tokens": 60}, response_format=shape).choices[0].message.content)
    raises(litellm.NotFoundError, lambda: litellm.completion(**ask | {"model": provider + "nonesuch"}), 404, "not found")
    SAID.append(said)
assert SAID[0] == SAID[1], SAID

# Its older provider, which generates.
text = litellm.completion(model="ollama/" + MODEL, messages=QUESTION, temperature=0, max_tokens=8, api_base=URL, api_key=KEY)
assert text.choices[0].message.content, text

reach = {"api_base": URL + "/v1", "api_key": KEY}
called = litellm.completion(model="openai/" + TOOLS_MODEL, messages=QUESTION, tools=[TOOLS], tool_choice="required", temperature=0,
                            reasoning_effort="none", allowed_openai_params=["reasoning_effort"], max_tokens=100, **reach).choices[0]
(call,) = called.message.tool_calls
check_arguments(json.loads(call.function.arguments))
with_tools = litellm.completion(model="ollama_chat/" + TOOLS_MODEL, messages=QUESTION, tools=[TOOLS], temperature=0, max_tokens=12,
                                api_base=URL, api_key=KEY)
assert with_tools.usage.completion_tokens > 0, with_tools

ours = litellm.embedding(model="ollama/" + ENCODER, input=["a cat", "the sea"], api_base=URL, api_key=KEY).data
theirs = litellm.embedding(model="openai/" + ENCODER, input=["a cat", "the sea"], encoding_format="float", **reach).data
assert [one["embedding"] for one in ours] == [one["embedding"] for one in theirs] and len(ours) == 2
raises(litellm.AuthenticationError, lambda: litellm.completion(
    model="openai/" + MODEL, messages=QUESTION, api_base=URL + "/v1", api_key="omk_nonsense", max_retries=0), 401, "")
print("ok litellm")
