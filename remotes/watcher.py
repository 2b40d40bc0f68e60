"""The other end of the runner's pipe: starts commands, reads them, ends them.

A bare interpreter that runs this file alone and imports nothing of the package. It
gets commands on its standard input and forks: the child becomes the command, this
process reads what it prints. The child of the next command is forked while the client
delivers the last one's result. When the client is gone (the pipe ends), everything that
the command has started is ended, and so is this process.

Guards: that memory stays bounded whatever is printed; that a timed-out command ends
whole, sessions of its own included (Linux: all orphans come back to this process, the
subreaper); that nothing of the command lies on the disk. What a command that ended by
itself leaves running is its own affair: then this process retires, so that it is
never taken for a part of a later command.

Messages, both ways: 8 bytes of length, big-endian, then JSON; the reply is followed by
the bytes of output and errors. Leaves alone: what an outcome means.
"""

import datetime
import functools
import json
import math
import os
import pathlib
import select
import signal
import struct
import sys
import time
import traceback
import types

TERM_GRACE_SECONDS = 2.0
KILL_LIMIT_SECONDS = 5.0
# What a pipe holds. A much larger buffer would be mapped anew for each read.
_CHUNK_BYTES = 1 << 16
# How much more than is kept may pile up before it is cut.
_PILE_BYTES = 1 << 20
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_MOST_DEPTH = 100
# State, length of the ending (JSON text), length of the result (JSON text).
_REPORT_HEAD = struct.Struct("=BII")
_ENDING_BYTES = 4096


@functools.cache
def _prctl():
    """Linux's prctl, or None. Looked up by the watcher only: it takes ctypes."""
    import ctypes

    try:
        return ctypes.CDLL(None).prctl if sys.platform == "linux" else None
    except OSError:
        return None


# -- messages ---------------------------------------------------------------------

def read_exactly(descriptor, length):
    """`length` bytes of a pipe; EOFError if it ends before."""
    chunks = []
    while length:
        chunk = os.read(descriptor, min(length, _CHUNK_BYTES))
        if not chunk:
            raise EOFError
        chunks.append(chunk)
        length -= len(chunk)
    return b"".join(chunks)


def read_message(descriptor):
    """One JSON message from a pipe; EOFError if the other end is gone."""
    (length,) = struct.unpack("!Q", read_exactly(descriptor, 8))
    return json.loads(read_exactly(descriptor, length))


def pack_message(message):
    """One JSON message as bytes."""
    text = json.dumps(message).encode()
    return struct.pack("!Q", len(text)) + text


def write_exactly(descriptor, content):
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view):]


# -- in the child: the command ------------------------------------------------------

class Report:
    """Where the command's end and result are left: memory shared with the watcher.

    Memory, since a command may close every descriptor that it has. The state byte is
    written last: what is not whole was never said.
    """

    def __init__(self, result_limit):
        self._result_limit = result_limit
        import mmap  # the client, too, imports this file, and needs none

        self._memory = mmap.mmap(-1, _REPORT_HEAD.size + _ENDING_BYTES + result_limit)

    def write(self, ending, result):
        """Notes how the command ended (dict) and its result (JSON text, ASCII)."""
        content = result.encode()
        if len(content) > self._result_limit:
            ending, content = {**ending, "result_bytes": len(content)}, b"[]"
        text = json.dumps(ending).encode()[:_ENDING_BYTES]
        start = _REPORT_HEAD.size
        self._memory[start:start + len(text)] = text
        self._memory[start + len(text):start + len(text) + len(content)] = content
        self._memory[:start] = _REPORT_HEAD.pack(1, len(text), len(content))

    def read(self):
        """(ending, result) or (None, "[]") if the command has not said how it ended."""
        start = _REPORT_HEAD.size
        is_written, text_length, result_length = _REPORT_HEAD.unpack(self._memory[:start])
        try:
            if is_written:
                ending = json.loads(self._memory[start:start + text_length])
                content = self._memory[start + text_length:start + text_length + result_length]
                return ending, content.decode()
        except ValueError:
            pass
        return None, "[]"

    def close(self):
        self._memory.close()


