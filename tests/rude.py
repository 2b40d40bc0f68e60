"""A server on loopback without manners: raw sockets, and for each request one of the ways
in which a server, a proxy or a network misbehaves. It ends by itself: no manner outlives
the server's `with`, and none waits for anything but the other side or that end.

    with Rude(reset) as server: ... server.url, server.requests
"""

import contextlib
import gzip
import json
import os
import socket
import ssl
import struct
import threading

GIGABYTE = 1 << 30
# What the environment of whoever runs the tests says of networks is not meant for loopback.
for _name in ("http_proxy", "https_proxy", "all_proxy", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
    os.environ.pop(_name, None)
    os.environ.pop(_name.upper(), None)
_DRIBBLE_SECONDS = 0.02


class Request:
    """One request: `method`, `path`, `headers` (names in small letters), `body` (bytes)."""

    def __init__(self, head, body):
        first, *lines = head.decode("latin-1").split("\r\n")
        self.method, self.path, _ = first.split(" ", 2)
        pairs = (line.partition(":") for line in lines if line)
        self.headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        self.body = body


class Rude:
    """A server that treats each request as `manner(server, connection, request)` does.

    `requests` are all that came. The connection stays open if `manner` returns True.
    With `is_deaf`, `manner` is called with no request as soon as somebody connects.
    """

    def __init__(self, manner, *, ssl_context=None, is_deaf=False):
        self.manner = manner
        self.requests = []
        self.arrived = threading.Event()  # a request, or a connection to a deaf server
        self.ended = threading.Event()
        self._context = ssl_context
        self._is_deaf = is_deaf
        self._threads = []
        self._connections = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"{'https' if ssl_context else 'http'}://127.0.0.1:{self.port}/"

    def __enter__(self):
        self.beside(self._accept)
        return self

    def __exit__(self, *reason):
        self.ended.set()
        for opened in [self._listener, *self._connections]:
            with contextlib.suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def beside(self, function, *arguments):
        """Calls a function in a thread of its own, which is waited for at the end."""
        thread = threading.Thread(target=function, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self):
        while not self.ended.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            self.beside(self._serve, connection)

    def _serve(self, plain):
        connection = plain
        with contextlib.suppress(OSError, ValueError), contextlib.ExitStack() as stack:
            stack.callback(plain.close)
            if self._context:
                connection = self._context.wrap_socket(
                    plain, server_side=True, do_handshake_on_connect=False)
                self._connections.append(connection)
                stack.callback(connection.close)
                if not _shake_hands(connection):
                    return
            if self._is_deaf:
                self.arrived.set()
                self.manner(self, connection, None)
                return
            while request := _read(connection):
                self.requests.append(request)
                self.arrived.set()
                if not self.manner(self, connection, request):
                    return

    def trickle(self, connection, content):
        """Sends `content` (bytes, repeated without end) byte by byte."""
        while not self.ended.is_set():
            for place in range(len(content)):
                if self.ended.wait(_DRIBBLE_SECONDS):
                    return
                connection.sendall(content[place:place + 1])


def _shake_hands(connection):
    """Whether TLS is ready. If not, waits until the other side has read why."""
    try:
        connection.do_handshake()
        return True
    except ssl.SSLError:
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass
        return False


def _read(connection):
    """The next request, or None when the other side has gone."""
    received = b""
    while b"\r\n\r\n" not in received:
        chunk = connection.recv(65536)
        if not chunk:
            return None
        received += chunk
    head, _, body = received.partition(b"\r\n\r\n")
    request = Request(head, body)
    length = int(request.headers.get("content-length", 0))
    while len(request.body) < length:
        chunk = connection.recv(65536)
        if not chunk:
            return None
        request.body += chunk
    return request


def answer(status=200, body=b"", headers=(), *, length=None):
    """A manner that answers well-formed HTTP: `body` as bytes, or JSON values."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} Whatever", "Content-Type: application/json",
             f"Content-Length: {len(content) if length is None else length}",
             *(f"{name}: {value}" for name, value in dict(headers).items()), "", ""]

    def manner(server, connection, request):
        connection.sendall("\r\n".join(lines).encode("latin-1") + content)
        return length is None

    return manner


def redirect(location, status=302):
    """A manner that sends elsewhere: "{path}" in `location` is the path that was asked for."""
    def manner(server, connection, request):
        there = location.replace("{path}", request.path)
        return answer(status, b"", {"Location": there})(server, connection, request)

    return manner


def in_turn(*manners):
    """A manner that treats each request as the next of `manners`, the last for all others."""
    waiting = list(manners)

    def manner(server, connection, request):
        return (waiting.pop(0) if len(waiting) > 1 else waiting[0])(server, connection, request)

    return manner


def reset(server, connection, request):
    """RST in place of an answer."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def close_early(server, connection, request):
    """Closes without a word."""


def stall(server, connection, request):
    """Takes the request and says nothing, for good."""
    server.ended.wait()


def dribble_headers(server, connection, request):
    """Sends header lines byte by byte, for good."""
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    server.trickle(connection, b"X-Wait: a little\r\n")


def dribble_one_header(server, connection, request):
    """Sends one header line byte by byte, for good."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Wait: ")
    server.trickle(connection, b"a")


def dribble_continue(server, connection, request):
    """Promises an answer again and again: HTTP allows any number of these."""
    server.trickle(connection, b"HTTP/1.1 100 Continue\r\n\r\n")


def dribble_body(server, connection, request):
    """Sends a body byte by byte, for good."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    server.trickle(connection, b" ")


def dribble_chunks(server, connection, request):
    """Sends a chunked body byte by byte, for good."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    server.trickle(connection, b"1\r\n \r\n")


def truncate(server, connection, request):
    """Breaks off in the middle of the body that it promised."""
    return answer(200, b'{"status": "OK"}', length=1000)(server, connection, request)


def truncate_chunks(server, connection, request):
    """Breaks off in the middle of a chunk."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n40\r\n{")


def truncate_headers(server, connection, request):
    """Breaks off in the middle of the headers."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Ty")


def speak_another_protocol(server, connection, request):
    """Is no web server at all."""
    connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n" * 3)


def many_headers(server, connection, request):
    """More headers than anybody needs."""
    connection.sendall(b"HTTP/1.1 200 OK\r\n" + b"X-More: yes\r\n" * 5000 + b"\r\n")


def gigabyte(server, connection, request):
    """One gigabyte of JSON, without telling its length."""
    connection.sendall(b'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"')
    block = b"x" * (1 << 20)
    for _ in range(GIGABYTE // len(block)):
        connection.sendall(block)


def gzip_rubbish(server, connection, request):
    """Says gzip, and sends none."""
    return answer(200, b"this is not gzip", {"Content-Encoding": "gzip"})(
        server, connection, request)


def gzip_bomb(server, connection, request):
    """A small answer that unpacks to 256 MiB."""
    packed = gzip.compress(bytes(256 << 20), 1)
    return answer(200, packed, {"Content-Encoding": "gzip"})(server, connection, request)


half_json = answer(200, b'{"status": "OK", "results": [{"gro')
html = answer(200, b"<html><head><title>Welcome to nginx!</title></head></html>",
              {"Content-Type": "text/html"})
