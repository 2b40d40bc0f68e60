"""Measuring processes: seconds, CPU seconds, memory, open files; two programs in turns."""

import os
import statistics
import subprocess
import sys
import time
from collections import namedtuple

# Wall and CPU seconds of a process, that of all its descendants included.
Cost = namedtuple("Cost", "seconds cpu_seconds")


def cost(words, **more):
    """Runs a program to its end, with its stdout thrown away; gives its Cost."""
    started = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, **more)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{words} ended with {process.returncode}")
    return Cost(seconds, usage.ru_utime + usage.ru_stime)


def in_turns(programs, rounds):
    """Calls `programs` (name -> callable that gives a Cost) one after another, `rounds`
    times, each second time backwards; gives name -> [Cost]. One round before is not
    counted: it fills the caches.
    """
    costs = {name: [] for name in programs}
    for number in range(rounds + 1):
        names = list(programs) if number % 2 else list(reversed(programs))
        for name in names:
            found = programs[name]()
            if number:
                costs[name].append(found)
    return costs


def median(costs):
    """The Cost in the middle, its two halves each on its own."""
    return Cost(*(statistics.median(column) for column in zip(*costs)))


def ratio(costs, references):
    """How many times `references` `costs` are: the median over the rounds, as a Cost."""
    return median([Cost(*(ours / theirs for ours, theirs in zip(*pair)))
                   for pair in zip(costs, references)])


def memory(process, field="VmRSS"):
    """VmRSS or VmHWM (the most so far) of a process in bytes; 0 if it is gone."""
    try:
        with open(f"/proc/{process}/status") as stream:
            for line in stream:
                if line.startswith(field + ":"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


# A process begins with the memory that its parent had when it was made: this one has little.
_LAUNCHER = """import os, sys
into_nothing = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
process = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=into_nothing)
_, status, usage = os.wait4(process, 0)
print(usage.ru_maxrss * 1024)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def peak_memory(words, **more):
    """Runs a program to its end, with its stdout thrown away; gives the most memory that it
    had, in bytes. Its first word is a path. Less than a bare interpreter's is not seen.
    """
    launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER]
    return int(subprocess.check_output([*launcher, *words], **more))


def open_files(process):
    """How many descriptors a process has open."""
    return len(os.listdir(f"/proc/{process}/fd"))


def children(process):
    """The numbers of the processes that a process has started and that are there."""
    try:
        with open(f"/proc/{process}/task/{process}/children") as stream:
            return [int(number) for number in stream.read().split()]
    except OSError:
        return []


def program_of(process):
    """The command line of a process as a list of words; empty if it is gone."""
    try:
        with open(f"/proc/{process}/cmdline") as stream:
            return stream.read().split("\0")
    except OSError:
        return []
