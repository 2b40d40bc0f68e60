"""The demo server as a process that goes wrong at random, for test_delivery.py.

    python tests/faulty_server.py DATABASE SITE(json) PORT(file) FAULTS(log) CLIENT(pid file)
        SEED TARGET HOST(json: public_key, uuid, token)

While fewer than TARGET faults have happened, requests suffer one at random, the more
often the further the faults lag behind the commands that are done. Each fault is a line
in the log before it strikes.
"""

import json
import os
import random
import signal
import socket
import struct
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from demo.django_remotes import DjangoRemotes, make_server  # noqa: E402

# (method of Faults, the stage at which it strikes); slow: before, and then all goes well.
FAULTS = [(name, stage) for name in ("reset", "silence", "answer_500", "kill_server",
                                     "kill_client") for stage in ("before", "after")]
FAULTS += [("answer_half", "after"), ("slow", "before")]
SLOW_SECONDS = 1.5  # more than the client's time-out, less than twice


class Faults:
    """The hook of the server: decides at "before", strikes at the fault's own stage."""

    def __init__(self, server, log, client, draw, target):
        self.server = server
        self.log = log
        self.client_pid = client
        self.draw = draw
        self.target = target
        self.count = len(log.read_text().splitlines()) if log.exists() else 0
        self.commands = len(server.state.site["commands"])
        self.lock = threading.Lock()

    def choose(self, path):
        """The fault that a request is to suffer, or None."""
        with self.lock:
            done = len({row["command"] for row in self.server.state.outputs()})
            lags = self.count * self.commands < self.target * done
            if self.count >= self.target or "/commands/" not in path \
                    or self.draw.random() > (0.9 if lags else 0.25):
                return None
            self.count += 1
            fault = self.draw.choice(FAULTS)
            with self.log.open("a") as stream:
                stream.write(f"{fault[0]} {fault[1]} {path}\n")
            return fault

    def __call__(self, stage, handler):
        if stage == "before":
            handler.suffered = self.choose(handler.path)
        if handler.suffered is None or handler.suffered[1] != stage:
            return False
        return getattr(self, handler.suffered[0])(handler)

    def slow(self, handler):
        threading.Event().wait(SLOW_SECONDS)
        return False

    def reset(self, handler):
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                                      struct.pack("ii", 1, 0))
        handler.connection.close()
        return True

    def silence(self, handler):
        handler.rfile.read(1)  # until the client has had enough
        return True

    def answer_500(self, handler):
        body = b"<html><title>Fault</title></html>"
        handler.wfile.write(b"HTTP/1.1 500 Fault\r\nContent-Type: text/html\r\n"
                            b"Content-Length: %d\r\n\r\n" % len(body) + body)
        return True

    def answer_half(self, handler):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                            b"Content-Length: 100\r\n\r\n{\"status\": ")
        return True

    def kill_server(self, handler):
        os.kill(os.getpid(), signal.SIGKILL)

    def kill_client(self, handler):
        try:
            os.kill(int(self.client_pid.read_text()), signal.SIGKILL)
        except (OSError, ValueError):
            pass  # it was gone already
        return False


def main(database, site, port, log, client, seed, target, host):
    state = DjangoRemotes(json.loads(site), database)
    known = json.loads(host)
    if not state.hosts():
        state.add_host(known["public_key"], known["uuid"], known["token"])
    port_file = Path(port)
    former = int(port_file.read_text()) if port_file.exists() else 0
    server = make_server(state, ("127.0.0.1", former))
    log = Path(log)
    started = len(log.read_text().splitlines()) if log.exists() else 0
    server.fault = Faults(server, log, Path(client), random.Random(f"{seed} {started}"),
                          int(target))
    port_file.write_text(str(server.server_address[1]))
    print("ready", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
