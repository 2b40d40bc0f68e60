"""What a turn of tasks cannot avoid: its imports, its settings, its requests.

    bare_tasks.py SETTINGS

Asks the task server whether there are tasks; if so, fetches them, gets the backup of each, and
posts what Duplicati said; over one session for each server.

Nothing here is guarded: no time-outs, no list on the disk, no policy, no secret masked, no answer
judged.
"""

import json
import sys

import requests
import yaml


def new_session(token=None):
    session = requests.Session()
    session.trust_env = False
    if token:
        session.headers["Authorization"] = f"Bearer {token}"
    return session


def main(path):
    with open(path, "rb") as stream:
        settings = yaml.load(stream, yaml.CSafeLoader)
    base, tasks = settings["tasks"]["url"] + "api/tasks", new_session()
    if tasks.get(base + "/status", allow_redirects=False).status_code != 303:
        return []
    kept = settings["duplicati"]["servers"]["default"]
    duplicati = new_session(kept["access_token"])
    done = []
    for task in tasks.get(base).json():
        [resource] = task["Resources"]
        backup = duplicati.get(f"{kept['url']}api/v1/backup/{resource['ID']}").json()
        result = {"ID": task["ID"], "Status": "completed", "Data": backup}
        tasks.post(f"{base}/{task['ID']}/result", json=result).raise_for_status()
        done.append({"id": task["ID"], "status": "completed"})
    return done


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