def plain_text(value):
    """Text that a database takes: no NUL, no lone surrogate."""
    return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode() \
        if value.isascii() else _without_surrogates(value.replace("\0", "\ufffd"))


def _without_surrogates(value):
    return "".join("\ufffd" if "\ud800" <= letter <= "\udfff" else letter for letter in value)


def to_plain(value, ancestors=()):
    """A value as JSON can hold it; anything at all gives something.

    Dates and times: ISO 8601; paths, numbers of other kinds and unknown things: their
    text; bytes: text, undecodable ones replaced; sets: lists, sorted if they can be;
    NaN and infinities: their names; a container within itself: "[...]".
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, str):
        return plain_text(str(value))
    if isinstance(value, (bytes, bytearray, memoryview)):
        return plain_text(bytes(value).decode("utf-8", "replace"))
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, pathlib.PurePath):
        return plain_text(str(value))
    if isinstance(value, (dict, list, tuple, set, frozenset)):
        if id(value) in ancestors or len(ancestors) >= _MOST_DEPTH:
            return "[...]"
        return _container_to_plain(value, (*ancestors, id(value)))
    return plain_text(str(value))


def _container_to_plain(value, ancestors):
    if isinstance(value, dict):
        return {plain_text(str(name)): to_plain(part, ancestors) for name, part in value.items()}
    if isinstance(value, (set, frozenset)):
        try:
            value = sorted(value)
        except TypeError:
            value = list(value)
    return [to_plain(part, ancestors) for part in value]


def result_text(value):
    """`__RESULT__` as the JSON text of a list (protocol page, "Commands").

    None at the top of the list becomes "" (null breaks the server).
    """
    parts = value if isinstance(value, list) else [value]
    plain = []
    for part in parts[:]:
        try:
            converted = to_plain(part, (id(parts),))
            text = json.dumps("" if converted is None else converted)
        except Exception as error:  # a `__str__` of the command's own may do anything
            text = json.dumps(f"<{type(part).__name__}: {type(error).__name__}>")
        plain.append(text)
    return "[" + ", ".join(plain) + "]"


def _run_source(request, report):
    """Runs the command's source as `__main__`; leaves its end in `report`. Its exit status."""
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    names = module.__dict__
    names.update(__SETTINGS__=request["settings"], __VARIABLES__=request["variables"],
                 __RESULT__="", __builtins__=__builtins__)
    source, file_name = request["source"], request["file_name"]
    import linecache

    # So that a traceback shows the command's lines, though they are in no file.
    linecache.cache[file_name] = (len(source), None, source.splitlines(True), file_name)
    own_process = os.getpid()
    ending, status = {"how": "completed"}, 0
    try:
        exec(compile(source, file_name, "exec", dont_inherit=True), names)
    except SystemExit as leaving:
        if leaving.code is not None and leaving.code != 0:
            status = leaving.code if isinstance(leaving.code, int) else 1
            ending = {"how": "failed", "why": _one_line(f"sys.exit({leaving.code!r:.200})")}
            if not isinstance(leaving.code, int):
                _say(str(leaving.code) + "\n")
    except BaseException as error:
        status = 1
        ending = {"how": "failed", "why": _told(error)}
        _say_traceback(error)
    _finish_threads()
    if os.getpid() != own_process:
        _finish_process(status)  # a fork of the command came here, too: it reports nothing
    result = names.get("__RESULT__", [])
    if status and isinstance(result, str) and not result:
        result = []
    report.write(ending, result_text(result))
    return status


def _told(error):
    try:
        return _one_line(f"{type(error).__name__}: {error}".rstrip(": "))
    except Exception:
        return type(error).__name__


