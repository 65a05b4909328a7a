"""Devices: read from words such as `2xA100-80GB`, or found on this machine, without importing torch here."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from triagekit.errors import Problem, ProblemsError, did_you_mean
from triagekit.files.resources import find_config
from triagekit.files.yaml_file import load_yaml

GIGABYTE = 10**9
MEBIBYTE = 2**20
NO_BFLOAT16_BELOW = 20
"""Of a card known by its memory alone: smaller ones are taken for Turing (7.5), the last without bfloat16 units."""

_DRIVER_FILES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/proc/driver/nvidia/version")
_SECONDS = 20
_CHILD_SECONDS = 180
_TORCH_QUERY = """
import json, torch
count = torch.cuda.device_count() if torch.cuda.is_available() else 0
cards = [torch.cuda.get_device_properties(index) for index in range(count)]
print(json.dumps([[card.name, card.total_memory, [card.major, card.minor]] for card in cards]))
"""


@dataclass(frozen=True)
class Device:
    """One GPU, or all of a machine's CPU cores. `memory_bytes` is what the driver (or the system) reports in total;
    `capability` is CUDA's (major, minor), None on a CPU."""

    name: str
    kind: Literal["cuda", "cpu"]
    memory_bytes: int
    capability: tuple[int, int] | None


def parse_devices(text: str) -> tuple[Device, ...]:
    """Devices of `2xA100-80GB`, `a100:2`, `T4`, `1x4GB`, `cpu`, or several of these with commas between.

    Names come from `configs/hardware/cards.yaml`; any memory such as `12GB` is a card too. Raises ProblemsError with
    every word that is not understood and the nearest card.
    """
    devices: list[Device] = []
    problems: list[Problem] = []
    for word in (part.strip() for part in text.split(",")):
        match = re.fullmatch(r"(?:(\d+)\s*[xX*]\s*)?(.+?)(?::(\d+))?", word)
        if not match:
            problems.append(Problem(f"devices '{text}'", "a device is missing.", "For example: 2xA100-80GB"))
            continue
        before, name, after = match.groups()
        count = int(before or after or 1)
        device = cpu_device() if name.casefold() == "cpu" else _card(name)
        if device is None:
            problems.append(Problem(f"devices '{text}'", f"no card '{name}'.", did_you_mean(name, _cards())))
        elif count < 1 or (before and after):
            problems.append(Problem(f"devices '{text}'", f"'{word}' gives no valid count.", "For example: 2xA100-80GB"))
        else:
            devices.extend([device] * count)
    if problems:
        raise ProblemsError("The devices cannot be read:", problems)
    return tuple(devices)


def detect_devices() -> tuple[Device, ...]:
    """The GPUs that a process started here would see, in its order; () when there is none.

    CUDA_VISIBLE_DEVICES is honoured. `nvidia-smi` is asked first; where it cannot tell (MIG slices, old drivers), torch
    is asked in a child process.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not any(Path(name).exists() for name in _DRIVER_FILES) or (
        visible is not None and visible.strip() in {"", "-1"}
    ):
        return ()
    cards = _ask_nvidia_smi()
    chosen = None if cards is None else _visible(cards, visible)
    return _ask_torch() if chosen is None else chosen


def cpu_device() -> Device:
    """This machine's CPU with the memory that this process may use: the system's, or its control group's if less."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        limit = Path(name).read_text(encoding="ascii").strip() if Path(name).is_file() else ""
        if limit.isdigit():
            memory = min(memory, int(limit))
    return Device(_processor(), "cpu", memory, None)


def same_card(first: str, second: str) -> bool:
    """Whether two names mean the same card: spelt alike but for vendor, case and punctuation, or aliases of one entry."""
    return _entry(first) == _entry(second)


def _entry(name: str) -> str:
    wanted = _plain(name)
    for own_name, card in _cards().items():
        if wanted in {_plain(own_name), *(_plain(alias) for alias in card.get("aliases", []))}:
            return str(own_name)
    return wanted


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "CPU"


def _cards() -> dict[str, Any]:
    """Known cards by name: {"memory_mib", "capability", "aliases"}."""
    cards: dict[str, Any] = load_yaml(find_config("hardware", "cards")).data["cards"]
    return cards


def _card(name: str) -> Device | None:
    wanted = _plain(name)
    card = _cards().get(_entry(name))
    if card is not None:
        return Device(_entry(name), "cuda", card["memory_mib"] * MEBIBYTE, _capability(card["capability"]))
    size = re.fullmatch(r"(\d+(?:\.\d+)?)gi?b?", wanted)
    if not size:
        return None
    gigabytes = float(size[1])
    capability = (7, 5) if gigabytes < NO_BFLOAT16_BELOW else (8, 0)
    return Device(f"{size[1]}GB card", "cuda", int(gigabytes * 1024) * MEBIBYTE, capability) if gigabytes else None


def _plain(name: str) -> str:
    return re.sub(r"nvidia|geforce|tesla|quadro|[^a-z0-9.]", "", name.casefold())


def _capability(value: float | str) -> tuple[int, int]:
    major, _, minor = str(value).partition(".")
    return int(major), int(minor or 0)


def _ask_nvidia_smi() -> list[tuple[str, Device]] | None:
    """(UUID, device) of each card by index; None when there is no answer to rely on."""
    words = ["nvidia-smi", "--query-gpu=uuid,name,memory.total,compute_cap", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_SECONDS, check=True)
        found = []
        for line in done.stdout.strip().splitlines():
            uuid, name, memory, capability = (cell.strip() for cell in line.rsplit(",", 3))
            found.append((uuid, Device(name, "cuda", int(memory) * MEBIBYTE, _capability(capability))))
        return found
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def _visible(cards: list[tuple[str, Device]], visible: str | None) -> tuple[Device, ...] | None:
    """The cards that CUDA_VISIBLE_DEVICES leaves, by CUDA's rules; None where nvidia-smi's list does not hold them."""
    if visible is None:
        return tuple(device for _, device in cards)
    chosen: list[Device] = []
    for word in (part.strip() for part in visible.split(",")):
        if word.startswith("MIG"):
            return None
        if word.isdigit() and int(word) < len(cards):
            chosen.append(cards[int(word)][1])
            continue
        by_uuid = [device for uuid, device in cards if word.startswith("GPU-") and uuid.startswith(word)]
        if len(by_uuid) != 1:
            # CUDA sees only the devices before the first that is not valid.
            break
        chosen.append(by_uuid[0])
    return tuple(chosen)


def _ask_torch() -> tuple[Device, ...]:
    try:
        done = subprocess.run(
            [sys.executable, "-c", _TORCH_QUERY], capture_output=True, text=True, timeout=_CHILD_SECONDS, check=True
        )
        cards = json.loads(done.stdout.strip().splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return ()
    return tuple(Device(name, "cuda", memory, (major, minor)) for name, memory, (major, minor) in cards)
