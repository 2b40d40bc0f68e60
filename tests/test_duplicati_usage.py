"""Every line of Duplicati Client's usage, translated by the README's table, as it stands there."""

import re
import shlex

import pytest

from tests.conftest import PASSWORD, RELEASES, job
from tests.test_documents import README


def translations():
    """(line there, words here) of the README's table."""
    text = README.read_text()
    section = text.partition("### Coming from Duplicati Client")[2].partition("###")[0]
    for there, here in re.findall(r"^\| `(duplicati .*?)` \| `(--action.*?)` \|$", section,
                                  re.MULTILINE):
        yield there, shlex.split(here)


def test_every_command_of_the_seed_is_translated():
    """list, get, describe, run, edit, logs, login, logout, status, config."""
    known = {there.split()[1] for there, _ in translations()}
    assert known == {"list", "get", "describe", "run", "edit", "logs", "login", "logout", "status",
                     "config"}


@pytest.mark.parametrize("release", RELEASES)
def test_every_line_of_the_seed_works(play, operator, release):
    """In the order of its page, as processes, on each generation: exit 0, one JSON document."""
    server = play(release, job("Home"), job("Other"))
    host = operator()
    host.environ.update(DUPLICATI_PASSWORD=PASSWORD, EDITOR="true")
    rows = dict(translations())
    for there in ("duplicati login https://my.duplicati.server", *rows):
        words = [word.replace("https://my.duplicati.server", server.url) for word in rows[there]]
        if "--action=duplicati_edit" in words:
            words.append("--confirm")  # nobody is at a terminal here
        result = host.run(words[0].partition("=")[2], *words[1:])
        assert 0 == result.code, (there, result)
        assert result.answer["status"] == "OK"
        if there == "duplicati run backup 1":
            assert server.state.wait_idle()
    assert 0 == host.run("duplicati_logout").code
