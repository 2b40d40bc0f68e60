"""The client run within the tests' own process: as fast as a call, for tests of many runs."""

import contextlib
import io

import client
from tests.conftest import Result


def run(*words, environ=None):
    """`client.main` on `words` in an environment of its own; gives a Result."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = client.main(list(map(str, words)), environ or {})
    return Result(code, out.getvalue(), err.getvalue())
