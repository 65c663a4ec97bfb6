"""Signals as exceptions, wherever they arrive."""

import os
import signal
import sys
import weakref
from typing import Any

import pytest

from study.cli.interrupts import Interrupted, Interrupts


class Thing:
    pass


def test_a_signal_that_python_drops_comes_through_at_the_next_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dropped: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda found: dropped.append(found.exc_type))

    def work() -> None:
        with Interrupts() as interrupts:
            thing = Thing()
            watched = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.SIGTERM))
            del thing
            assert watched() is None
            assert dropped == [Interrupted]
            with interrupts.deferred(), interrupts.allowed():
                pytest.fail("the signal is lost")

    with pytest.raises(Interrupted, match="SIGTERM") as stop:
        work()
    assert stop.value.exit_code == 143


def test_what_tidies_up_after_a_signal_is_not_disturbed_by_it() -> None:
    done = []

    def work() -> None:
        with Interrupts() as interrupts:
            try:
                with interrupts.deferred(), interrupts.allowed():
                    os.kill(os.getpid(), signal.SIGINT)
                    pytest.fail("nothing was raised")
            finally:
                with interrupts.deferred():
                    done.append("written")
                interrupts.pause(0.0)
                done.append("closed")

    with pytest.raises(Interrupted, match="SIGINT"):
        work()
    assert done == ["written", "closed"]


def test_a_second_signal_while_tidying_up_waits_for_a_write() -> None:
    done = []

    def work() -> None:
        with Interrupts() as interrupts:
            try:
                os.kill(os.getpid(), signal.SIGINT)
            finally:
                with interrupts.deferred():
                    os.kill(os.getpid(), signal.SIGTERM)
                    done.append("written")

    with pytest.raises(Interrupted, match="SIGTERM"):
        work()
    assert done == ["written"]
