"""What schemathesis cannot know of the cluster it asks: which models there are, that an answer takes its time, and what the rest of the run
needs. It tries names again that it has seen in answers, so its own user and key are spared here, and so are the models.

Of three requests that name a model, two name one that is there, and ask for a few tokens only, so that more than the refusal of unknown
names is tried. Which is which depends on the request alone."""

import os
import zlib

import schemathesis

MODELS = ["small:latest", "encoder:latest"]
TOKENS = 4
# The caller's own, whatever bounds what it may ask for, and what is asked.
SPARED = ["admin", "anybody", "small", "encoder", os.environ["OLLAMAMAX_SPARED_KEY"]]
# What changes models by the names in its body.
CHANGES = ("/api/delete", "/api/create", "/api/copy")
# What asks other machines: nobody out there is to hear of a test.
TRANSFERS = ("/api/pull", "/api/push")


def spare(values):
    """Names somebody else where what is there would be changed for everybody."""
    for name, value in values.items():
        if any(spared in str(value) for spared in SPARED):
            values[name] = "another"


def busy(body):
    """Asks a model that is there, for a little."""
    chance = zlib.crc32(repr(sorted(body.items(), key=str)).encode("utf-8", "replace"))
    if "model" not in body or chance % 3 == 0:
        return
    body["model"] = MODELS[chance // 3 % 2]
    if "messages" in body and "options" not in body:
        body.setdefault("max_tokens", TOKENS)
    if isinstance(body.setdefault("options", {}), dict):
        body["options"].setdefault("num_predict", TOKENS)


@schemathesis.hook
def before_call(context, case, kwargs):
    named = case.path_parameters
    if case.path.startswith("/admin/v1/") and case.method.upper() != "GET" and isinstance(named, dict):
        spare(named)
    elif isinstance(case.body, dict) and case.path in TRANSFERS:
        for name in ("model", "name"):
            if isinstance(case.body.get(name), str) and case.body[name]:
                case.body[name] = "127.0.0.1:1/nobody/there"
    elif isinstance(case.body, dict) and case.path in CHANGES:
        spare(case.body)
    elif isinstance(case.body, dict) and case.path.startswith(("/api/", "/v1/")):
        busy(case.body)
