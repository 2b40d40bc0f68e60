"""runner.py: whatever a command does, there is one outcome of it, and nothing else of it."""

import json
import os
import signal
import subprocess
import sys
import uuid

import pytest

from remotes import runner as runner_module
from remotes.daemon import StopFlag
from remotes.runner import COMPLETED, CRASHED, FAILED, INTERRUPTED, TIMED_OUT, Runner
from tests.conftest import PROJECT
from tests.processes import eventually, is_alive, marked

LIMIT = 64 * 1024
IGNORES_SIGTERM = """
import signal, subprocess, sys, time
source = ("import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
          " print('ready', flush=True); time.sleep(600)")
def start(**more):
    process = subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, **more)
    process.stdout.readline()
    return process.pid
pids = [start(), start(start_new_session=True)]
"""


@pytest.fixture
def mark():
    """A text in the environment of all that a test starts, and of nothing else."""
    mark = f"MARK_{uuid.uuid4().hex}"
    yield mark
    for process in marked(mark):
        os.kill(process, signal.SIGKILL)


@pytest.fixture
def runner(tmp_path, mark):
    runner = Runner(str(tmp_path / "settings.yml"), output_limit=LIMIT,
                    environ={**os.environ, mark: "1"})
    yield runner
    runner.close()


@pytest.fixture
def run(runner):
    def run(source, timeout_seconds=30, settings=None, variables=None):
        return runner.run(source, settings=settings or {}, variables=variables or {},
                          timeout_seconds=timeout_seconds, name="<command 7>")
    return run


def result_of(outcome):
    return json.loads(outcome.result)


# -- how a command ends by itself -------------------------------------------------------

def test_what_a_command_prints_and_returns_is_its_outcome(run):
    """Output and `__RESULT__` arrive as they are, and take some time."""
    outcome = run("print('caf\\u00e9')\n__RESULT__ = [1, 'two']")
    assert (COMPLETED, "", "café\n", [1, "two"]) == (
        outcome.ending, outcome.why, outcome.output, result_of(outcome))
    assert 0 < outcome.seconds < 30


def test_a_command_finds_settings_and_variables(run):
    """The two mappings are there as the server gave them, null as None."""
    outcome = run("__RESULT__ = [__SETTINGS__, __VARIABLES__]",
                  settings={"a": "\u2603"}, variables={"b": None, "c": ""})
    assert [{"a": "\u2603"}, {"b": None, "c": ""}] == result_of(outcome)


def test_commands_do_not_see_each_other(run):
    """Each is a fresh `__main__`: names, modules and the folder of one are not the next's."""
    run("import os, json\njson.spoiled = kept = 1\nos.chdir('/')")
    outcome = run("import os, json\n__RESULT__ = [hasattr(json, 'spoiled'), 'kept' in globals(),"
                  " os.getcwd()]")
    assert [False, False, os.getcwd()] == result_of(outcome)


@pytest.mark.parametrize("call", ["sys.exit()", "sys.exit(0)", "sys.exit(None)"])
def test_leaving_with_success_is_completed(run, call):
    """`sys.exit` of nothing, 0 or None is no failure, and the result counts."""
    outcome = run(f"import sys\n__RESULT__ = ['kept']\n{call}")
    assert (COMPLETED, ["kept"]) == (outcome.ending, result_of(outcome))


def test_leaving_with_a_number_is_a_failure_that_keeps_the_result(run):
    """The number is told, and what `__RESULT__` held is sent."""
    outcome = run("import sys\n__RESULT__ = ['kept']\nprint('before')\nsys.exit(3)")
    assert (FAILED, "sys.exit(3)", "before\n[failed] sys.exit(3)\n", ["kept"]) == (
        outcome.ending, outcome.why, outcome.output, result_of(outcome))


def test_leaving_with_a_text_is_a_failure_that_says_the_text(run):
    """As with an interpreter, the text goes to stderr; without a result the list is empty."""
    outcome = run("import sys\nsys.exit('no such printer')")
    assert (FAILED, "[stderr]\nno such printer\n[failed] sys.exit('no such printer')\n", []) == (
        outcome.ending, outcome.output, result_of(outcome))


