"""scripting.py: what a command of the server can do with the host's Duplicati."""

import json
import os

from remotes.actions import OPTIONS
from remotes.scripting import act
from tests.conftest import PASSWORD, job, site


def settings_of(host, monkeypatch):
    monkeypatch.setenv("REMOTES_SETTINGS", str(host.settings))
    monkeypatch.setenv("REMOTES_CONFIG", "")


def test_an_action_answers_as_on_the_command_line(play, operator, monkeypatch):
    """The same document, with the exit code in it; options by their names."""
    host = operator(play("2.3.0.4", job("Home"), job("Warns", ending="warning")))
    settings_of(host, monkeypatch)
    answer = act("duplicati_run", id="Home", wait=True)
    assert ("OK", 0, "success") == (answer["status"], answer["exit"], answer["tasks"][0]["result"])
    answer = act("duplicati_run", id=["Home", "Warns"], wait=True)
    assert (3, ["success", "warning"]) == (
        answer["exit"], [task["result"] for task in answer["tasks"]])
    typed = host.inside("duplicati_list", "--type=backups").answer
    assert {**typed, "exit": 0} == act("duplicati_list", type="backups")


def test_a_failure_is_an_answer_too(play, operator, monkeypatch):
    """Whatever is wrong: nothing is raised."""
    host = operator(play("2.3.0.4", job("Home")))
    settings_of(host, monkeypatch)
    for code, found in ((2, act("no_such_action")), (2, act("duplicati_run", wait="perhaps")),
                        (2, act("duplicati_list", no_such_option=1)),
                        (10, act("duplicati_run", id="Nothing")),
                        (78, act("duplicati_status", server="elsewhere"))):
        assert ("ERROR", code) == (found["status"], found["exit"])
        assert found["message"] and json.dumps(found)


def test_true_confirms_and_false_does_not(play, operator, monkeypatch):
    """True is yes: enough for a change, not for what is destroyed by its name."""
    host = operator(play("2.3.0.4", job("Home")))
    settings_of(host, monkeypatch)
    edit = {"id": "Home", "set": "Description=x"}
    with open(os.devnull) as nobody:
        monkeypatch.setattr("sys.stdin", nobody)
        unconfirmed = [act("duplicati_edit", **edit, confirm=confirm) for confirm in (False, None)]
    for answer in unconfirmed:
        assert (2, True) == (answer["exit"], "needs --confirm=yes" in answer["message"]), answer
    answer = act("duplicati_edit", **edit, confirm=True)
    assert (0, True) == (answer["exit"], answer["changed"]), answer
    answer = act("duplicati_delete", type="backup", id="Home", confirm=True)
    assert (2, True) == (answer["exit"], "its name is 'Home'" in answer["message"]), answer


def test_an_option_of_a_wrong_kind_is_told_without_a_command_line(play, operator, monkeypatch):
    """There is none."""
    settings_of(operator(play("2.3.0.4", job("Home"))), monkeypatch)
    answer = act("duplicati_run", id="Home", wait="perhaps")
    assert (2, "act: wait must be true or false") == (answer["exit"], answer["message"])


def test_secrets_are_masked_unless_they_are_asked_for(play, operator, monkeypatch):
    """As on the command line."""
    secret = {**job("Home"), "target_url": "file:///no/where?auth-password=hunter22"}
    host = operator(play("2.3.0.4", secret))
    settings_of(host, monkeypatch)
    assert "hunter22" not in json.dumps(act("duplicati_list", type="backups"))
    assert "hunter22" in json.dumps(act("duplicati_list", type="backups", show_secrets=True))


def test_a_command_of_the_server_runs_a_backup_and_returns_its_end(serve, enroll, play, operator):
    """Three lines, with the real server's command, its child process, and the host's session."""
    source = ("from remotes.scripting import act\n"
              "task = act('duplicati_run', id='Home', wait=True)['tasks'][0]\n"
              "__RESULT__ = [task['result'], str(task['added'])]\n")
    host = enroll(serve(site({"command": source, "timeout": 60})))
    duplicati = play("2.3.0.4", job("Home"))
    secret = host.folder / "password"
    secret.write_text(PASSWORD)
    logged_in = host.run("duplicati_login", f"--url={duplicati.url}", f"--password_file={secret}")
    assert 0 == logged_in.code, logged_in
    result = host.run("commands_process")
    (command,) = result.answer["commands"]
    assert ("completed", ["success", "2"]) == (command["ending"], command["result"]), command


def test_no_secret_option_is_in_a_commands_environment():
    """Each option that is secret is withheld from children."""
    from remotes.runner import _WITHHELD

    secret = {f"REMOTES_{option.name.upper()}" for option in OPTIONS.values() if option.is_secret}
    assert secret | {"DUPLICATI_PASSWORD", "DUPLICATI_BASIC_PASSWORD"} <= set(_WITHHELD)
