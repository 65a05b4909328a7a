"""Waiting for an agent that must not be waited for any longer."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

from triagekit.launching import forwarding
from triagekit.launching.processes import children_of, start_child
from triagekit.signals import STOP_SIGNALS

SLEEP = [sys.executable, "-c", "import time; time.sleep(120)"]


def test_an_agent_whose_other_node_failed_is_ended_after_a_while(monkeypatch, tmp_path):
    monkeypatch.setattr(forwarding, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(forwarding, "GRACE_SECONDS", 0.5)
    failed = tmp_path / "failed"
    agent = start_child(SLEEP, os.environ)
    threading.Timer(0.5, failed.touch).start()
    with forwarding.SignalForwarding() as waiting:
        assert waiting.wait_for(agent, failure_elsewhere=failed) == -signal.SIGKILL
    assert waiting.signal_number is None


def test_what_is_not_worth_saving_ends_at_the_first_signal():
    agent = start_child(SLEEP, os.environ)
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGUSR2)).start()
    with forwarding.SignalForwarding() as waiting:
        assert waiting.wait_for(agent, forward=False) == -signal.SIGKILL
    assert waiting.signal_number == signal.SIGUSR2 and not waiting.at_once


def test_handlers_are_put_back():
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    with forwarding.SignalForwarding():
        assert signal.getsignal(signal.SIGTERM) not in before
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


def test_children_are_found_whatever_their_name():
    agent = start_child([sys.executable, "-c", "import time; time.sleep(60)", ") S 1 ("], os.environ)
    until = time.monotonic() + 20
    while agent.pid not in children_of(os.getpid()):
        assert time.monotonic() < until
    agent.kill()
    agent.wait()
    assert agent.pid not in children_of(os.getpid())