def test_an_exception_is_a_failure_with_a_traceback_that_shows_the_line(run):
    """The command's own line and name stand in the traceback, and no file of this program."""
    outcome = run("def fall():\n    raise ValueError('boom')  # here\n\nfall()\n")
    assert (FAILED, "ValueError: boom", []) == (outcome.ending, outcome.why, result_of(outcome))
    assert "    raise ValueError('boom')  # here\n" in outcome.output
    assert '  File "<command 7>", line 2, in fall\n' in outcome.output
    assert "watcher" not in outcome.output


@pytest.mark.parametrize("source", ["if", "a = '\0'"])
def test_source_that_cannot_be_compiled_is_a_failure(run, source):
    """A syntax error, and a NUL in the source (whose error's name is Python's affair)."""
    outcome = run(source)
    assert (FAILED, True) == (outcome.ending, "Error: " in outcome.why)


def test_why_is_one_line_that_a_server_and_a_terminal_take(run):
    """NUL, lone surrogates, line ends and escapes in a message spoil neither output nor log."""
    outcome = run("raise ValueError('a\\0b\\ud800\\n\\x1b[2Jc')")
    assert "ValueError: a\ufffdb\ufffd \ufffd[2Jc" == outcome.why
    assert "\0" not in outcome.output
    outcome.output.encode()


@pytest.mark.parametrize("raised", ["ValueError", "SystemExit", "KeyboardInterrupt"])
def test_objects_that_cannot_be_told_keep_the_output(run, raised):
    """`__str__` and `__repr__` that raise anything: what was printed before is still sent."""
    source = (f"import sys\nclass E:\n  def __repr__(self): raise {raised}\n"
              "  __str__ = __repr__\nprint('before')\n")
    assert [True, True] == [
        run(source + line).output.startswith("before\n")
        for line in ("__RESULT__ = [E()]", "sys.exit(E())")]


# -- what it prints -----------------------------------------------------------------------

def test_nul_and_bad_utf8_are_replaced(run):
    """The server refuses the one and cannot hold the other."""
    outcome = run("import sys\nsys.stdout.buffer.write(b'[\\0] [\\xff\\xfe]')")
    assert "[\ufffd] [\ufffd\ufffd]" == outcome.output


def test_text_that_is_no_utf8_is_spelled_out(run):
    """Printing a lone surrogate is no failure."""
    assert (COMPLETED, "\\ud800\n") == (
        (outcome := run("print('\\ud800')")).ending, outcome.output)


def test_stderr_is_kept_apart_and_comes_after_the_output(run):
    """Whatever the order in which both were written."""
    outcome = run("import sys\nprint('bad', file=sys.stderr, flush=True)\nprint('good')")
    assert (COMPLETED, "good\n[stderr]\nbad\n") == (outcome.ending, outcome.output)


def test_fifty_megabytes_are_cut_in_the_middle(run):
    """Both ends are there, within the limit, and a line says how much is missing."""
    outcome = run("import sys\nprint('first')\nfor _ in range(50): sys.stdout.write('x' * 10**6)\n"
                  "print('last')\n__RESULT__ = ['done']")
    first, told, last = outcome.output.split("\n", 3)[0], "bytes are missing here", "last"
    assert (COMPLETED, "first", ["done"]) == (outcome.ending, first, result_of(outcome))
    assert told in outcome.output and outcome.output.endswith(f"x{last}\n")
    assert len(outcome.output) <= LIMIT + 200


def test_an_output_limit_of_zero_is_a_limit(tmp_path):
    """Nothing of it is kept, and nothing breaks."""
    runner = Runner(str(tmp_path / "settings.yml"), output_limit=0)
    outcome = runner.run("print('hello')", settings={}, variables={}, timeout_seconds=30, name="c")
    runner.close()
    assert COMPLETED == outcome.ending
    assert outcome.output.startswith("[6 bytes are missing here")


