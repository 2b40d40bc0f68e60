"""The client run within the tests' own process: as fast as a call, for tests of many runs."""

import contextlib
import io
import os

import client
from tests.conftest import Result


def run(*words, environ=None, folder=None):
    """`client.main` on `words` in an environment of its own; gives a Result. `folder`: where it
    runs, for words that are relative paths.
    """
    out, err, former = io.StringIO(), io.StringIO(), os.getcwd()
    os.chdir(folder or former)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = client.main(list(map(str, words)), environ or {})
    finally:
        os.chdir(former)
    return Result(code, out.getvalue(), err.getvalue())