def _one_line(text):
    """Text of the command's own as one line that a server and a terminal take."""
    text = plain_text(" ".join(text.split()))[:300]
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


def _say(text):
    try:
        sys.stderr.write(text)
    except Exception:
        pass  # the command has closed it


def _say_traceback(error):
    try:
        # The first frame is that of this file, which is none of the reader's business.
        trace = error.__traceback__.tb_next if error.__traceback__ else None
        _say("".join(traceback.format_exception(type(error), error, trace)))
    except Exception:
        _say(type(error).__name__ + "\n")


def _finish_threads():
    """What an interpreter does at its end: waits for threads that are no daemons."""
    threading = sys.modules.get("threading")
    try:
        if threading is not None:
            threading._shutdown()
    except BaseException as error:
        _say_traceback(error)


def _finish_process(status):
    """The rest of an interpreter's end: handlers, buffers; never returns."""
    import atexit

    try:
        atexit._run_exitfuncs()
    except BaseException as error:
        _say_traceback(error)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BaseException:
            pass
    os._exit(status & 0xFF)


def become_command(source, report, output, errors):
    """In the fresh child: descriptors, session, then the command that comes through the
    pipe `source`. Never returns.
    """
    try:
        for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.set_wakeup_fd(-1)
        os.setsid()
        prctl = _prctl()
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(output, 1)
        os.dup2(errors, 2)
        os.dup2(source, 3)
        os.closerange(4, 1 << 16)
        _open_streams()
        sys.argv = [""]
        _own_pages()
        try:
            request = read_message(3)
        except EOFError:
            os._exit(0)  # no command came
        os.close(3)
        try:
            status = _run_source(request, report)
        except BaseException as error:  # a `__str__` or `__repr__` of its own did that
            _say_traceback(error)
            status = 70
        _finish_process(status)
    finally:
        os._exit(70)


def _own_pages():
    """Does once what every command needs. Each page of memory that is written to for the
    first time after a fork is copied: so that is done before the command is there.
    """
    exec(compile("pass\n", "<command>", "exec"), {})
    result_text([""])


def _open_streams():
    """Python's streams over descriptors 0, 1 and 2; text that is no UTF-8 is spelled out."""
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", errors="replace", closefd=False)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        stream = open(descriptor, "w", buffering=1 if descriptor == 2 else -1, encoding="utf-8",
                      errors="backslashreplace", closefd=False)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


# -- in the watcher: reading and ending -----------------------------------------------

class Capture:
    """The first and the last bytes of a stream: at most `limit` bytes of each."""

    def __init__(self, limit):
        self.total = 0
        self._limit = limit
        self._head = bytearray()
        self._tail = bytearray()

    def take(self, chunk):
        self.total += len(chunk)
        room = self._limit - len(self._head)
        if room > 0:
            self._head += chunk[:room]
        self._tail += chunk[max(room, 0):]
        if len(self._tail) > self._limit + _PILE_BYTES:
            self._forget()

    def _forget(self):
        """What came before the last bytes. Seldom: it moves all that stay."""
        del self._tail[:max(0, len(self._tail) - self._limit)]

    def parts(self):
        """(head, tail) as bytes; what is missing between them is `total` less their sizes."""
        self._forget()
        return bytes(self._head), bytes(self._tail)


class Stream:
    """The reading end of a pipe, never waited for, and what it gave: `capture`."""

    def __init__(self, descriptor, limit):
        self.descriptor = descriptor
        self.capture = Capture(limit)
        os.set_blocking(descriptor, False)

    def read(self):
        """Takes what is there; False at the stream's end."""
        try:
            chunk = os.read(self.descriptor, _CHUNK_BYTES)
        except BlockingIOError:
            return True
        self.capture.take(chunk)
        return bool(chunk)

    def drain(self):
        """Takes what is still in the pipe, and no more than a pipe can hold."""
        for _ in range(64):
            before = self.capture.total
            if not self.read() or self.capture.total == before:
                break


