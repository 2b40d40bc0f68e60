"""What the tests know about processes: who is alive, and a wait that has an end.

Guards: that no test waits without a limit, or for a fixed time.
"""

import contextlib
import os
import time

WAIT_LIMIT_SECONDS = 30.0


def eventually(check, what, seconds=WAIT_LIMIT_SECONDS):
    """What `check()` gives as soon as it is true; AssertionError after `seconds`.

    For what nothing announces: a file of another process, the end of one's grandchild.
    """
    until = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < until, f"waited {seconds} s in vain: {what}"
        time.sleep(0.005)
    return found


def is_alive(process):
    """Whether the process (its number) runs; a zombie does not."""
    try:
        with open(f"/proc/{process}/stat", "rb") as stream:
            return stream.read().rpartition(b")")[2].split()[0] not in b"ZX"
    except (OSError, IndexError):
        return False


def marked(mark):
    """The live processes whose environment holds the text `mark`, by number."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            with open(f"/proc/{name}/environ", "rb") as stream:
                environment = stream.read()
            if mark.encode() in environment and is_alive(int(name)):
                found.append(int(name))
    return sorted(found)


def peak_kilobytes(process="self"):
    """The most memory that a process ever had resident, in KiB."""
    with open(f"/proc/{process}/status") as stream:
        return next(int(line.split()[1]) for line in stream if line.startswith("VmHWM:"))
