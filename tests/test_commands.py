"""commands.py: run at most once, recorded exactly once."""

from tests.conftest import site


def test_a_listed_command_is_run_and_recorded_once(serve, enroll):
    """What a command prints and returns is on the server after one turn."""
    server = serve(site("print('hello')\n__RESULT__ = [1, 'two']"))
    host = enroll(server)
    result = host.run("commands_process")
    assert result.code == 0, result
    assert [(row["output"], row["result"]) for row in server.state.outputs()] == [
        ("hello\n", [1, "two"])]
    assert host.run("commands_process").answer["commands"] == []
