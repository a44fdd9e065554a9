"""Anthropic's Python client: messages, whole and streamed, with tools, and tokens counted. Prints `ok anthropic-python`."""

import anthropic
from common import KEY, MODEL, PARAMETERS, QUESTION, TOOLS_MODEL, URL, WEATHER, check_arguments, raises

client = anthropic.Anthropic(base_url=URL, auth_token=KEY, max_retries=0)
ASK = {"model": MODEL, "messages": QUESTION, "max_tokens": 12, "system": "Be brief."}
ZERO = {"temperature": 0}

# Later versions of the client no longer know `temperature`; the endpoint does.
answer = client.messages.create(**ASK, extra_body=ZERO)
assert answer.content[0].type == "text" and answer.stop_reason == "max_tokens" and answer.usage.output_tokens == 12, answer
with client.messages.stream(**ASK, extra_body=ZERO) as stream:
    assert "".join(stream.text_stream) == answer.content[0].text
    final = stream.get_final_message()
assert final.content[0].text == answer.content[0].text and final.usage.output_tokens == 12, final
kinds = [event.type for event in client.messages.create(**ASK, extra_body=ZERO, stream=True)]
assert kinds[0] == "message_start" and kinds[-2:] == ["message_delta", "message_stop"], kinds
word = answer.content[0].text.split()[2]
stopped = client.messages.create(**ASK, extra_body=ZERO, stop_sequences=[word])
assert word not in "".join(block.text for block in stopped.content), stopped

tools = [{"name": "weather", "description": "The weather of a city", "input_schema": PARAMETERS}]
ask = {"model": TOOLS_MODEL, "max_tokens": 100, "tools": tools, "tool_choice": {"type": "any"}}
asked = client.messages.create(**ask, messages=QUESTION, extra_body=ZERO)
(call,) = [block for block in asked.content if block.type == "tool_use"]
assert asked.stop_reason == "tool_use" and call.name == "weather", asked
check_arguments(call.input)
with client.messages.stream(**ask, messages=QUESTION, extra_body=ZERO) as stream:
    (again,) = [block for block in stream.get_final_message().content if block.type == "tool_use"]
assert again.input == call.input, again
result = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": WEATHER}]}
talk = [*QUESTION, {"role": "assistant", "content": asked.content}, {"role": "user", "content": [result]}]
ended = client.messages.create(**ask | {"tool_choice": {"type": "none"}, "max_tokens": 12}, messages=talk, extra_body=ZERO)
assert ended.content[0].type == "text" and ended.stop_reason in ("end_turn", "max_tokens"), ended
thinking = {"type": "enabled", "budget_tokens": 1024}
thought = client.messages.create(model=TOOLS_MODEL, messages=QUESTION, max_tokens=8, thinking=thinking, extra_body=ZERO)
assert thought.content[0].type == "thinking" and thought.content[0].thinking, thought
assert client.messages.create(**ASK, thinking=thinking).content[0].type == "text"

short, long = (client.messages.count_tokens(model=TOOLS_MODEL, messages=messages, tools=tools) for messages in (QUESTION, talk))
assert long.input_tokens > short.input_tokens == asked.usage.input_tokens, (short, long, asked.usage)
assert client.messages.count_tokens(model=MODEL, messages=QUESTION, system="Be brief.").input_tokens == answer.usage.input_tokens

raises(anthropic.NotFoundError, lambda: client.messages.create(**ASK | {"model": "nonesuch"}), 404, "not found")
raises(anthropic.BadRequestError, lambda: client.messages.create(**ASK | {"max_tokens": 0}), 400, "max_tokens")
raises(anthropic.BadRequestError, lambda: client.messages.create(**ASK | {"messages": []}), 400, "messages")
raises(anthropic.BadRequestError, lambda: client.messages.create(**ASK, tool_choice={"type": "sometimes"}), 400, "tool_choice")
stranger = anthropic.Anthropic(base_url=URL, api_key="omk_nonsense", max_retries=0)
raises(anthropic.AuthenticationError, lambda: stranger.messages.create(**ASK), 401, "")
print("ok anthropic-python")
