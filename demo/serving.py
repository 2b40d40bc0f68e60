"""What the demo servers share: a server on loopback whose connections can be ended, and a program
around it.

Guards: that a server ends whole, kept-alive connections too; that whoever starts one as a
program is told in one line why it does not start. Leaves alone: requests.
"""
import argparse
import contextlib
import signal
import socket
import socketserver
import sqlite3
import ssl
import sys
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import yaml

KEPT_REQUESTS = 10_000


class SiteError(ValueError):
    """A site that cannot be served; the message is one line and names the place."""


class Answer(NamedTuple):
    """What goes back; `headers` without those of the connection."""
    status: int
    headers: dict[str, str]
    body: bytes = b""


class LoopbackHandler(BaseHTTPRequestHandler):
    """One connection of a LoopbackServer; `respond`, for all methods, is what is missing."""
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 900.0  # seconds of silence after which a connection is given up
    largest_body = 64 * 1024 * 1024

    def do_GET(self) -> None:
        """Answer a request, of any method."""
        self.respond()

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_GET

    def read_body(self) -> bytes | None:
        """The whole body; None, and the end of the connection, if it does not come."""
        length, refused = self.headers.get("Content-Length", "0"), None
        if "Transfer-Encoding" in self.headers or not (length.isascii() and length.isdecimal()):
            refused = HTTPStatus.LENGTH_REQUIRED
        elif int(length[:20]) > self.largest_body:
            refused = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        if refused:
            self.close_connection = True
            return self.send_error(refused)
        body = self.rfile.read(int(length))
        if len(body) == int(length):
            return body
        self.close_connection = True
        return None

    def log_message(self, format: str, *values) -> None:
        """What http.server itself has to tell: of requests that are not HTTP."""
        self.server.state.log(first_line(format % values))


class AnsweringHandler(LoopbackHandler):
    """Requests in, answers of `server.answer(handler)` out (an AnsweringServer), which finds
    `command` (the method), `path`, `headers` and `body` here."""

    def respond(self) -> None:
        """Answer a request, unless the hook takes the connection away."""
        self.body, self.answer = self.read_body(), None
        if self.body is None or self._fault("before"):
            return
        self.answer = self.server.answer(self)
        self.server.note(self.command, self.path, self.answer.status)
        if self._fault("after"):
            return
        status, headers, body = self.answer
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
                 *(f"{name}: {value}" for name, value in headers.items())]
        if status not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
            lines.append(f"Content-Length: {len(body)}")
        if self.close_connection:
            lines.append("Connection: close")
        # In one piece: a body sent after its headers can wait 40 ms for the other side's
        # delayed acknowledgement.
        head = "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")
        self.wfile.write(head + (b"" if self.command == "HEAD" else body))

    def _fault(self, stage: str) -> bool:
        """Whether the hook has dealt with the connection at this stage."""
        fault = self.server.fault  # once: a test can take it away at any time
        if fault is None or not fault(stage, self):
            return False
        if stage == "before":
            self.server.note(self.command, self.path, None)
        self.close_connection = True
        return True


def first_line(text: str) -> str:
    """The beginning of `text` for a log."""
    return printable(text.strip().partition("\n")[0][:80])


def printable(line: str) -> str:
    """`line` with "?" for what a terminal could take for an order."""
    return "".join(char if char.isprintable() else "?" for char in line)


