"""What an action on a Duplicati server cannot avoid: its imports, its settings, its requests.

    bare_duplicati.py SETTINGS status|list|run [ID]

status, list: the requests of the client's action, with the token that the settings keep, and
their answers printed as JSON. run: starts a backup, asks for its task each second until that is
over, and prints it.

Nothing here is guarded: no time-outs, no renewal, no secret masked, no answer judged.
"""

import json
import sys
import time

import requests
import yaml

SHOWN_SCHEDULES = 5
POLL_SECONDS = 1.0


class Bare:
    """The Duplicati server of the settings in the file `path`."""

    def __init__(self, path):
        with open(path, "rb") as stream:
            kept = yaml.load(stream, yaml.CSafeLoader)["duplicati"]["servers"]["default"]
        self.base = kept["url"] + "api/v1/"
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.headers["Authorization"] = f"Bearer {kept['access_token']}"

    def ask(self, path, method="GET"):
        answer = self.session.request(method, self.base + path)
        answer.raise_for_status()
        return answer.json()

    def status(self):
        state = self.ask("serverstate")
        schedules = state["ProposedSchedule"][:SHOWN_SCHEDULES]
        return [state, self.ask("systeminfo"),
                *(self.ask(f"backup/{schedule['Item1']}") for schedule in schedules)]

    def list(self):
        return self.ask("backups")

    def run(self, backup_id):
        number = self.ask(f"backup/{backup_id}/run", "POST")["ID"]
        while (task := self.ask(f"task/{number}"))["Status"] not in ("Completed", "Failed"):
            time.sleep(POLL_SECONDS)
        return {"tasks": [{"task": number, **task}]}


if __name__ == "__main__":
    print(json.dumps(getattr(Bare(sys.argv[1]), sys.argv[2])(*sys.argv[3:])))
