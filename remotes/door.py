"""The door: the only place that prints answers, and turns failures into exit codes.

Guards: one JSON document on stdout, whatever happens; one line on stderr for a failure.
Leaves alone: what leads to an answer or a failure.
"""

import os
import sys

EXIT_FAULT = 70
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))
            if chr(code) not in "\t\n"}


def ending_signals():
    """The signals that end a run, those of them that this system has."""
    import signal  # not at the top: it takes as long to import as the rest of `--help`

    return [getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGINT")
            if hasattr(signal, name)]


class Door:
    """Where everything leaves: answers to stdout, lines to stderr, failures to a code."""

    def __init__(self, environ):
        self.form = "json"
        self.debug = False
        self.action_name = None
        self.quiet_faults = None
        self.has_emitted = False
        self.masked = lambda document: document  # takes the secrets out of what leaves
        self.environ = environ

    def tell(self, line):
        # Lines bear what servers say: no control character of theirs reaches a terminal.
        line = self.masked(line).translate(_CONTROL)
        try:
            print(line, file=sys.stderr, flush=True)
        except (OSError, ValueError):
            pass  # nobody listens; the work goes on

    def emit(self, event):
        from remotes import rendering

        self.has_emitted = True
        self.write(rendering.event_line(self.masked(event)))

    def write(self, text):
        """Writes text to stdout. False if nobody takes it any more."""
        try:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()
            return True
        except BrokenPipeError:
            # `| head`: not our failure. Python would complain once more at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return True
        except (OSError, ValueError) as error:
            self.tell(f"client: the answer cannot be written to stdout: {error}")
            return False

    def answer(self, document, exit_code):
        from remotes import rendering

        if document is None:  # a monitor: it has told everything already
            return exit_code
        document = self.masked(document)
        # Behind events, a monitor's failure is a line like them.
        text = rendering.event_line(document) if self.has_emitted \
            else rendering.render(document, self.form)
        is_written = self.write(text)
        return exit_code if is_written or exit_code else 1

    def _trace(self, error):
        """The traceback of an error: what a library says of an address can hold secrets."""
        import traceback

        from remotes.duplicati.masking import masked_text

        return masked_text("".join(traceback.format_exception(error)).rstrip())

    def fail(self, error):
        """The answer and the line for a failure of ours."""
        if self.debug:
            self.tell(self._trace(error))
        message = self.masked(str(error))
        if self.quiet_faults is None or self.quiet_faults.begins(error.kind, message):
            self.tell(f"client: {self.action_name or 'usage'}: {message}")
        return self.answer(error.as_document(), error.exit_code)

    def fault(self, error):
        """A fault of this program: never silent, never a traceback alone."""
        import traceback

        trace = traceback.extract_tb(error.__traceback__)
        place = f"{os.path.basename(trace[-1].filename)}:{trace[-1].lineno}" if trace else "?"
        message = f"a fault of this program: {type(error).__name__}: {error} ({place})"
        if self.debug:
            self.tell(self._trace(error))
        self.tell(f"client: {self.action_name or 'start'}: {message}; --debug shows where")
        document = {"status": "ERROR", "exit": EXIT_FAULT, "kind": "fault", "message": message}
        return self.answer(document, EXIT_FAULT)

    def interrupted(self, error):
        import signal

        number = error.number
        for ending in ending_signals():
            signal.signal(ending, signal.SIG_IGN)  # one is enough
        name = signal.Signals(number).name
        self.tell(f"client: {self.action_name or 'start'}: ended by {name}")
        document = {"status": "ERROR", "exit": 128 + number, "kind": "interrupted",
                    "message": f"ended by {name}", **error.document}
        return self.answer(document, 128 + number)
