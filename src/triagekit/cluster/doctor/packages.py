"""Python and the installed packages: each against what the others ask for. Read from metadata, nothing is imported."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Sequence
from importlib import metadata

from triagekit.cluster.doctor.finding import Finding

OWN_NAME = "triagekit"
OLDEST_PYTHON = (3, 11)

TESTED = {
    "torch": "2.13.0",
    "transformers": "5.23.0",
    "peft": "0.21.2",
    "trl": "1.16.0",
    "accelerate": "1.15.0",
    "datasets": "5.2.0",
    "bitsandbytes": "0.50.2",
    "deepspeed": "0.19.8",
    "ray": "2.60.0",
    "tokenizers": "0.23.3",
    "huggingface_hub": "2.4.0",
    "safetensors": "0.8.0",
    "submitit": "1.5.4",
}
"""The stack, at the versions that this release's own tests ran with (constraints.txt)."""

EXTRAS = {
    "data": "prepare data",
    "train": "fine-tune",
    "score": "score archives with Ray",
    "serve": "records over HTTP",
    "compare": "the report",
    "cluster": "the launchers in jobs/",
    "deepspeed": "the ZeRO rungs",
    "export": "merged models, GGUF",
}


def check_python() -> list[Finding]:
    """The interpreter: its version and where it lives."""
    version = platform.python_version()
    where = "an environment of its own" if sys.prefix != sys.base_prefix else "the system's or conda's own environment"
    detail = f"{version} ({sys.prefix}, {where})"
    if sys.version_info[:2] < OLDEST_PYTHON:
        wanted = ".".join(map(str, OLDEST_PYTHON))
        fix = f"Make the environment with Python {wanted} or newer: python{wanted} -m venv .venv"
        return [Finding("Python", "version", "problem", f"{detail}; {wanted} or newer is needed", fix)]
    return [Finding("Python", "version", "ok", detail)]


def check_packages(path: list[str] | None = None) -> list[Finding]:
    """Versions of the stack, unfilled requirements between its members, and extras that are not installed.

    `path` is where to look for installed packages (default: sys.path).
    """
    stack = {name: found for name in TESTED if (found := find_package(name, path))}
    findings = [_check_version(name, package, path) for name, package in stack.items()]
    findings.extend(_check_absent(path, [name for name in TESTED if name not in stack]))
    own = find_package(OWN_NAME, path)
    if own is not None:
        findings.extend(_check_extras(own, path))
    return findings


def find_package(name: str, path: list[str] | None = None) -> metadata.Distribution | None:
    """The installed distribution of that name, or None."""
    return next(iter(metadata.Distribution.discover(name=name, path=sys.path if path is None else path)), None)


def _check_version(name: str, package: metadata.Distribution, path: list[str] | None) -> Finding:
    version = package.version
    unfilled = [text for asker in (OWN_NAME, *TESTED) for text in _unfilled(asker, name, version, path)]
    if unfilled:
        wanted = _requirement_for(name, unfilled)
        asked = ", ".join(unfilled)
        fix = f"pip install {wanted}   (tested: {name}=={TESTED[name]})"
        return Finding("Packages", name, "problem", f"{version}, but {asked}", fix)
    if _series(version) > _series(TESTED[name]):
        detail = f"{version}, newer than the tested {TESTED[name]}"
        return Finding("Packages", name, "note", detail, f"If something fails: pip install {name}=={TESTED[name]}")
    return Finding("Packages", name, "ok", version)


def _check_absent(path: list[str] | None, absent: Sequence[str]) -> list[Finding]:
    """Members of the stack that another installed member cannot do without."""
    findings = []
    for name in absent:
        askers = [
            asker
            for asker in TESTED
            if (package := find_package(asker, path))
            and any(
                _canonical(_name_of(line)) == _canonical(name) and ";" not in line for line in package.requires or ()
            )
        ]
        if askers:
            detail = f"not installed, but {' and '.join(askers)} cannot do without"
            findings.append(Finding("Packages", name, "problem", detail, f"pip install {name}=={TESTED[name]}"))
    return findings


def _unfilled(asker: str, name: str, version: str, path: list[str] | None) -> list[str]:
    """What `asker` asks of `name` that `version` does not fill, e.g. `trl 1.16.0 asks for transformers>=4.56.2`."""
    package = find_package(asker, path)
    if package is None or asker == name:
        return []
    texts = set()
    for line in package.requires or ():
        # Every member of the stack but torch itself depends on packaging, so it is there when there is a pair to check;
        # the pattern keeps a bare login node from needing it.
        if _canonical(_name_of(line)) != _canonical(name):
            continue
        from packaging.requirements import Requirement

        requirement = Requirement(line)
        # Extras of triagekit count whoever asked for them; those of other packages are optional features.
        extras = EXTRAS if asker == OWN_NAME else ("",)
        applies = requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in extras)
        if applies and not requirement.specifier.contains(version, prereleases=True):
            texts.add(f"{asker} {package.version} asks for {name}{requirement.specifier}")
    return sorted(texts)


def _requirement_for(name: str, unfilled: Sequence[str]) -> str:
    limits = {text.rpartition(f" {name}")[2] for text in unfilled}
    return f"'{name}{','.join(sorted(limits))}'"


def _check_extras(own: metadata.Distribution, path: list[str] | None) -> list[Finding]:
    members = {extra: _members(own, extra) for extra in EXTRAS}
    findings = []
    for extra, purpose in EXTRAS.items():
        missing = sorted(name for name in members[extra] if find_package(name, path) is None)
        if missing:
            detail = f"not for use here yet ({purpose}): {', '.join(missing)} not installed"
            findings.append(Finding("Packages", f"extra {extra}", "note", detail, f"pip install '{OWN_NAME}[{extra}]'"))
        elif members[extra]:
            findings.append(Finding("Packages", f"extra {extra}", "ok", f"complete ({purpose})"))
    return findings


def _members(own: metadata.Distribution, extra: str) -> set[str]:
    mark = re.compile(rf"extra\s*==\s*['\"]{extra}['\"]")
    return {_name_of(line) for line in own.requires or () if mark.search(line)}


def _name_of(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    return match.group() if match else ""


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _series(version: str) -> tuple[int, ...]:
    """Major version, with the minor one below 1.0, where minor releases change interfaces."""
    numbers = [int(part) for part in re.findall(r"\d+", version)[:2]]
    return tuple(numbers) if numbers[:1] == [0] else tuple(numbers[:1])
