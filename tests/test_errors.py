"""errors.py: the tree of failures, and the exit code of each."""

import re

import pytest

from remotes import errors
from remotes.errors import EXIT_CODES, Interrupted, RemotesError

DRAWN = {name: code for name, code in re.findall(r"(\w+Error) +(\d+) ", errors.__doc__)}
DEFINED = {name: kind for name, kind in vars(errors).items()
           if isinstance(kind, type) and issubclass(kind, RemotesError)}


def test_the_tree_in_the_docstring_is_the_tree():
    """Each class is drawn once, with the code that it has."""
    assert {name: str(kind.exit_code) for name, kind in DEFINED.items()} == DRAWN


@pytest.mark.parametrize("kind", DEFINED.values(), ids=DEFINED)
def test_each_failure_has_a_documented_code_and_a_kind(kind):
    """What a script can see: a code of the table, a kind of its own."""
    error = kind("told", answer={"a": 1}, document={"commands": []})
    assert error.exit_code in EXIT_CODES
    assert re.fullmatch("[a-z_]+", error.kind)
    assert ("told", {"a": 1}, {"commands": []}) == (str(error), error.answer, error.document)


def test_kinds_tell_all_failures_apart():
    """No two classes share one."""
    assert len(DEFINED) == len({kind.kind for kind in DEFINED.values()})


def test_an_interruption_is_not_a_failure():
    """Whoever catches failures, even all of them, does not catch a signal."""
    assert not issubclass(Interrupted, Exception)
    assert 15 == Interrupted(15).number
