"""`triage doctor` and `triage site` as commands: exit codes, JSON, and on a login node that has only the core packages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import yaml

from triagekit.cli.main import main

CORE = [
    "pydantic",
    "pydantic_core",
    "annotated_types",
    "typing_extensions.py",
    "typing_inspection",
    "yaml",
    "_yaml",
    "rich",
    "pygments",
    "markdown_it",
    "mdurl",
]


@pytest.fixture
def without_slurm(monkeypatch, tmp_path):
    """No Slurm command, no nvidia-smi, whatever this machine has."""
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.fixture(scope="module")
def login_node(tmp_path_factory, checkout):
    """Run `triage …` in a Python that has the core dependencies and nothing else: no torch, no transformers, no numpy."""
    packages = tmp_path_factory.mktemp("core")
    installed = Path(sysconfig.get_paths()["purelib"])
    for name in CORE:
        if (installed / name).exists():
            (packages / name).symlink_to(installed / name)
    script = f"import sys; sys.path[:0] = [{str(checkout / 'src')!r}, {str(packages)!r}]\n"
    script += "from triagekit.cli.main import main; sys.exit(main(sys.argv[1:]))"

    def triage(*words, folder=None, **variables):
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(packages), "TMPDIR": "/tmp"} | variables
        return subprocess.run(
            [sys.executable, "-S", "-c", script, *words],
            capture_output=True,
            text=True,
            timeout=120,
            env=environment,
            cwd=folder,
        )

    return triage


def test_doctor_on_this_machine(capsys, without_slurm, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert main(["doctor"]) == 0
    page = capsys.readouterr().out
    for section in ("Python", "Packages", "GPUs", "Libraries", "Slurm", "Folders", "Offline"):
        assert section in page
    assert "an NF4 layer computes on" in page and "ships with triagekit" in page
    assert page.strip().splitlines()[-1].startswith("0 problems")


def test_doctor_in_a_bare_python_is_quick_to_say_what_is_missing(login_node):
    done = login_node("doctor", "--json")
    answer = json.loads(done.stdout)
    assert done.returncode == 0 and answer["ok"], done.stdout + done.stderr
    assert {"Python", "GPUs", "Slurm", "Folders", "Offline"} <= {item["section"] for item in answer["findings"]}
    assert "Libraries" not in {item["section"] for item in answer["findings"]}


def test_doctor_fails_when_the_base_that_is_to_be_used_is_not_here(login_node, tmp_path):
    done = login_node("doctor", "--base", "someone/a-model", "--json", HF_HOME=str(tmp_path))
    findings = json.loads(done.stdout)["findings"]
    problems = [item for item in findings if item["status"] == "problem"]
    assert done.returncode == 1
    assert [(item["section"], item["name"]) for item in problems] == [("Offline", "base someone/a-model")]
    assert f"HF_HOME={tmp_path} hf download someone/a-model" in problems[0]["fix"]


def test_doctor_looks_at_the_folders_of_a_site(login_node, tmp_path):
    site = tmp_path / "mine.yaml"
    (tmp_path / "file").write_text("")
    site.write_text(f"name: mine\nrungs: {{cpu: {{}}}}\nscratch: {tmp_path}/file/below\n")
    done = login_node("doctor", "--site", str(site))
    assert done.returncode == 1 and "site's scratch" in done.stdout and "PROBLEM" in done.stdout
    assert login_node("doctor", "--site", "genric").returncode == 2


def test_sites_are_listed_and_shown_on_a_login_node(login_node):
    listed = login_node("site", "list", "--json")
    names = [item["name"] for item in json.loads(listed.stdout)]
    assert {"csf", "generic", "test"} <= set(names)
    assert all(name in login_node("site", "list").stdout for name in names)
    shown = login_node("site", "show", "generic")
    assert yaml.safe_load(shown.stdout) == json.loads(login_node("site", "show", "generic", "--json").stdout)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with a prepared data set, as an earlier job would have left it."""
    folder = tmp_path_factory.mktemp("work")
    tickets, data = str(folder / "tickets.jsonl"), str(folder / "data")
    assert main(["data", "generate", "--rows", "120", "--seed", "1", "--out", tickets]) == 0
    assert main(["data", "prepare", "it_tickets", "--source", tickets, "--out", data]) == 0
    return folder


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["plan", "lora", "data=data", "--gpus", "1xT4"], "Chosen: 16GB-T4"),
        (["plan", "lora", "data=data", "--site", "generic"], "Chosen: 2xA100"),
        (["submit", "train", "lora", "data=data", "--site", "generic", "--dry-run"], "#SBATCH --gres=gpu:a100:2"),
        (
            ["submit", "score", "default", "archive=tickets.jsonl", "run=r", "out=o", "--site", "test", "--dry-run"],
            "srun",
        ),
        (["jobs", "--json", "--run-root", "data"], "["),
    ],
)
def test_a_login_node_plans_and_writes_jobs_without_torch_or_slurm(login_node, prepared, words, expected, tmp_path):
    done = login_node(*words, PATH=f"{tmp_path}", folder=prepared)
    assert done.returncode == 0 and expected in done.stdout, done.stdout + done.stderr


def test_what_is_shown_is_itself_a_profile(capsys, tmp_path):
    assert main(["site", "show", "csf"]) == 0
    mine = tmp_path / "mine.yaml"
    mine.write_text(capsys.readouterr().out)
    assert main(["site", "show", str(mine), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "csf"


def test_check_without_slurm_is_refused_with_what_to_do(capsys, without_slurm):
    assert main(["site", "check", "generic"]) == 2
    error = capsys.readouterr().err
    assert "no 'scontrol' on this machine" in error and "login node" in error


def test_neither_command_imports_torch():
    script = (
        "import sys\nfrom triagekit.cli.main import main\n"
        "main(['site', 'list'])\nfrom triagekit.cluster.doctor import examine\n"
        "import triagekit.cluster.site_check\n"
        "heavy = [name for name in ('torch', 'transformers', 'numpy', 'deepspeed') if name in sys.modules]\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr
