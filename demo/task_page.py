"""The page of a task server, for people."""
from demo.serving import Answer


def answer(state, target: str) -> Answer:
    """The page at a target."""
    return Answer(200, {"Content-Type": "text/html; charset=utf-8"}, b"<!DOCTYPE html>\n")
