"""The benchmarks: each figure beside its reference from the same run, in one table.

What is compared runs in turns (A B, B A, …), so that whatever else this machine does
falls on both; a ratio is the median over the rounds. "CPU" is the ratio of CPU seconds,
descendants included: a second opinion where the machine is busy.

    run.py [start] [commands] [delay] [monitor] [flood] [duplicati] [tasks]    all, if none is named
"""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time

from duplicati_rows import measure_duplicati
from measure import children, in_turns, memory, open_files, program_of
from table import compare, head, megabytes, row
from task_rows import measure_tasks
from world import DELAY_SECONDS, HERE, World

START_ROUNDS = 20
COMMANDS, COMMANDS_ROUNDS = 200, 5
FAR_COMMANDS, FAR_ROUNDS = 50, 3
FEW_TURNS, MANY_TURNS = 10, 500
FLOOD_BYTES, FLOOD_ROUNDS = 1 << 30, 3
SMALL_COMMAND = "print('hello from the command')"
FLOOD = f"""import sys
line = "x" * 65535 + "\\n"
for _ in range({FLOOD_BYTES} // len(line)):
    sys.stdout.write(line)
"""
START_AIM, FLOOR_AIM, MONITOR_AIM_BYTES, FLOOD_AIM_BYTES = 1.15, 1.10, 36e6, 80e6
PYTHON = sys.executable


def measure_start(world):
    """(1) A process from its start to its end, against the same without this client: its
    imports, its files, its one request (bare.py).
    """
    world.ask_server(load=[])
    ours = {"--help": [PYTHON, str(HERE.parent / "client.py"), "--help"]}
    bare = {"--help": [PYTHON, "-c", "import argparse"]}
    for action, name in (("status", "status"), ("host_status", "host_status"),
                         ("commands_process", "commands_list")):
        more = ["--url", world.host["url"]] if action == "status" else []
        ours[action] = world.client(action, world.near, *more)
        bare[action] = [PYTHON, str(HERE / "bare.py"), world.near, name]
    programs = {"interpreter": [PYTHON, "-c", "pass"],
                "requests": [PYTHON, "-c", "import requests"]}
    for action in ours:
        programs[action], programs[f"bare {action}"] = ours[action], bare[action]
    costs = in_turns({name: lambda words=words: world.cost(*words)
                      for name, words in programs.items()}, START_ROUNDS)
    for action in ours:
        what = "start: " + ("commands_process, idle" if action == "commands_process" else action)
        unavoidable = "import argparse" if action == "--help" else "bare script"
        compare(what, costs, action, f"bare {action}", unavoidable, START_AIM)
        compare(what, costs, action, "requests", "import requests")
        compare(what, costs, action, "interpreter", "bare interpreter")


def measure_commands(world, settings_path, number, rounds, what):
    """(2), (3) Small commands, all in one run, against floor.py; the way of the reference
    client is run once.
    """
    sources = [SMALL_COMMAND] * number
    floor = [PYTHON, str(HERE / "floor.py"), settings_path]

    def program(*words):
        return lambda: world.cost_of_commands(sources, *words)

    costs = in_turns({"client": program(*world.client("commands_process", settings_path)),
                      "floor": program(*floor, "fork")}, rounds)
    costs["reference"] = [program(*floor, "reference")()] * rounds
    compare(what, costs, "client", "floor", "floor", FLOOR_AIM)
    compare(what, costs, "client", "reference", "interpreter and connection for each")


def measure_monitor(world):
    """(4) Memory and open files of a monitor after some and after many turns."""
    world.ask_server(load=[])
    words = world.client("commands_monitor", world.near, "--interval=0.005")
    process = subprocess.Popen(words, env=world.environ, stdout=subprocess.DEVNULL)
    try:
        early = held_after(world, process, FEW_TURNS)
        late = held_after(world, process, MANY_TURNS)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
    what, after = f"monitor after {MANY_TURNS} empty turns: ", f"after {FEW_TURNS}"
    row(what + "memory", megabytes(late[0]), after, megabytes(early[0]),
        f"{late[0] / early[0]:.2f}", "", f"{MONITOR_AIM_BYTES / 1e6:.0f} MB, flat",
        late[0] < MONITOR_AIM_BYTES and late[0] <= early[0] * 1.03)
    alone = int(subprocess.check_output([PYTHON, "-c", LIBRARIES], env=world.environ))
    row(what + "memory", megabytes(late[0]), "its libraries alone", megabytes(alone),
        f"{late[0] / alone:.2f}")
    row(what + "open files", str(late[1]), after, str(early[1]), f"{late[1] / early[1]:.2f}", "",
        "flat", late[1] <= early[1])


