"""Which rung a start takes on which devices, and what it says."""

from __future__ import annotations

import pytest

from triagekit.errors import TriageError
from triagekit.hardware.devices import parse_devices
from triagekit.launching import choose
from triagekit.training.settings import TrainSettings


@pytest.fixture
def on(monkeypatch):
    """Choose with these devices; gives the choice and what was said."""

    def make(devices, nodes=1, **hardware):
        monkeypatch.setattr(choose, "detect_devices", lambda: parse_devices(devices) if devices else ())
        monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
        said = []
        settings = TrainSettings.model_validate({"base": "embedded", "data": "d", "hardware": hardware})
        return choose.choose_rung(settings, nodes, said.append), said

    return make


def test_a_machine_without_gpu_says_one_line(on):
    choice, said = on("")
    assert choice.force.rung.name == "cpu" and choice.force.lower == ()
    assert said == ["Rung cpu: no GPU was found."]
    assert any(line.startswith("2xA100: ") for line in choice.force.passed_over)


def test_two_cards_take_the_best_rung_and_keep_the_rest_below(on):
    choice, said = on("2xA100-80GB")
    assert choice.force.rung.name == "2xA100" and choice.force.passed_over == ()
    assert [rung.name for rung in choice.force.lower][:1] == ["1xA100"]
    assert len(said) == 1 and said[0].startswith("Rung 2xA100 on 2 × ")


def test_one_card_says_why_two_are_passed_over(on):
    choice, said = on("1xT4")
    assert choice.force.rung.name == "16GB-T4"
    assert len(said) == 1 and "Passed over: 2xA100: needs 2 GPUs" in said[0]


def test_a_named_rung_is_taken_or_refused_with_the_reason(on):
    choice, said = on("2xA100-80GB", rung="24GB")
    assert choice.force.rung.name == "24GB" and said[0].startswith("Rung 24GB, as asked for, on 2 × ")
    with pytest.raises(TriageError, match="needs 2 GPUs"):
        on("1xT4", rung="2xA100")
    with pytest.raises(TriageError, match="1xA100"):
        on("1xT4", rung="1xA10")


def test_nodes_must_be_those_of_the_rung(on):
    with pytest.raises(TriageError, match="needs 1 node, but this start has 2"):
        on("2xA100-80GB", nodes=2, rung="2xA100")
    with pytest.raises(TriageError, match=r"hardware\.rung=NAME"):
        on("2xA100-80GB", nodes=2)
    with pytest.raises(TriageError, match=r"hardware\.rung=NAME"):
        on("2xA100-80GB", nodes=2, rung="none")