def test_memory_stays_bounded_while_300_megabytes_are_printed(tmp_path):
    """That of the client's process and that of the watcher; both peaks are read in /proc."""
    script = (
        "from remotes.runner import Runner\nfrom tests.processes import peak_kilobytes\n"
        f"runner = Runner({str(tmp_path / 's.yml')!r})\n"
        "source = 'import sys\\nfor _ in range(300): sys.stdout.write(\"y\" * 10**6)'\n"
        "outcome = runner.run(source, settings={}, variables={}, timeout_seconds=60, name='c')\n"
        "assert '299,' in outcome.output, outcome.output[:100]\n"
        "print(peak_kilobytes(), peak_kilobytes(runner._process.pid))\nrunner.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, capture_output=True,
                          text=True, timeout=120, check=True)
    client, watcher = map(int, done.stdout.split())
    assert client < 48 * 1024 and watcher < 32 * 1024


# -- what it returns ----------------------------------------------------------------------

def test_a_result_over_the_limit_is_not_sent_and_told(run):
    """An empty list in its place; the command is no failure."""
    outcome = run("print('fine')\n__RESULT__ = ['x' * 100_000]")
    assert (COMPLETED, [], "fine\n[result not sent] its 100,004 bytes are over the limit of"
            " 65,536\n") == (outcome.ending, result_of(outcome), outcome.output)


def test_a_result_at_the_limit_is_sent(run):
    """The limit itself is allowed."""
    assert LIMIT == len(run(f"__RESULT__ = ['x' * {LIMIT - 4}]").result)


def test_a_deleted_result_is_an_empty_list(run):
    """`del __RESULT__` is nobody's crash."""
    outcome = run("del __RESULT__\nprint('gone')")
    assert (COMPLETED, "gone\n", []) == (outcome.ending, outcome.output, result_of(outcome))


def test_a_result_that_was_never_set_is_one_empty_text(run):
    """It starts as "", and what is no list is sent as a list of that one thing."""
    assert [""] == result_of(run("pass"))


def test_every_kind_of_value_arrives_as_plain_json(run):
    """Dates, paths, bytes, sets, NaN, a list that holds itself: as the README says."""
    outcome = run(
        "import datetime, pathlib\n"
        "__RESULT__ = [None, [None], datetime.date(2024, 2, 29), pathlib.PurePosixPath('/a/b'),\n"
        "              b'a\\xff', {3, 1, 2}, float('nan'), float('-inf'), '\\ud800\\0', (1, 2),\n"
        "              {1: 'a', None: 2}, True, 2 + 3j]\n__RESULT__.append(__RESULT__)"
    )
    assert ["", [None], "2024-02-29", "/a/b", "a\ufffd", [1, 2, 3], "nan", "-inf", "\ufffd\ufffd",
            [1, 2], {"1": "a", "None": 2}, True, "(2+3j)", "[...]"] == result_of(outcome)


# -- what it does to itself ---------------------------------------------------------------

def test_a_closed_stdout_is_no_failure(run):
    """Nor is one that was set to None."""
    assert [(COMPLETED, [1])] * 2 == [
        ((outcome := run(f"import sys\nprint('x')\n{line}\n__RESULT__ = [1]")).ending,
         result_of(outcome)) for line in ("sys.stdout.close()", "sys.stdout = sys.stderr = None")]


def test_the_result_is_there_when_every_descriptor_was_closed(run):
    """It takes no descriptor to leave it."""
    outcome = run("import os\nos.closerange(0, 4096)\n__RESULT__ = ['still here']")
    assert (COMPLETED, ["still here"]) == (outcome.ending, result_of(outcome))


def test_a_command_that_kills_itself_is_a_crash(run):
    """The signal is named, and what was printed before is kept."""
    outcome = run("import os\nprint('before', flush=True)\nos.kill(os.getpid(), 9)")
    assert (CRASHED, "it was ended by signal 9 (SIGKILL)", []) == (
        outcome.ending, outcome.why, result_of(outcome))
    assert outcome.output.startswith("before\n[crashed]")


