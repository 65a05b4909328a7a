"""What `triage doctor` makes of GPUs, drivers, and libraries that were tried in a child process."""

from __future__ import annotations

import json
import os

import pytest

from triagekit.cluster.doctor.graphics import Driver, check_devices, check_driver, read_driver
from triagekit.cluster.doctor.libraries import check_bitsandbytes, check_deepspeed, check_torch
from triagekit.cluster.doctor.trials import Trials
from triagekit.hardware.devices import Device

GIBIBYTE = 1024**3
A100 = Device("NVIDIA A100-SXM4-80GB", "cuda", 80 * GIBIBYTE, (8, 0))
T4 = Device("Tesla T4", "cuda", 15 * GIBIBYTE, (7, 5))
K80 = Device("Tesla K80", "cuda", 11 * GIBIBYTE, (3, 7))
GOOD_CARD = {"name": "A100", "capability": [8, 0], "computes": True}
DRIVER = Driver("550.54.15", "12.4")

SMI = """Sat Jan  3 10:00:00 2026
+-----------------------------------------------------------------------------------------+
| NVIDIA-SMI 550.54.15              Driver Version: 550.54.15      CUDA Version: 12.4     |
"""


@pytest.fixture
def fake_smi(tmp_path, monkeypatch):
    def make(script):
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    return make


def torch_answer(**other):
    return {"trial": "torch", "ok": True, "cuda": "12.4", "architectures": ["sm_80"], "cards": [GOOD_CARD]} | other


def only(findings):
    assert len(findings) == 1
    return findings[0]


def test_the_driver_as_nvidia_smi_shows_it(fake_smi):
    fake_smi(f"cat <<'END'\n{SMI}END")
    assert read_driver() == DRIVER
    assert "550.54.15, runs CUDA up to 12.4" in only(check_driver(DRIVER, [A100])).detail


def test_an_nvidia_smi_that_fails_is_a_problem_only_where_a_driver_is_loaded(fake_smi, monkeypatch, tmp_path):
    fake_smi("echo 'NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver' >&2; exit 9")
    assert read_driver() is None
    monkeypatch.setattr("triagekit.cluster.doctor.graphics.DRIVER_FILES", (str(tmp_path / "nvidia-smi"),))
    assert only(check_driver(None, [])).status == "problem"
    monkeypatch.setattr("triagekit.cluster.doctor.graphics.DRIVER_FILES", (str(tmp_path / "nvidiactl"),))
    assert only(check_driver(None, [])).status == "note"


def test_real_and_emulated_bfloat16():
    lines = [finding.detail for finding in check_devices([A100, T4, K80])]
    assert lines[0] == "NVIDIA A100-SXM4-80GB, 80.0 GiB, capability 8.0, real bfloat16"
    assert "capability 7.5, bfloat16 only emulated" in lines[1] and "too old for 4-bit" not in lines[1]
    assert lines[2].endswith("too old for 4-bit weights")


def test_no_gpu_is_a_problem_only_where_slurm_gave_one(monkeypatch):
    for name in ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    assert only(check_devices([])).status == "note"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "CUDA_VISIBLE_DEVICES hides them all" in only(check_devices([])).detail
    monkeypatch.setenv("SLURM_JOB_GPUS", "0,1")
    monkeypatch.setenv("SLURMD_NODENAME", "g7")
    given = only(check_devices([]))
    assert given.status == "problem" and given.fix.endswith("--exclude=g7")


@pytest.mark.parametrize(
    ("answer", "driver", "status", "words"),
    [
        (torch_answer(), DRIVER, "ok", "computes on 1 of 1"),
        (torch_answer(cuda=None, cards=[]), DRIVER, "problem", "CPU build on a machine with 1 GPU"),
        (torch_answer(cuda="13.0", cards=[]), DRIVER, "problem", "driver 550.54.15 runs CUDA up to 12.4"),
        (torch_answer(cuda="12.8"), DRIVER, "ok", "CUDA 12.8"),
        (torch_answer(cards=[]), DRIVER, "problem", "sees 0 of 1 GPUs"),
        (
            torch_answer(cards=[GOOD_CARD | {"computes": False, "error": "no kernel image"}]),
            None,
            "problem",
            "no kernel",
        ),
        ({"trial": "torch", "ok": False, "error": "libcudart.so.12 missing"}, DRIVER, "problem", "libcudart.so.12"),
        ({"trial": "torch", "ok": False, "error": "no answer", "late": True}, DRIVER, "problem", "no answer"),
    ],
)
def test_torch_against_driver_and_cards(answer, driver, status, words):
    finding = only(check_torch(answer, "2.13.0", [A100], driver))
    assert finding.status == status and words in finding.detail
    assert bool(finding.fix) == (status == "problem")


