"""What travels between the parts of the demo Duplicati server: a request, an answer, and the
ways to fail (section 0.3 and 2.6 of the protocol).

Guards: that a failure is raised as what it is, and given its form (JSON with a code, an envelope
of v2, a reason phrase, nothing at all) in one place, by generation.
Leaves alone: sockets.
"""
import json
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Answer(NamedTuple):
    """What goes back. `headers`: pairs, since Set-Cookie can come twice. `reason`: None: the
    usual one of the status."""
    status: int
    headers: list[tuple[str, str]] = []
    body: bytes = b""
    reason: str | None = None


class RefusedError(Exception):
    """The server's deliberate no: the HTTP status, what it says, and a HelpId if there is one."""

    def __init__(self, status: int, text: str, help_id: str | None = None):
        super().__init__(text)
        self.status, self.text, self.help_id = status, text, help_id


class BareError(Exception):
    """An answer without a body: the HTTP status and headers."""

    def __init__(self, status: int, *headers: tuple[str, str], reason: str | None = None):
        super().__init__(status)
        self.status, self.headers, self.reason = status, list(headers), reason


class EngineError(Exception):
    """An exception of the backup engine: its message, its class as .NET names it, and its HelpId
    if it is one for people."""

    def __init__(self, message: str, kind: str = "Duplicati.Library.Interface."
                 "UserInformationException", help_id: str | None = None):
        super().__init__(message)
        self.message, self.kind, self.help_id = message, kind, help_id

    @property
    def trace(self) -> str:
        """What .NET shows of it, one line of the trace."""
        return f"{self.kind}: {self.message}\n   at Duplicati.Demo.Engine.Run()"


@dataclass
class Call:
    """A request. `query` has its names in lower case. `path` is decoded but for what is inside
    its parts; `parts` are those that the pattern of the endpoint named."""
    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    url: str
    path: str = ""
    query: dict[str, str] = field(default_factory=dict)
    parts: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        path, _, query = self.target.partition("?")
        self.path = path
        self.query = {name.lower(): value
                      for name, value in parse_qsl(query, keep_blank_values=True)}

    def header(self, name: str) -> str | None:
        """A header, whatever the case of its name."""
        return self.headers.get(name.lower())

    @property
    def content_type(self) -> str:
        """Without its parameters, in lower case."""
        return (self.header("Content-Type") or "").partition(";")[0].strip().lower()

    def part(self, name: str) -> str:
        """A part of the path, decoded."""
        return unquote(self.parts[name])

    def flag(self, name: str, default: bool = False) -> bool:
        """A boolean of the query: true or false in any case, else 400 (section 0.2)."""
        text = self.query.get(name.lower(), "")
        if not text:
            return default
        if text.lower() not in ("true", "false"):
            raise BareError(400)
        return text.lower() == "true"

    def form(self) -> dict[str, str]:
        """What the query and a form in the body say, as the old generation reads it."""
        fields = dict(self.query)
        if self.content_type == "application/x-www-form-urlencoded":
            fields.update({name.lower(): value for name, value in parse_qsl(
                self.body.decode("utf-8", "replace"), keep_blank_values=True)})
        elif self.content_type == "multipart/form-data":
            fields.update({name: content.decode("utf-8", "replace")
                           for name, content in self.multipart().items()})
        return fields

    def multipart(self) -> dict[str, bytes]:
        """The fields of a multipart body, names in lower case."""
        boundary = (self.header("Content-Type") or "").partition("boundary=")[2].strip('"')
        fields = {}
        for piece in self.body.split(b"--" + boundary.encode())[1:]:
            head, found, content = piece.partition(b"\r\n\r\n")
            name = head.partition(b'name="')[2].partition(b'"')[0]
            if found and name:
                fields[name.decode("utf-8", "replace").lower()] = content.removesuffix(b"\r\n")
        return fields

    def document(self, optional: bool = False) -> Any:
        """The JSON of the body, as the token generation takes it: another content type is 415,
        no body, malformed JSON or null is 400; None for no body where it is optional."""
        if self.content_type and self.content_type != "application/json" and (
                self.body or optional):
            raise BareError(415)
        if not self.body:
            if optional:
                return None
            raise BareError(400)
        if self.content_type != "application/json":
            raise BareError(415)
        try:
            document = json.loads(self.body.decode())
        except ValueError as error:
            raise BareError(400) from error
        if document is None:
            raise BareError(400)
        return document

    def fields(self, *names: str, required: tuple[str, ...] = (), optional: bool = False) -> dict:
        """The properties of the body's JSON object, by these names whatever their case; those
        that are missing are None, or 400 if they are required."""
        document = self.document(optional)
        if document is None:
            document = {}
        if not isinstance(document, dict):
            raise BareError(400)
        given = {name.lower(): value for name, value in document.items()}
        if any(name.lower() not in given for name in required):
            raise BareError(400)
        return {name: given.get(name.lower()) for name in (*required, *names)}


def compact(value: object) -> bytes:
    """JSON as the token generation writes it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def indented(value: object) -> bytes:
    """JSON as the cookie generation writes it, with its byte order mark."""
    return BYTE_ORDER_MARK + json.dumps(value, indent=2, ensure_ascii=False).encode()