@pytest.mark.parametrize("call", ["os._exit(5)", "os.execvp('sh', ['sh', '-c', 'exit 5'])"])
def test_a_process_that_leaves_without_a_word_failed_with_its_status(run, call):
    """`os._exit` and `exec`: the end of the process counts, and the result is empty."""
    outcome = run(f"import os\n__RESULT__ = [1]\n{call}")
    assert (FAILED, "its process ended with status 5", []) == (
        outcome.ending, outcome.why, result_of(outcome))


def test_a_program_that_takes_its_place_prints_as_the_command(run):
    """Descriptors 1 and 2 are those of the command after `exec`."""
    outcome = run("import os\nos.execvp('sh', ['sh', '-c', 'echo replaced'])")
    assert (COMPLETED, "replaced\n") == (outcome.ending, outcome.output)


def test_a_fork_that_comes_to_the_end_prints_and_reports_nothing(run):
    """Both processes end as a script would; the result is that of the first one."""
    outcome = run("import os\nchild = os.fork()\nif child: os.waitpid(child, 0)\n"
                  "print('parent' if child else 'child')\n"
                  "__RESULT__ = ['parent' if child else 'child']")
    assert (COMPLETED, "child\nparent\n", ["parent"]) == (
        outcome.ending, outcome.output, result_of(outcome))


def test_threads_that_are_no_daemons_are_waited_for(run):
    """What they print and put into the result after the end of the main thread counts."""
    outcome = run("import threading\n__RESULT__ = []\ndef late():\n"
                  "    threading.main_thread().join()\n    print('late')\n"
                  "    __RESULT__.append('late')\nthreading.Thread(target=late).start()")
    assert (COMPLETED, "late\n", ["late"]) == (outcome.ending, outcome.output, result_of(outcome))


def test_handlers_at_exit_are_called(run):
    """atexit's, as at the end of any interpreter."""
    assert "at the end\n" == run("import atexit\natexit.register(print, 'at the end')").output


def test_a_command_can_use_processes_threads_and_loops_of_its_own(run):
    """What looks for `__main__`, handles SIGCHLD or joins at the end works as in any script."""
    outcome = run(
        "import asyncio, concurrent.futures, multiprocessing, pickle\n"
        "class Part: pass\ndef square(number): return number * number\n"
        "with multiprocessing.get_context('fork').Pool(2) as pool:\n"
        "    print(pool.map(square, [2, 3]))\n"
        "concurrent.futures.ThreadPoolExecutor().submit(print, 'thread')\n"
        "async def call():\n"
        "    process = await asyncio.create_subprocess_exec('echo', 'child', stdout=-1)\n"
        "    return (await process.communicate())[0].decode().strip()\n"
        "print(asyncio.run(call()), type(pickle.loads(pickle.dumps(Part()))).__name__)")
    assert (COMPLETED, ["[4, 9]", "child Part", "thread"]) == (
        outcome.ending, sorted(outcome.output.splitlines()))


def test_a_watcher_does_not_spin_when_a_command_has_closed_its_output(run):
    """Its time on the processor while the command goes on, in ticks of 10 ms."""
    outcome = run(
        "import os, time\ndef ticks():\n"
        "    fields = open(f'/proc/{os.getppid()}/stat').read().rpartition(')')[2].split()\n"
        "    return int(fields[11]) + int(fields[12])\n"
        "os.close(1)\nos.close(2)\nbefore = ticks()\ntime.sleep(0.3)\n"
        "__RESULT__ = [ticks() - before]")
    assert result_of(outcome)[0] < 10


def test_commands_leave_nothing_open(run, runner):
    """Neither here nor in the watcher (but for what the next command will need), however
    many there were and however they ended."""
    def open_files():
        return [len(os.listdir(f"/proc/{process}/fd"))
                for process in ("self", runner._process.pid)]

    run("pass")
    before = open_files()
    for source in ["print('x')", "raise ValueError", "import os; os.kill(os.getpid(), 9)"] * 10:
        run(source)
    assert all(now <= then + 6 for now, then in zip(open_files(), before))
    endings = [run("import os; os.kill(os.getppid(), 9)").ending for _ in range(3)]
    run("pass")
    assert ([CRASHED] * 3, before[0]) == (endings, open_files()[0])


