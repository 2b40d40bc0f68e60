"""The recordings of real Duplicati servers: exchanges in the order in which they happened."""

import base64
import json

import requests

from remotes.answer import Answer
from tests.conftest import RECORDINGS

FILES = {"2.0.6.3": "duplicati-2.0/exchanges-2.0.6.3.json",
         "2.0.8.1": "duplicati-2.0/exchanges-2.0.8.1.json",
         "2.1.0.5": "duplicati/exchanges-2.1.0.5.json",
         "2.3.0.4": "duplicati/exchanges-2.3.0.4.json",
         "today": "duplicati/exchanges.json"}
_BOM = b"\xef\xbb\xbf"


def exchanges(release):
    """The exchanges of a release: mappings with name, request, response."""
    return json.loads((RECORDINGS / FILES[release]).read_text())["exchanges"]


def body(response):
    """The body of a recorded answer as it came over the line."""
    text = response.get("text")
    if response["json"] is not None:
        content = json.dumps(response["json"]).encode()
    elif text and text.startswith("base64:"):
        content = base64.b64decode(text[len("base64:"):].rstrip("…") + "==")
    else:
        content = (text or "").lstrip("\ufeff").encode()
    return (_BOM if response.get("byte_order_mark") else b"") + content


def as_answer(exchange, base="http://127.0.0.1:8200"):
    """A recorded answer as the transport would give it."""
    response = exchange["response"]
    headers = requests.structures.CaseInsensitiveDict(
        {name: value if isinstance(value, str) else ", ".join(value)
         for name, value in response["headers"].items()})
    lines = response["headers"].get("Set-Cookie") or []
    pairs = [line.partition(";")[0].partition("=")
             for line in ([lines] if isinstance(lines, str) else lines)]
    return Answer(response["status"], headers, body(response), base + exchange["request"]["path"],
                  reason=response.get("reason", ""),
                  cookies={name.strip(): value for name, _, value in pairs})


def every(releases=tuple(FILES)):
    """(release, exchange) of all recordings."""
    for release in releases:
        for exchange in exchanges(release):
            yield release, exchange
