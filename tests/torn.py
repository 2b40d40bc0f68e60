"""Kills a writer at each of its calls that change a file, and lets the rest be judged.

Each writer is a real process that ends by SIGKILL: before a call, in the middle of a
write, or after the call.
"""

import inspect
import os
import signal
import subprocess
import sys

from tests.conftest import PROJECT

CALLS = ("write", "fsync", "replace", "link", "ftruncate", "unlink", "open")


def in_child(function, *arguments, **more):
    """Calls a function of a test module in a process of its own; what it printed."""
    module = inspect.getmodule(function).__name__
    script = f"from {module} import {function.__name__} as work; work(*{arguments!r})"
    done = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, text=True, timeout=120,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **more)
    assert done.returncode == 0, done.stdout
    return done.stdout


def killed_everywhere(begin, work, check):
    """For each call that `work` makes, and each way to be killed at it: `begin()`,
    `work(acknowledge)` in a process that is killed there, `check(acknowledgements)`.

    Gives how many kills there were. To be called in a process without threads.
    """
    kills = 0
    while True:
        begin()
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            _die_at(kills, work, writing)
        os.close(writing)
        with open(reading, "rb") as stream:
            acknowledged = len(stream.read())
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        check(acknowledged)
        if status == 0:
            return kills
        assert status == -signal.SIGKILL, status
        kills += 1


def _die_at(point, work, channel):
    """The child: its call number point // 3 is not reached, half done, or the last."""
    status, write, seen = 70, os.write, 0

    def deadly(name, function):
        def call(*arguments, **more):
            nonlocal seen
            own, seen = seen, seen + 1
            if own != point // 3:
                return function(*arguments, **more)
            try:
                if point % 3 == 1 and name == "write":
                    function(arguments[0], arguments[1][:len(arguments[1]) // 2])
                elif point % 3:
                    function(*arguments, **more)
            finally:
                os.kill(os.getpid(), signal.SIGKILL)
        return call

    try:
        for name in CALLS:
            setattr(os, name, deadly(name, getattr(os, name)))
        work(lambda: write(channel, b"!"))
        status = 0
    finally:
        os._exit(status)
