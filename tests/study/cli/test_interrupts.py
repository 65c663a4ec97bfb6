"""Signals as exceptions."""

import os
import signal
import sys
import weakref
from typing import Any

import pytest

from study.cli.interrupts import Interrupted, Interrupts


class Thing:
    pass


def test_a_signal_that_python_ignores_is_raised_at_the_next_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dropped: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: dropped.append(args.exc_type))

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


def test_cleanup_after_a_signal_is_not_interrupted_by_it() -> None:
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


def test_a_second_signal_during_cleanup_waits_for_a_write() -> None:
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
