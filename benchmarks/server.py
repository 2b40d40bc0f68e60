"""The demo server in a process of its own, with one host that is verified already.

    server.py PUBLIC_KEY_FILE

Says {"url", "uuid", "token"} in a line on stdout, then does what the lines on stdin ask,
each answered by a line: {"load": [source, …]} serves these commands and forgets all
outputs; {"count": true} tells how many outputs there are and how many lists were asked
for since then. Ends when stdin ends.
"""

import json
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from demo.django_remotes import DjangoRemotes, make_server  # noqa: E402


def site(sources):
    """A site with these commands (Python sources), in this order."""
    commands = [{"id": number, "name": f"command {number}", "command": source, "timeout": 120}
                for number, source in enumerate(sources, 1)]
    return {"registration_token": "benchmark",
            "groups": [{"id": 1, "name": "all", "commands": commands}]}


def load(server, sources):
    """Serves `sources`, as if no host had ever posted an output."""
    for number in {output["command"] for output in server.state.outputs()}:
        server.state.delete_output(number)
    server.state.load(site(sources))
    server.requests.clear()


def count(server):
    """What the host has done since the last load."""
    lists = sum(path.endswith("/commands/list/") for _, path, _ in server.requests)
    return {"outputs": len(server.state.outputs()), "lists": lists}


def main():
    server = make_server(DjangoRemotes(site([])))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    host = server.state.add_host(Path(sys.argv[1]).read_text())
    print(json.dumps({"url": server.url, "uuid": host["uuid"], "token": host["token"]}),
          flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        if "load" in asked:
            load(server, asked["load"])
        print(json.dumps(count(server)), flush=True)


if __name__ == "__main__":
    main()