class LoopbackServer(ThreadingHTTPServer):
    """A server at a port. Run `serve_forever` in a thread; to end it call `shutdown` from another
    one, then `server_close`. `url`: its address. `state`: what it serves; it has `log`.
    """
    daemon_threads = True
    request_queue_size = 128
    allow_reuse_port = False  # a second server at the same port is a mistake that should show

    def __init__(self, state, handler: type[BaseHTTPRequestHandler], address: tuple[str, int],
                 ssl_context: ssl.SSLContext | None):
        self.state, self._connections = state, set()
        super().__init__(address, handler)  # calls server_close if it cannot listen
        scheme = "https" if ssl_context else "http"
        self.url = f"{scheme}://{address[0]}:{self.server_address[1]}/"
        if ssl_context:
            # The handshake waits for the first read, in the connection's own thread: a
            # client that is slow with it holds up no other.
            self.socket = ssl_context.wrap_socket(
                self.socket, server_side=True, do_handshake_on_connect=False)

    def server_bind(self) -> None:
        """Bind without looking up the name of this machine, which can take seconds."""
        socketserver.TCPServer.server_bind(self)

    def serve_forever(self, poll_interval: float = 0.02) -> None:
        """Serve until `shutdown`, which is noticed within `poll_interval` seconds."""
        super().serve_forever(poll_interval)

    def process_request(self, request: socket.socket, client_address: tuple) -> None:
        """A connection begins."""
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: socket.socket) -> None:
        """A connection ends."""
        self._connections.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        """Stop listening and end the connections: those that are kept alive would go on being
        answered by their threads."""
        super().server_close()
        self.end_connections()

    def end_connections(self) -> None:
        """End those that there are; new ones are served."""
        for connection in tuple(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: socket.socket, client_address: tuple) -> None:
        """A connection that broke, or that is not TLS: a line in place of a traceback."""
        self.state.log(f"a connection broke: {type(sys.exc_info()[1]).__name__}")


class AnsweringServer(LoopbackServer):
    """A server that answers; `answer(handler) -> Answer` is what is missing.

    `requests`: (method, path, status) of the latest requests, status None where the hook took
    it before. `fault`: None or a hook `fault(stage, handler) -> bool`, called "before" (the
    request is read, nothing is done) and "after" (all is done and saved, nothing is sent: see
    the handler's `answer`); True: the hook has dealt with the connection, which is then closed.
    """

    def __init__(self, state, address: tuple[str, int], ssl_context: ssl.SSLContext | None):
        self.fault, self.requests = None, []
        super().__init__(state, AnsweringHandler, address, ssl_context)

    def note(self, method: str, path: str, status: int | None) -> None:
        """Add a request to `requests`."""
        self.requests.append((method, path, status))
        del self.requests[:-KEPT_REQUESTS]


def add_certificate(parser: argparse.ArgumentParser) -> None:
    """The options with which a demo server serves HTTPS."""
    parser.add_argument("--certificate", metavar="PEM", help="serve HTTPS")
    parser.add_argument("--key", metavar="PEM", help="the certificate's, if not in its file")


def check_address(parser: argparse.ArgumentParser, arguments: argparse.Namespace,
                  name: str) -> None:
    """End with usage where the address `name` is empty, the port is none, or a key has no
    certificate."""
    if not getattr(arguments, name):  # to the system that means every address of this machine
        parser.error(f"--{name} is empty")
    if not 0 <= arguments.port <= 65535:
        parser.error(f"--port is a number from 0 to 65535, not {arguments.port}")
    if arguments.key and not arguments.certificate:
        parser.error("--key needs --certificate")


def tls_context(arguments: argparse.Namespace) -> ssl.SSLContext | None:
    """For the certificate of the arguments, if they name one. OSError, with the name of the file,
    if it cannot be read, or is none."""
    if not arguments.certificate:
        return None
    files = [name for name in (arguments.certificate, arguments.key) if name]
    for name in files:
        Path(name).open("rb").close()  # what cannot be read ssl does not call by its name
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(arguments.certificate, arguments.key)
    except ssl.SSLError as error:
        raise OSError(error.errno, f"not a certificate with its key: {error}",
                      " and ".join(files)) from error
    return context


def read_yaml(path: Path) -> object:
    """What the YAML file `path` holds. Raises SiteError, OSError."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SiteError(" ".join(str(error).split())) from error


def serve(open_server: Callable[[], LoopbackServer], line: str, site: Path, place: str) -> int:
    """Serve until SIGTERM or Ctrl-C: 0. 1: it could not start, stderr says why.

    `line` is printed with the address behind it; `site` and `place` are for what goes wrong.
    """
    # SIGINT as well: a shell that starts a program in the background has it ignored.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    try:
        server = open_server()
    except (SiteError, OSError, sqlite3.Error) as error:
        where, what = site if isinstance(error, SiteError) else f"at {place}", error
        if isinstance(error, OSError) and error.filename is not None:
            where, what = error.filename, error.strerror
        print(f"The server cannot start: {where}: {what}", file=sys.stderr)
        return 1
    try:
        print(f"{line} at {server.url}", flush=True)
        server.serve_forever()
    except KeyboardInterrupt:
        server.state.log("ended")
    finally:
        server.server_close()
        server.state.close()
    return 0
