"""The promise, under random faults: none runs twice, each is recorded exactly once."""

import collections
import json
import os
import random
import sqlite3
import subprocess
import sys

import pytest
import yaml

from tests.conftest import PROJECT, Host, encrypt, site

LOGGING = "with open({log!r}, 'a') as stream:\n    stream.write('{number}\\n')\nprint({number})"
UUID, TOKEN = "7a9b0c1d-2e3f-4a5b-8c6d-7e8f9a0b1c2d", "0123456789abcdef0123456789abcdef01234567"


class World:
    """A faulty server that is started again when it dies, and a client that is run again
    and again until everything is delivered."""

    def __init__(self, folder, key_pem, seed, commands, faults):
        self.folder = folder
        self.draw = random.Random(seed)
        self.commands = commands
        self.target = faults
        self.kills = 0
        self.codes = collections.Counter()
        self.log = folder / "runs"
        self.server = None
        self.host = Host(folder)
        private, public = key_pem
        document = site(*(LOGGING.format(log=str(self.log), number=number)
                          for number in range(1, commands + 1)))
        host = {"public_key": public, "uuid": UUID, "token": TOKEN}
        self.server_line = [
            sys.executable, str(PROJECT / "tests" / "faulty_server.py"),
            str(folder / "database"), json.dumps(document), str(folder / "port"),
            str(folder / "faults"), str(folder / "client.pid"), str(seed), str(faults),
            json.dumps(host)]
        self.start_server()
        self.write_settings(private, public)

    def write_settings(self, private, public):
        key = self.folder / "host.key"
        key.write_text(private)
        key.chmod(0o600)
        self.host.settings.write_text(yaml.safe_dump({
            "host": {"private_key": str(key), "uuid": encrypt(public, UUID),
                     "token": encrypt(public, TOKEN)},
            "server": {"url": f"http://127.0.0.1:{(self.folder / 'port').read_text()}/"},
            "endpoints": {name: f"/api/v1/commands/{name.split('_')[1]}/"
                          for name in ("commands_list", "command_get", "command_post")},
        }))

    def start_server(self):
        if self.server is None or self.server.poll() is not None:
            if self.server is not None:
                self.server.stdout.close()
            self.server = subprocess.Popen(self.server_line, stdout=subprocess.PIPE, text=True)
            assert self.server.stdout.readline() == "ready\n"

    def faults(self):
        """How many faults there were so far, those of this process included."""
        path = self.folder / "faults"
        return self.kills + (len(path.read_text().splitlines()) if path.exists() else 0)

    def turn(self):
        """One run of the client, at times killed at a random moment."""
        self.start_server()
        with self.host.start("commands_process", "--http_timeout=1", "--quiet",
                             stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            (self.folder / "client.pid").write_text(str(process.pid))
            try:
                is_to_die = self.faults() < self.target and self.draw.random() < 0.2
                _, err = process.communicate(
                    timeout=self.draw.uniform(0.2, 1.0) if is_to_die else 60)
            except subprocess.TimeoutExpired:
                assert is_to_die, "the client hangs"
                process.kill()
                _, err = process.communicate()
                self.kills += 1
        assert process.returncode in (0, 75, -9), err
        self.codes[process.returncode] += 1
        return process.returncode

    def outputs(self):
        with sqlite3.connect(self.folder / "database") as database:
            rows = database.execute("SELECT command, output FROM outputs").fetchall()
        database.close()
        return rows

    def run(self):
        """Turns until all is delivered and no fault is left."""
        for _ in range(20 * (self.target + self.commands)):
            if self.turn() == 0 and len(self.outputs()) >= self.commands:
                return
        raise AssertionError("it never came to an end")

    def close(self):
        self.server.kill()
        self.server.wait()
        self.server.stdout.close()


def check_delivery(folder, key_pem, commands, faults, seed):
    seed = int(os.environ.get("REMOTES_SEED", seed))
    print(f"\nREMOTES_SEED={seed}", file=sys.stderr)
    world = World(folder, key_pem, seed, commands, faults)
    try:
        world.run()
    finally:
        world.close()
    recorded = collections.Counter(command for command, _ in world.outputs())
    ran = collections.Counter(int(line) for line in world.log.read_text().split())
    numbers = range(1, commands + 1)
    struck = collections.Counter(
        " ".join(line.split()[:-1]) for line in (folder / "faults").read_text().splitlines())
    interrupted = sum("interrupted" in output for _, output in world.outputs())
    print(f"{world.faults()} faults over {commands} commands in {sum(world.codes.values())} runs:"
          f" {dict(struck)}, killed at random {world.kills}; exits {dict(world.codes)};"
          f" {interrupted} reported as interrupted", file=sys.stderr)
    assert (seed, recorded) == (seed, collections.Counter(numbers))
    assert (seed, [number for number in numbers if ran[number] > 1]) == (seed, [])
    assert (seed, interrupted + len(ran)) >= (seed, commands)


def test_faults_neither_lose_nor_double_anything(tmp_path, key_pem):
    """A sample: 40 faults over 12 commands."""
    check_delivery(tmp_path, key_pem, 12, 40, 1)


@pytest.mark.soak
def test_a_thousand_faults_neither_lose_nor_double_anything(tmp_path, key_pem):
    """1,000 faults over 200 commands. REMOTES_SEED repeats a run."""
    check_delivery(tmp_path, key_pem, 200, 1000, random.SystemRandom().randrange(10**9))
