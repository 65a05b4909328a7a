"""Reading and finding devices."""

from __future__ import annotations

import json
import subprocess

import pytest

from triagekit.errors import ProblemsError
from triagekit.hardware import devices
from triagekit.hardware.devices import Device, detect_devices, parse_devices, same_card

SMI = """\
GPU-11111111-aaaa, NVIDIA A100-SXM4-80GB, 81920, 8.0
GPU-22222222-bbbb, Tesla T4, 15360, 7.5
GPU-22233333-cccc, NVIDIA L4, 23034, 8.9
"""


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("2xA100-80GB", ["A100-80GB"] * 2),
        ("a100:2", ["A100-40GB"] * 2),
        ("T4", ["T4"]),
        ("2 x NVIDIA A100-SXM4-80GB", ["A100-80GB"] * 2),
        ("1xT4,a10g", ["T4", "A10"]),
        ("Tesla T4", ["T4"]),
        ("1x4GB", ["4GB card"]),
        ("12gib", ["12GB card"]),
    ],
)
def test_words_become_devices(text, names):
    assert [device.name for device in parse_devices(text)] == names


def test_cards_have_memory_and_capability():
    a100, t4, small, cpu = parse_devices("A100-80GB,T4,4GB,cpu")
    assert (a100.memory_bytes, a100.capability) == (81920 * 2**20, (8, 0))
    assert (t4.memory_bytes, t4.capability) == (15360 * 2**20, (7, 5))
    assert (small.memory_bytes, small.capability) == (4 * 2**30, (7, 5))
    assert cpu.kind == "cpu" and cpu.capability is None and cpu.memory_bytes > 2**28
    assert parse_devices("80GB")[0].capability == (8, 0)


def test_every_wrong_word_is_named_at_once():
    with pytest.raises(ProblemsError) as error:
        parse_devices("2xA1000,T4,B7,,0xT4")
    text = str(error.value)
    assert len(error.value.problems) == 4
    assert "no card 'A1000'. Did you mean 'A10'?" in text
    assert "'B7'" in text and "a device is missing" in text and "'0xT4' gives no valid count" in text


def test_names_of_one_card():
    assert same_card("NVIDIA A100-SXM4-80GB", "A100-80GB")
    assert not same_card("A100-80GB", "A100-40GB")
    assert same_card("Intel(R) Xeon(R) 6", "intel(r) xeon(r) 6")


@pytest.fixture
def smi(monkeypatch):
    """A machine with three cards, as nvidia-smi tells it; asked() counts the child processes."""
    asked = []

    def run(words, **options):
        asked.append(words[0])
        if words[0] != "nvidia-smi":
            return subprocess.CompletedProcess(words, 0, json.dumps([["MIG slice", 10 * 2**30, [8, 0]]]) + "\n", "")
        return subprocess.CompletedProcess(words, 0, SMI, "")

    monkeypatch.setattr(devices, "_DRIVER_FILES", ("/",))
    monkeypatch.setattr(devices.subprocess, "run", run)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return asked


def test_all_cards_are_found_without_torch(smi):
    found = detect_devices()
    assert [device.name for device in found] == ["NVIDIA A100-SXM4-80GB", "Tesla T4", "NVIDIA L4"]
    assert found[1] == Device("Tesla T4", "cuda", 15360 * 2**20, (7, 5))
    assert smi == ["nvidia-smi"]


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        ("1", ["Tesla T4"]),
        ("2,0", ["NVIDIA L4", "NVIDIA A100-SXM4-80GB"]),
        ("GPU-1111", ["NVIDIA A100-SXM4-80GB"]),
        ("0,7,1", ["NVIDIA A100-SXM4-80GB"]),
        ("GPU-222", []),
        ("-1", []),
        ("", []),
    ],
)
def test_cuda_visible_devices_is_honoured_as_cuda_does(smi, monkeypatch, visible, names):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [device.name for device in detect_devices()] == names


def test_mig_slices_are_asked_of_torch_in_a_child(smi, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-9a8b")
    assert detect_devices() == (Device("MIG slice", "cuda", 10 * 2**30, (8, 0)),)
    assert len(smi) == 2


def test_old_drivers_that_do_not_tell_the_capability(smi, monkeypatch):
    asked = []

    def run(words, **options):
        asked.append(words[0])
        if words[0] == "nvidia-smi":
            raise subprocess.CalledProcessError(2, words)
        return subprocess.CompletedProcess(words, 0, json.dumps([["Tesla V100", 16 * 2**30, [7, 0]]]) + "\n", "")

    monkeypatch.setattr(devices.subprocess, "run", run)
    assert [device.capability for device in detect_devices()] == [(7, 0)]
    assert len(asked) == 2


def test_no_driver_means_no_devices_and_no_question(monkeypatch):
    monkeypatch.setattr(devices, "_DRIVER_FILES", ("/no/such/file",))
    monkeypatch.setattr(devices.subprocess, "run", lambda *words, **options: pytest.fail("asked without a driver"))
    # A scheduler's variable alone makes no card.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert detect_devices() == ()
