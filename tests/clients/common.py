"""What the suites share: where the cluster is, what is asked, and a tool."""

import os

from pydantic import BaseModel, ConfigDict, Field

URL = os.environ["OLLAMAMAX_TEST_URL"]
KEY = os.environ["OLLAMAMAX_TEST_KEY"]
MODEL = "smollm2:135m"
# The same, with a template that knows tools and thinking.
TOOLS_MODEL = "tools:135m"
# The file of an encoder that the cluster does not know.
GGUF = os.environ["OLLAMAMAX_TEST_GGUF"]
ENCODER = os.environ["OLLAMAMAX_TEST_ENCODER"]
QUESTION = [{"role": "user", "content": "What is the weather in Paris?"}]
WEATHER = '{"sky": "clear", "degrees": 21}'
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 12}, "celsius": {"type": "boolean"}},
              "required": ["city", "celsius"], "additionalProperties": False}
FUNCTION = {"name": "weather", "description": "The weather of a city", "parameters": PARAMETERS}
TOOLS = {"type": "function", "function": FUNCTION}


class City(BaseModel):
    """A schema that a small model fills in few tokens."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(max_length=12)
    old: bool


def raises(kind, call, status, text):
    """The call fails with this error, status and text."""
    try:
        got = call()
    except kind as error:
        assert error.status_code == status and text in str(error), (error.status_code, str(error))
        return error
    raise AssertionError(f"expected {kind.__name__} {status} {text!r}, got {got!r}")


def check_arguments(arguments):
    """What a constrained call may say."""
    assert set(arguments) == {"city", "celsius"} and isinstance(arguments["celsius"], bool), arguments