LIBRARIES = """import resource, requests, yaml, cryptography.hazmat.primitives.serialization
with open("/proc/self/statm") as stream:
    print(int(stream.read().split()[1]) * resource.getpagesize())
"""


def held_after(world, process, turns):
    """(memory, open files) of the monitor when the server has been asked for its list so
    many times: the most memory and the fewest files for a moment, since within a turn a
    connection, a lock and a journal are open.
    """
    while world.ask_server(count=True)["lists"] < turns:
        if process.poll() is not None:
            raise SystemExit("the monitor has ended")
        time.sleep(0.01)
    held = []
    for _ in range(200):
        held.append((memory(process.pid), open_files(process.pid)))
        time.sleep(0.001)
    return max(size for size, _ in held), min(files for _, files in held)


def measure_flood(world):
    """(5) A command that prints 1 GB, against a reader that throws all away."""
    peaks = {"client": 0, "watcher": 0}
    costs = in_turns({
        "client": lambda: watched_flood(world, peaks),
        "reader": lambda: world.cost(PYTHON, "-c", READER, PYTHON, FLOOD),
    }, FLOOD_ROUNDS)
    compare("a command that prints 1 GB: time", costs, "client", "reader", "plain reader")
    total = sum(peaks.values())
    row("a command that prints 1 GB: peak memory", megabytes(total), "client + watcher",
        " + ".join(megabytes(peak) for peak in peaks.values()), "", "",
        f"{FLOOD_AIM_BYTES / 1e6:.0f} MB", total < FLOOD_AIM_BYTES)


READER = """import os, subprocess, sys
process = subprocess.Popen([sys.argv[1], "-c", sys.argv[2]], stdout=subprocess.PIPE)
while os.read(process.stdout.fileno(), 1 << 16):
    pass
sys.exit(process.wait())
"""


def is_watcher(process):
    """Whether a child of the client has become another program already. Before that it
    has all the client's memory."""
    return any(word.endswith("watcher.py") for word in program_of(process))


def watched_flood(world, peaks):
    """Runs the flood through the client; notes the most memory it and its watcher had."""
    over = threading.Event()

    def watch():
        while not over.wait(0.005):
            for client in children(os.getpid()):
                for watcher in filter(is_watcher, children(client)):
                    peaks["client"] = max(peaks["client"], memory(client, "VmHWM"))
                    peaks["watcher"] = max(peaks["watcher"], memory(watcher, "VmHWM"))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        words = world.client("commands_process", world.near)
        return world.cost_of_commands([FLOOD], *words)
    finally:
        over.set()
        watching.join()


MEASURES = {
    "start": measure_start,
    "commands": lambda world: measure_commands(
        world, world.near, COMMANDS, COMMANDS_ROUNDS, f"{COMMANDS} small commands"),
    "delay": lambda world: measure_commands(
        world, world.far, FAR_COMMANDS, FAR_ROUNDS,
        f"{FAR_COMMANDS} small commands, {DELAY_SECONDS * 1000:.0f} ms each way"),
    "monitor": measure_monitor,
    "flood": measure_flood,
    "duplicati": measure_duplicati,
    "tasks": measure_tasks,
}


def main(names):
    started = time.monotonic()
    unknown = [name for name in names if name not in MEASURES]
    if unknown:
        raise SystemExit(f"unknown: {' '.join(unknown)}; known: {' '.join(MEASURES)}")
    with tempfile.TemporaryDirectory() as folder, World(folder) as world:
        head()
        for name in names or MEASURES:
            MEASURES[name](world)
    load = ", ".join(f"{part:.1f}" for part in os.getloadavg())
    print(f"\n{time.monotonic() - started:.0f} s; Python {sys.version.split()[0]},"
          f" {os.cpu_count()} cores, load {load}")


if __name__ == "__main__":
    main(sys.argv[1:])