# -- what it finds ------------------------------------------------------------------------

def test_a_command_is_a_script_of_its_own(run):
    """`__name__`, argv, stdin and a session of its own."""
    outcome = run("import os, sys\n__RESULT__ = [__name__, sys.modules['__main__'].__name__,"
                  " sys.argv, sys.stdin.read(), os.getsid(0) == os.getpid()]")
    assert ["__main__", "__main__", [""], "", True] == result_of(outcome)


def test_a_command_can_import_the_package_and_not_its_modules_by_bare_names(run):
    """`import remotes` works; `import errors` does not find ours."""
    outcome = run("from remotes.errors import RemotesError\n__RESULT__ = [RemotesError.kind]\n"
                  "import errors")
    assert (["failed"], "ModuleNotFoundError: No module named 'errors'") == (
        result_of(outcome), outcome.why)


def test_no_secret_is_in_the_environment_of_a_command(tmp_path):
    """Nor that of the watcher; the settings' path is there, and everything else."""
    secrets = {"REMOTES_TOKEN": "s1", "DUPLICATI_PASSWORD": "s2", "NOTIFY_SOCKET": "/s3"}
    runner = Runner("/path/settings.yml", environ={**os.environ, **secrets, "OTHER": "kept"})
    outcome = runner.run(
        "import os\n__RESULT__ = [dict(os.environ),"
        " open(f'/proc/{os.getppid()}/environ').read()]",
        settings={}, variables={}, timeout_seconds=30, name="c")
    runner.close()
    own, watchers = result_of(outcome)
    assert ("/path/settings.yml", "kept", []) == (
        own["REMOTES_SETTINGS"], own["OTHER"], [name for name in secrets if name in own])
    assert not any(name in watchers for name in secrets)


def test_proc_shows_neither_source_nor_values(run):
    """Command lines and environments of the command and of the watcher are anyone's to read."""
    outcome = run(
        "import os\n__RESULT__ = [open(f'/proc/{process}/{name}', 'rb').read()\n"
        "    for process in (os.getpid(), os.getppid()) for name in ('cmdline', 'environ')]"
        "  # needle-in-the-source", variables={"password": "needle-in-a-variable"})
    shown = "".join(result_of(outcome))
    assert "watcher.py" in shown and "needle" not in shown


