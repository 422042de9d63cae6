"""Property: the first Ctrl-C asks, the second insists, the system's signals ask, and afterwards all is what it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from mldec.engine.distributed import ProcessGroup
from mldec.engine.interrupt import PREEMPTIONS, Interrupted, pass_on, stop_on_interrupt
from mldec.engine.trainer import Trainer


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


@pytest.mark.parametrize("signum", PREEMPTIONS)
def test_the_system_asks_as_often_as_it_likes(signum):
    before = signal.getsignal(signum)
    with stop_on_interrupt() as stop:
        assert stop.exit_code == 130
        for _ in range(3):
            os.kill(os.getpid(), signum)
        with pytest.raises(Interrupted):
            stop.check()
        assert stop.exit_code == 75
    assert signal.getsignal(signum) == before


def test_away_from_the_main_thread_signals_stay_as_they_are():
    seen = []

    def work():
        with stop_on_interrupt() as stop:
            seen.append(stop.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]


@pytest.mark.parametrize("signum", PREEMPTIONS)
def test_what_the_system_asks_reaches_children_that_live(signum):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    running = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    with pass_on([ended, running]) as stop:
        assert not stop.requested
        os.kill(os.getpid(), signum)
        assert running.wait(timeout=30) == -signum
        assert (stop.requested, stop.exit_code) == (True, 75)
    assert signal.getsignal(signum) == signal.SIG_DFL


class Slow(ProcessGroup):
    """Two processes whose vote takes so long that a request comes meanwhile."""

    def any(self, flag: bool) -> bool:
        os.kill(os.getpid(), signal.SIGTERM)
        return flag


def test_a_request_during_a_vote_is_neither_lost_nor_acted_upon_alone() -> None:
    trainer = SimpleNamespace(group=Slow(size=2))
    with stop_on_interrupt() as trainer.stop:
        assert not Trainer._should_stop(trainer)  # type: ignore[arg-type]  # the other process has the same answer
        assert trainer.stop.requested
        assert Trainer._should_stop(trainer)  # type: ignore[arg-type]
        assert trainer.stop.exit_code == 75