def process_table():
    """{process: (its parent, whether it is a zombie)} of this system (Linux; else empty)."""
    table = {}
    try:
        names = os.listdir("/proc")
    except OSError:
        return table
    for name in names:
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as stream:
                    fields = stream.read().rpartition(b")")[2].split()
            except OSError:
                continue
            if len(fields) > 1:
                table[int(name)] = (int(fields[1]), fields[0] == b"Z")
    return table


def children():
    """The processes whose parent this one is, zombies included."""
    return {process for process, (parent, _) in process_table().items() if parent == os.getpid()}


def descendants(spared=()):
    """The processes below this one, zombies left out, and those below `spared`, too."""
    table = process_table()
    below = {}
    for process, (parent, _) in table.items():
        below.setdefault(parent, []).append(process)
    found, waiting = [], [os.getpid()]
    while waiting:
        fresh = [process for process in below.get(waiting.pop(), []) if process not in spared]
        found += fresh
        waiting += fresh
    return [process for process in found if not table[process][1]]


def become_subreaper():
    """Makes this process the parent of whatever is orphaned below it (Linux)."""
    prctl = _prctl()
    if prctl is not None:
        prctl(_PR_SET_CHILD_SUBREAPER, 1)


def signal_all(child, number):
    """Sends `number` to the command's session and to everything below this process."""
    try:
        os.killpg(child, number)
    except OSError:
        pass
    for process in descendants():
        try:
            os.kill(process, number)
        except OSError:
            pass


def reap(child):
    """(the child's wait status or None, whether no children are left), without waiting."""
    status = None
    while True:
        try:
            process, found = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return status, True
        if process == 0:
            return status, False
        if process == child:
            status = found


class Watch:
    """One running command: its child, its streams, its deadline."""

    def __init__(self, child, streams, deadline, wake):
        self.child = child
        self.streams = streams
        self.deadline = deadline
        self.reason = "timed_out"
        self.status = None
        self.is_alone = False  # no children at all are left
        self._wake = wake

    def _wait(self, until, also=()):
        """Waits for output, a child's end or `until`; gives which of `also` are ready."""
        seconds = max(0.0, min(until - time.monotonic(), 3600.0))
        sources = [stream.descriptor for stream in self.streams]
        ready, _, _ = select.select([*sources, self._wake, *also], [], [], seconds)
        if self._wake in ready:
            os.read(self._wake, 4096)
        self.streams = [stream for stream in self.streams
                        if stream.descriptor not in ready or stream.read()]
        status, self.is_alone = reap(self.child)
        self.status = status if status is not None else self.status
        return [source for source in also if source in ready]

    def until_ended(self, control):
        """Waits until the command ends by itself (True) or its time is over (False)."""
        while self.status is None:
            if time.monotonic() >= self.deadline:
                return False
            if self._wait(self.deadline, (control,)):
                # The only message for a running command: how long it may still take.
                message = read_message(control)
                sooner = time.monotonic() + message["seconds"]
                if sooner < self.deadline:
                    self.deadline, self.reason = sooner, "interrupted"
        return True

    def end_all(self, grace_seconds):
        """Ends the command and all that it started: first by a word, then by force."""
        started = time.monotonic()
        if grace_seconds:
            signal_all(self.child, signal.SIGTERM)
        while not self.is_alone:
            now = time.monotonic()
            if now - started > grace_seconds + KILL_LIMIT_SECONDS:
                break  # a process that not even SIGKILL ends hangs in the kernel
            if now - started >= grace_seconds:
                signal_all(self.child, signal.SIGKILL)
                self._wait(now + 0.01)
            else:
                self._wait(started + grace_seconds)


