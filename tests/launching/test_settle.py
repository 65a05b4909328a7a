"""Probing down the ladder: said, kept, agreed on by all nodes."""

from __future__ import annotations

import json
import threading

import pytest

from triagekit.errors import TriageError
from triagekit.hardware.ladder import Rung
from triagekit.launching import settle
from triagekit.launching.probe import ProbeResult, probe_settings
from triagekit.launching.rendezvous import Rendezvous
from triagekit.launching.rung_in_force import RungInForce
from triagekit.training.run_folder import RunFolder
from triagekit.training.settings import TrainSettings

RUNGS = [Rung.model_validate({"name": name, "memory_gb": 4, "precision": "fp32"}) for name in ("a", "b", "c")]
FORCE = RungInForce(RUNGS[0], ("top: no GPU",), tuple(RUNGS[1:]))


def settings(**changes):
    return TrainSettings.model_validate({"data": "d", "hardware": {"probe": "always"}, **changes})


@pytest.fixture
def fits(monkeypatch):
    """Rungs that fit, and the list of those that were tried."""

    def make(*names):
        tried = []

        def probe(settings, force):
            tried.append(force.rung.name)
            return ProbeResult(True, 7) if force.rung.name in names else ProbeResult(False, None, "full")

        monkeypatch.setattr(settle, "probe", probe)
        return tried

    return make


def test_down_to_the_first_that_fits_and_why_is_kept(fits, tmp_path):
    tried, notes = fits("b", "c"), []
    force = settle.settle_rung(settings(), FORCE, "T4", RunFolder(tmp_path), None, notes.append)
    assert (force.rung.name, tried) == ("b", ["a", "b"])
    assert force.passed_over == ("top: no GPU", "a: out of memory in a probe of the longest batch (full)")
    assert "Rung a runs out of memory (full); going down to b." in notes


def test_a_second_start_probes_nothing_unless_something_changed(fits, tmp_path):
    folder = RunFolder(tmp_path)
    tried = fits("b")
    for wanted, here, count in [
        (settings(), "T4", 2),
        (settings(), "T4", 2),
        (settings(), "L4", 4),
        (settings(prompt={"max_length": 64}), "T4", 6),
    ]:
        assert settle.settle_rung(wanted, FORCE, here, folder, None, lambda text: None).rung.name == "b"
        assert len(tried) == count
    assert len(json.loads((tmp_path / "probe.json").read_text(encoding="utf-8"))["probes"]) == 6


def test_no_rung_left_says_what_to_do(fits, tmp_path):
    fits()
    with pytest.raises(TriageError, match="max_length"):
        settle.settle_rung(settings(), FORCE, "T4", RunFolder(tmp_path), None, lambda text: None)


def test_a_probe_only_where_asked_for(fits, tmp_path):
    tried = fits("a", "b", "c")
    on_cpu = RungInForce(RUNGS[0].model_copy(update={"count": 0}))
    folder = RunFolder(tmp_path)
    for wanted, force, count in [("never", FORCE, 0), ("auto", on_cpu, 0), ("auto", FORCE, 1), ("always", on_cpu, 2)]:
        settle.settle_rung(settings(hardware={"probe": wanted}), force, "x", folder, None, lambda text: None)
        assert len(tried) == count, wanted


def test_a_rung_that_is_too_much_for_one_node_is_left_by_all(monkeypatch, tmp_path):
    node = threading.local()
    monkeypatch.setattr(
        settle, "probe", lambda settings, force: ProbeResult(force.rung.name != "a" or node.number == 1, 5)
    )
    found = {}

    def start(number):
        node.number = number
        place = Rendezvous(2, number, "n0", 15000, "job-0")
        found[number] = settle.settle_rung(settings(), FORCE, "x", RunFolder(tmp_path), place, lambda text: None)

    threads = [threading.Thread(target=start, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert {number: force.rung.name for number, force in found.items()} == {0: "b", 1: "b"}


def test_the_probe_takes_the_rungs_rows_and_two_steps():
    wide = settings(
        batch={"effective": 32, "micro": 32, "eval": 64},
        epochs=9,
        class_weights={"x": "balanced"},
        labels_alone_share=0.3,
    )
    rung = RUNGS[0].model_copy(
        update={"count": 2, "nodes": 2, "micro_batch": 4, "sharding": "ddp", "launcher": "2nodes_ddp"}
    )
    own = probe_settings(wide, rung)
    assert (own.batch.micro, own.batch.effective, own.max_steps) == (4, 8, 2)
    assert own.batch.eval == 8 and own.precision == "fp32" and own.class_weights == {}
    assert own.labels_alone_share == 0, "the longest rows are those with their text"
