"""LangChain's Ollama package: chat, texts, vectors. Prints `ok langchain-ollama`."""

from common import ENCODER, FUNCTION, KEY, MODEL, TOOLS, TOOLS_MODEL, URL, WEATHER, City, raises
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_ollama import ChatOllama, OllamaEmbeddings, OllamaLLM
from ollama import ResponseError

REACH = {"base_url": URL, "client_kwargs": {"headers": {"Authorization": f"Bearer {KEY}"}}}
chat = ChatOllama(model=MODEL, temperature=0, num_predict=12, seed=7, validate_model_on_init=True, **REACH)
answer = chat.invoke("What is the capital of France?")
assert answer.content and answer.usage_metadata["output_tokens"] <= 12, answer
assert answer.response_metadata["done_reason"] in ("length", "stop"), answer
assert "".join(part.content for part in chat.stream("What is the capital of France?")) == answer.content
assert [said.content for said in chat.batch(["What is the capital of France?"] * 2)] == [answer.content] * 2

structured = ChatOllama(model=MODEL, temperature=0, **REACH).with_structured_output(City, method="json_schema")
assert isinstance(structured.invoke("Describe Paris."), City)

able = ChatOllama(model=TOOLS_MODEL, temperature=0, num_predict=24, reasoning=False, **REACH)
bound = able.bind_tools([TOOLS])
question = HumanMessage("What is the weather in Paris?")
asked = bound.invoke([question])
assert asked.content or asked.tool_calls, asked
call = {"name": FUNCTION["name"], "args": {"city": "Paris", "celsius": True}, "id": "call_1"}
talk = [question, AIMessage("", tool_calls=[call]), ToolMessage(WEATHER, tool_call_id="call_1")]
told = bound.invoke(talk)
assert told.usage_metadata["input_tokens"] > asked.usage_metadata["input_tokens"], (asked, told)
thought = ChatOllama(model=TOOLS_MODEL, temperature=0, num_predict=8, reasoning=True, **REACH).invoke([question])
assert thought.additional_kwargs["reasoning_content"], thought

text = OllamaLLM(model=MODEL, temperature=0, num_predict=8, stop=["\n\n"], **REACH)
assert "".join(text.stream("The sea is")) == text.invoke("The sea is") != ""

vectors = OllamaEmbeddings(model=ENCODER, **REACH)
assert vectors.embed_documents(["a cat", "the sea"])[0] == vectors.embed_query("a cat")

raises(ResponseError, lambda: ChatOllama(model="nonesuch", **REACH).invoke("hi"), 404, "not found")
try:
    ChatOllama(model="nonesuch", validate_model_on_init=True, **REACH)
    raise AssertionError("an unknown model was validated")
except ValueError as error:
    assert "nonesuch" in str(error), error
print("ok langchain-ollama")