def test_nothing_lies_in_the_temporary_folder(tmp_path):
    """Neither while a command runs nor afterwards, however much it prints."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    runner = Runner(str(tmp_path / "s.yml"), environ={**os.environ, "TMPDIR": str(folder)})
    outcome = runner.run(
        "import os, tempfile\nprint('x' * 2_000_000)\n"
        "__RESULT__ = [tempfile.gettempdir(), os.listdir(tempfile.gettempdir())]",
        settings={}, variables={}, timeout_seconds=30, name="c")
    runner.close()
    assert ([str(folder), []], []) == (result_of(outcome), os.listdir(folder))


# -- what is ended, and what is not --------------------------------------------------------

def test_a_time_out_is_told_and_keeps_the_output(run):
    """What was printed until then is sent."""
    outcome = run("import time\nprint('before', flush=True)\ntime.sleep(600)", 0.3)
    assert (TIMED_OUT, "before\n[timed_out] it took longer than its 0.3 s and was ended\n", []) == (
        outcome.ending, outcome.output, result_of(outcome))


def test_nothing_of_a_timed_out_command_is_alive(run, runner, mark):
    """Grandchildren that ignore SIGTERM, one of them in a session of its own."""
    outcome = run(IGNORES_SIGTERM + "print(*pids, flush=True)\ntime.sleep(600)", 3)
    pids = [int(word) for word in outcome.output.split("\n")[0].split()]
    assert (TIMED_OUT, 2) == (outcome.ending, len(pids))
    assert [runner._process.pid] == marked(mark)


def test_a_daemon_that_keeps_the_pipe_open_is_not_waited_for_and_not_ended(run, mark):
    """It outlives the command, and a later one that times out."""
    outcome = run("import subprocess\n__RESULT__ = [subprocess.Popen(['sleep', '600'],"
                  " start_new_session=True).pid]", 60)
    daemon = result_of(outcome)[0]
    later = run("import time\ntime.sleep(600)", 0.2)
    assert (COMPLETED, TIMED_OUT, True) == (outcome.ending, later.ending, is_alive(daemon))
    assert outcome.seconds < 30


def test_a_command_that_kills_its_watcher_is_a_crash_and_the_next_one_runs(run):
    """Another watcher is started; the command itself ends with the one it killed."""
    outcome = run("import os, time\nos.kill(os.getppid(), 9)\ntime.sleep(600)")
    assert (CRASHED, "[crashed] the process that watches it was brought down\n", []) == (
        outcome.ending, outcome.output, result_of(outcome))
    assert (COMPLETED, "next\n") == ((after := run("print('next')")).ending, after.output)


def test_a_command_that_stops_its_watcher_does_not_hold_the_client_for_good(
        run, mark, monkeypatch):
    """A watcher that says nothing past the time-out is taken for dead, and ended."""
    monkeypatch.setattr(runner_module, "_STOP_LIMIT_SECONDS", 0.3)
    outcome = run("import os, signal, time\nos.kill(os.getppid(), signal.SIGSTOP)\n"
                  "time.sleep(600)", 0.3)
    assert CRASHED == outcome.ending
    eventually(lambda: not marked(mark), "the end of the watcher and of the command")


@pytest.mark.parametrize("number", ["SIGKILL", "SIGSTOP"])
def test_nothing_of_a_command_outlives_the_watcher_it_brought_down(
        run, mark, monkeypatch, number):
    """Children in sessions of their own, deaf to SIGTERM: all are ended, a daemon is not."""
    monkeypatch.setattr(runner_module, "_STOP_LIMIT_SECONDS", 0.3)
    daemon = result_of(run("import subprocess\n__RESULT__ = [subprocess.Popen(['sleep', '600'],"
                           " start_new_session=True).pid]", 60))[0]
    outcome = run("import os, signal, subprocess, time\n"
                  "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
                  "subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
                  "if os.fork() == 0:\n    os.setsid()\n    time.sleep(600)\n"
                  f"os.kill(os.getppid(), signal.{number})\ntime.sleep(600)", 0.3)
    assert (CRASHED, {daemon}) == (outcome.ending, set(marked(mark)))


def test_a_watcher_that_ended_between_two_commands_is_replaced(run, runner):
    """Nobody's crash: the next command runs."""
    run("pass")
    runner._process.kill()
    runner._process.wait()
    assert "next\n" == run("print('next')").output


def test_nothing_is_left_when_a_runner_is_closed(run, runner, mark):
    """When `close` returns, the watcher is gone; closing twice does no harm."""
    run("pass")
    assert runner._process.pid in marked(mark)
    runner.close()
    runner.close()
    assert [] == marked(mark)


def client_script(tmp_path, body):
    """A client of its own that runs a command with grandchildren; `ready` is made by it."""
    source = (IGNORES_SIGTERM + f"open({str(tmp_path / 'ready')!r}, 'w').close()\n"
              "time.sleep(600)\n")
    return ("from remotes.runner import Runner\n"
            f"runner = Runner({str(tmp_path / 's.yml')!r})\n"
            f"def go(): runner.run({source!r}, settings={{}}, variables={{}},"
            " timeout_seconds=600, name='c')\n" + body)


def start_client(tmp_path, mark, body):
    process = subprocess.Popen(
        [sys.executable, "-c", client_script(tmp_path, body)], cwd=PROJECT, text=True,
        env={**os.environ, mark: "1"}, stdout=subprocess.PIPE)
    eventually((tmp_path / "ready").exists, "the command to begin")
    return process