def test_torch_on_a_machine_without_gpus_is_fine_whatever_its_build():
    assert only(check_torch(torch_answer(cards=[]), "2.13.0", [], None)).status == "ok"
    assert "CPU build" in only(check_torch(torch_answer(cards=[], cuda=None), "2.13.0", [], None)).detail


def test_bitsandbytes_must_give_about_the_exact_product():
    answer = {"trial": "bitsandbytes", "ok": True, "device": "cuda", "relative_difference": 0.09}
    assert only(check_bitsandbytes(answer, "0.50.2")).status == "ok"
    assert only(check_bitsandbytes(answer | {"relative_difference": 0.7}, "0.50.2")).status == "problem"
    assert only(check_bitsandbytes(answer | {"relative_difference": float("nan")}, "0.50.2")).status == "problem"
    failed = {"trial": "bitsandbytes", "ok": False, "error": "no libbitsandbytes_cuda124.so"}
    assert "libbitsandbytes_cuda124" in only(check_bitsandbytes(failed, "0.50.2")).detail


def test_deepspeed_is_needed_by_few_and_its_cuda_home_by_fewer(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_HOME", raising=False)
    assert only(check_deepspeed(None, None)).status == "note"
    fine = only(check_deepspeed({"trial": "deepspeed", "ok": True, "version": "0.19.8", "device": "cpu"}, "0.19.8"))
    assert fine.status == "ok" and "no nvcc, and none is needed" in fine.detail
    missing = {"trial": "deepspeed", "ok": False, "kind": "MissingCUDAException", "error": "CUDA_HOME does not exist"}
    assert "module load cuda" in only(check_deepspeed(missing, "0.19.8")).fix
    (tmp_path / "nvcc").write_text("#!/bin/sh\n")
    (tmp_path / "nvcc").chmod(0o755)
    assert "DS_SKIP_CUDA_CHECK=1" in only(check_deepspeed(missing, "0.19.8")).fix
    other = {"trial": "deepspeed", "ok": False, "kind": "ImportError", "error": "cannot import name x"}
    assert "python -c 'import deepspeed'" in only(check_deepspeed(other, "0.19.8")).fix


@pytest.fixture
def fake_libraries(tmp_path, monkeypatch):
    """Modules called torch, bitsandbytes, deepspeed that do what the test wants when they are imported."""

    def make(**sources):
        for name, source in sources.items():
            (tmp_path / f"{name}.py").write_text(source)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        return list(sources)

    return make


def test_a_library_that_kills_its_process_does_not_take_the_others_along(fake_libraries):
    names = fake_libraries(
        torch="import os, sys\nprint('noise')\nprint('driver gone', file=sys.stderr, flush=True)\nos.kill(os.getpid(), 9)\n",
        deepspeed="raise ImportError('no op\\nsecond line')\n",
    )
    answers = Trials(names).results()
    assert answers["torch"]["error"] == "its process was killed by SIGKILL: driver gone"
    assert answers["deepspeed"] == {"trial": "deepspeed", "ok": False, "error": "no op", "kind": "ImportError"}


def test_a_library_that_hangs_is_given_up(fake_libraries):
    names = fake_libraries(torch="import time\ntime.sleep(600)\n", deepspeed="")
    answers = Trials(names, patience=3).results()
    assert answers["torch"]["late"] and "no answer within 3 s" in answers["torch"]["error"]
    assert not answers["deepspeed"]["ok"]


def test_a_library_that_exits_or_prints_json_does_not_confuse(fake_libraries):
    fake = json.dumps({"trial": "torch", "ok": True})
    names = fake_libraries(torch=f"print({fake!r})\nraise SystemExit(3)\n")
    assert Trials(names).results()["torch"]["ok"] is False
    assert Trials([]).results() == {}
