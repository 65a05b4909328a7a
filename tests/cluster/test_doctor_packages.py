"""The packages section of `triage doctor`, on folders of installed packages made for the test."""

from __future__ import annotations

import re

import pytest

from triagekit.cluster.doctor.packages import TESTED, check_packages, check_python, find_package

TRIAGEKIT = [
    "torch>=2.6; extra == 'train'",
    "transformers>=5.5; extra == 'train'",
    "trl>=1.5; extra == 'train'",
    "torch>=2.6; extra == 'score'",
    "ray>=2.50; extra == 'score'",
    "deepspeed>=0.18; extra == 'deepspeed'",
]


@pytest.fixture
def install(tmp_path):
    """install(name, version, *requirements): a package as pip would leave it, as far as metadata goes."""

    def add(name, version, *requirements):
        folder = tmp_path / f"{name}-{version}.dist-info"
        folder.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        lines += [f"Requires-Dist: {requirement}" for requirement in requirements]
        (folder / "METADATA").write_text("\n".join(lines) + "\n")

    add("triagekit", "1.0", "pyyaml>=6.0", *TRIAGEKIT)
    return add


def of(tmp_path):
    return {finding.name: finding for finding in check_packages([str(tmp_path)])}


def test_a_login_node_with_nothing_has_notes_with_the_command_that_installs(install, tmp_path):
    found = of(tmp_path)
    assert {finding.status for finding in found.values()} == {"note"}
    assert found["extra train"].fix == "pip install 'triagekit[train]'"
    assert "torch, transformers, trl not installed" in found["extra train"].detail
    assert found["extra deepspeed"].fix == "pip install 'triagekit[deepspeed]'"


def test_a_good_stack_is_fine(install, tmp_path):
    install("torch", TESTED["torch"] + "+cu130")
    install("transformers", TESTED["transformers"])
    install("trl", TESTED["trl"], "transformers>=4.56.2", "liger-kernel>=9; extra == 'liger'")
    found = of(tmp_path)
    assert [found[name].status for name in ("torch", "transformers", "trl", "extra train")] == ["ok"] * 4
    assert found["torch"].detail.endswith("+cu130") and found["extra score"].detail.count("ray") == 1


def test_pairs_that_do_not_go_together_are_problems(install, tmp_path):
    install("torch", "2.5.1")
    install("transformers", "6.0.0", "tokenizers<0.24.0,>=0.23.1", "huggingface-hub<3.0,>=1.31.0")
    install("tokenizers", "0.24.0")
    install("huggingface_hub", "0.30.0")
    install("trl", "1.5.0", "transformers<6,>=4.56.2", "accelerate>=1.4", "datasets; python_version < '3'")
    found = of(tmp_path)
    assert found["torch"].status == "problem" and "triagekit 1.0 asks for torch>=2.6" in found["torch"].detail
    assert found["transformers"].fix.startswith("pip install 'transformers<6,>=4.56.2'")
    assert "transformers 6.0.0 asks for tokenizers<0.24.0,>=0.23.1" in found["tokenizers"].detail
    assert found["huggingface_hub"].status == "problem"
    assert found["accelerate"].detail == "not installed, but trl cannot do without"
    assert found["accelerate"].fix == f"pip install accelerate=={TESTED['accelerate']}"
    assert found["trl"].status == "ok" and "datasets" not in found


def test_newer_than_tested_is_only_noted(install, tmp_path):
    install("peft", "0.99.0")
    install("ray", "3.1.0")
    install("trl", "1.99.0")
    found = of(tmp_path)
    assert [found[name].status for name in ("peft", "ray", "trl")] == ["note", "note", "ok"]
    assert found["ray"].fix == f"If something fails: pip install ray=={TESTED['ray']}"


def test_the_tested_versions_are_those_of_the_constraints_file(checkout):
    text = (checkout / "constraints.txt").read_text()
    pinned = dict(re.findall(r"^([\w-]+)==(\S+)$", text, flags=re.MULTILINE))
    assert {name: pinned[name] for name in TESTED} == TESTED


def test_the_extras_are_those_of_the_package(checkout):
    from triagekit.cluster.doctor.packages import EXTRAS

    text = (checkout / "pyproject.toml").read_text()
    section = text.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    named = set(re.findall(r"^(\w+) = \[", section, flags=re.MULTILINE))
    assert set(EXTRAS) == named - {"all", "dev"}


def test_this_environment():
    assert find_package("triagekit") is not None
    assert [finding.status for finding in check_python()] == ["ok"]
    assert not [finding for finding in check_packages() if finding.status == "problem"]
