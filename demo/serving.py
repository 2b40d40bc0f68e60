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
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import yaml


class SiteError(ValueError):
    """A site that cannot be served; the message is one line and names the place."""


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


def add_certificate(parser: argparse.ArgumentParser) -> None:
    """The options with which a demo server serves HTTPS."""
    parser.add_argument("--certificate", metavar="PEM", help="serve HTTPS")
    parser.add_argument("--key", metavar="PEM", help="the certificate's, if not in its file")


def check_address(parser: argparse.ArgumentParser, arguments: argparse.Namespace,
                  name: str) -> None:
    """End with usage where the address `name` is empty, or a key has no certificate."""
    if not getattr(arguments, name):  # to the system that means every address of this machine
        parser.error(f"--{name} is empty")
    if arguments.key and not arguments.certificate:
        parser.error("--key needs --certificate")


def tls_context(arguments: argparse.Namespace) -> ssl.SSLContext | None:
    """For the certificate of the arguments, if they name one. OSError if it cannot be read."""
    if not arguments.certificate:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(arguments.certificate, arguments.key)
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
        where = site if isinstance(error, SiteError) else f"at {place}"
        print(f"The server cannot start: {where}: {error}", file=sys.stderr)
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