def test_a_client_that_is_killed_takes_the_command_along(tmp_path, mark):
    """SIGKILL to the client: its watcher, the command and all grandchildren end."""
    with start_client(tmp_path, mark, "go()") as client:
        assert 5 == len(marked(mark))
        client.kill()
    eventually(lambda: not marked(mark), "the end of everything that was started")


def test_an_interrupted_run_ends_its_command_first(tmp_path, mark):
    """When the exception leaves `run`, nothing of the command is alive."""
    body = ("from tests.processes import marked\nimport os\ntry:\n    go()\n"
            f"except KeyboardInterrupt:\n    print(marked({mark!r}) == [os.getpid()])\n")
    with start_client(tmp_path, mark, body) as client:
        client.send_signal(signal.SIGINT)
        assert "True\n" == client.stdout.read()


@pytest.mark.parametrize("source, ending", [
    ("import time\nprint('before', flush=True)\ntime.sleep(600)", INTERRUPTED),
    ("print('before')", COMPLETED),
])
def test_a_stop_leaves_a_command_its_grace(tmp_path, source, ending):
    """One that ends within it is completed; another is ended, and told as interrupted."""
    stop, beats = StopFlag(1.0 if ending == INTERRUPTED else 30.0), []
    stop.beat, stop.beat_seconds = lambda: beats.append(1), 0.05
    stop.request()
    runner = Runner(str(tmp_path / "s.yml"), stop=stop)
    outcome = runner.run(source, settings={}, variables={}, timeout_seconds=60, name="c")
    runner.close()
    stop.close()
    assert (ending, True) == (outcome.ending, outcome.output.startswith("before\n"))
    assert beats


# -- without fork (Windows), as far as it can be run here -----------------------------------

@pytest.fixture
def run_without_fork(runner, monkeypatch):
    monkeypatch.delattr(os, "fork")

    def run(source, timeout_seconds=30):
        return runner.run(source, settings={"a": "1"}, variables={}, name="<command 7>",
                          timeout_seconds=timeout_seconds)
    return run


def test_without_fork_a_command_has_the_same_outcome(run_without_fork):
    """Output, settings, result; stderr cannot be told apart there."""
    outcome = run_without_fork("import sys\nprint('out')\nprint(__SETTINGS__['a'])\n"
                               "__RESULT__ = [__name__]")
    assert (COMPLETED, "out\n1\n", ["__main__"]) == (
        outcome.ending, outcome.output, result_of(outcome))


def test_without_fork_a_failure_keeps_result_and_traceback(run_without_fork):
    """And a closed stdout does not lose them."""
    outcome = run_without_fork("import sys\n__RESULT__ = [1]\nsys.stdout.close()\nraise OSError(2)")
    assert (FAILED, "OSError: 2", [1]) == (outcome.ending, outcome.why, result_of(outcome))
    assert "    raise OSError(2)\n" in outcome.output


def test_without_fork_a_time_out_ends_the_child(run_without_fork, mark):
    """And what it printed is kept."""
    outcome = run_without_fork("import time\nprint('before', flush=True)\ntime.sleep(600)", 1.0)
    assert (TIMED_OUT, True, []) == (
        outcome.ending, outcome.output.startswith("before\n"), marked(mark))


def test_without_fork_a_large_output_and_a_large_result_arrive(run_without_fork):
    """Both larger than a pipe."""
    outcome = run_without_fork(
        "for _ in range(30): print('x' * 100_000)\n__RESULT__ = ['y' * 65_000]")
    assert (COMPLETED, 65_004, True) == (
        outcome.ending, len(outcome.result), "bytes are missing here" in outcome.output)


def test_without_fork_a_child_that_dies_is_a_crash(run_without_fork):
    """Nothing it could say is waited for."""
    outcome = run_without_fork("import os\nos.kill(os.getpid(), 9)")
    assert (CRASHED, []) == (outcome.ending, result_of(outcome))
