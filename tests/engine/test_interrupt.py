"""Property: the first Ctrl-C asks, the second insists, and afterwards Ctrl-C is what it was."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from mldec.engine.interrupt import Interrupted, stop_on_interrupt


def test_the_first_asks_and_the_second_insists():
    before = signal.getsignal(signal.SIGINT)
    with stop_on_interrupt() as stop:
        stop.check()
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested
        with pytest.raises(Interrupted):
            stop.check()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before


def test_away_from_the_main_thread_signals_stay_as_they_are():
    seen = []

    def work():
        with stop_on_interrupt() as stop:
            seen.append(stop.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
