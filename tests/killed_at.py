"""Runs the client and kills it with SIGKILL at its N-th write: python tests/killed_at.py
N words… (N = 0: never; the number of writes goes to the file $KILL_COUNT).

Even N kill before the call, odd N after it: so that each call is seen both done and not.
"""

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import client  # noqa: E402

CALLS = ("write", "fsync", "replace", "link", "ftruncate", "unlink")


def main(words):
    point, seen = int(words[0]), 0

    def watched(function):
        def call(*arguments, **more):
            nonlocal seen
            seen += 1
            own = seen
            if point == 2 * own:
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return function(*arguments, **more)
            finally:
                if point == 2 * own + 1:
                    os.kill(os.getpid(), signal.SIGKILL)

        return call

    for name in CALLS:
        setattr(os, name, watched(getattr(os, name)))
    code = client.main(words[1:])
    if "KILL_COUNT" in os.environ:
        Path(os.environ["KILL_COUNT"]).write_text(str(seen))
    return code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