class Child:
    """A process that waits for a command and becomes it."""

    def __init__(self, result_limit):
        self.result_limit = result_limit
        self.report = Report(result_limit)
        self.output, output = os.pipe()
        self.errors, errors = os.pipe()
        source, self._source = os.pipe()
        self.process = os.fork()
        if self.process == 0:
            become_command(source, self.report, output, errors)
        for descriptor in (output, errors, source):
            os.close(descriptor)

    def start(self, request):
        """Hands the command over. If the child is dead, its wait status will tell."""
        try:
            write_exactly(self._source, pack_message(request))
        except BrokenPipeError:
            pass
        os.close(self._source)

    def is_ready_for(self, request):
        """Whether it is still there, and what it shares has the size that is asked for."""
        if reap(self.process)[0] is not None:
            self.process = None
        return self.process is not None and self.result_limit == request["result_limit"]

    def discard(self):
        """Ends a child that no command came for."""
        for descriptor in (self.output, self.errors, self._source):
            os.close(descriptor)
        self.report.close()
        if self.process is not None:
            os.kill(self.process, signal.SIGKILL)  # a zombie takes it, too
            os.waitpid(self.process, 0)


def run_command(child, request, control, wake):
    """Runs one command to its end; gives (reply as it is sent, its fields)."""
    report = child.report
    started = time.monotonic()
    child.start(request)
    streams = [Stream(descriptor, request["output_limit"])
               for descriptor in (child.output, child.errors)]
    watch = Watch(child.process, streams, started + request["timeout"], wake)
    try:
        has_ended = watch.until_ended(control)
    except EOFError:  # the client is gone
        watch.end_all(0)
        os._exit(1)
    seconds = time.monotonic() - started
    if not has_ended:
        watch.end_all(TERM_GRACE_SECONDS)
    for stream in streams:
        stream.drain()
        os.close(stream.descriptor)
    ending, result = report.read()
    report.close()
    reply = {"seconds": seconds, "status": watch.status, "ending": ending, "result": result,
             "reason": None if has_ended else watch.reason, "retires": not watch.is_alone}
    return pack_reply(reply, [stream.capture for stream in streams]), reply


def pack_reply(reply, captures):
    """A reply with what was captured: sizes in the message, bytes behind it."""
    parts = [capture.parts() for capture in captures]
    reply["streams"] = [[len(head), len(tail), capture.total]
                        for (head, tail), capture in zip(parts, captures)]
    return pack_message(reply) + b"".join(head + tail for head, tail in parts)


def main():
    """Serves commands until the client is gone, or one has left something running."""
    # The project's folder in place of this file's: commands may import the package,
    # and must not find its modules under bare names.
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    sys.modules["watcher"] = sys.modules["__main__"]
    become_subreaper()
    wake, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the client decides; it is gone or it says so
    _serve(0, 1, wake)


def _serve(control, replies, wake):
    """Runs what comes on `control` and writes to `replies` what became of it."""
    child = None
    while True:
        try:
            request = read_message(control)
        except EOFError:
            break
        if "source" not in request:
            continue  # a word for a command that has ended meanwhile
        if child is not None and not child.is_ready_for(request):
            child.discard()
            child = None
        child = child or Child(request["result_limit"])
        packed, reply = run_command(child, request, control, wake)
        write_exactly(replies, packed)
        if reply["retires"]:
            return
        # After one that had to be ended, often no other follows.
        child = Child(request["result_limit"]) if reply["reason"] is None else None
    if child is not None:
        child.discard()


def run_once():
    """Without fork: this process becomes the one command that it reads (Windows).

    The client reads its output itself and ends it at its timeout.
    """
    request = read_message(0)
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    report = Report(request["result_limit"])
    channel = os.dup(2)
    os.dup2(1, 2)
    _open_streams()
    status = _run_source(request, report)
    ending, result = report.read()
    write_exactly(channel, pack_message({"ending": ending, "result": result}))
    os.close(channel)
    _finish_process(status)


if __name__ == "__main__":
    run_once() if sys.argv[1:] == ["once"] else main()
