"""Pipelines and submitit's jobs on the real Slurm, with stand-ins for the work: dependencies, failure, going on."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cluster_helpers import ENDED, job_info, wait_until
from mini_slurm import MiniSlurm
from stopping_work import STOPPING_WORK

from triagekit.cluster.pipeline import submit_pipeline
from triagekit.cluster.pipeline_settings import PipelineSettings
from triagekit.cluster.sites import load_site
from triagekit.cluster.submitit_jobs import CommandJob, make_executor, slurm_parameters, submit_all, wait_for

pytestmark = pytest.mark.cluster

# What every stage leaves behind, in no time; a member named `broken` fails.
_STAND_IN = """#!{python}
import json, os, pathlib, sys
words = sys.argv[1:]
if words[:2] != ["-m", "triagekit"]:
    os.execv({python!r}, [{python!r}, *words])
def write(path, value):
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    pathlib.Path(path).write_text(json.dumps(value))
def value_of(option):
    return words[words.index(option) + 1]
if words[2] == "data":
    write(value_of("--out") + "/manifest.json", {{}})
elif words[2] == "train":
    import yaml
    settings = yaml.safe_load(open(words[3]))
    if "broken" in settings["name"] and not os.path.exists("mended"):
        print("triage: it is broken")
        sys.exit(1)
    assert os.path.exists("data/p/manifest.json"), "train came before prepare"
    write(f"{{settings['output']}}/{{settings['name']}}/summary.json", {{"val_loss_best": settings["seed"], "steps": 1}})
elif words[2] == "evaluate":
    assert os.path.exists(words[3] + "/summary.json"), "evaluate came before train"
    write(words[3] + "/eval/test/metrics.json", {{}})
elif words[2] == "score":
    write(value_of("--out") + "/manifest.json", {{"run": value_of("--run")}})
"""


@pytest.fixture
def project(slurm_here: MiniSlurm, tmp_path: Path, monkeypatch) -> Path:
    (tmp_path / "python").write_text(_STAND_IN.format(python=sys.executable))
    (tmp_path / "python").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def settings() -> PipelineSettings:
    broken = {"name": "broken", "overrides": ["adapter.r=4"]}
    return PipelineSettings.model_validate(
        {
            "name": "p",
            "prepare": {"config": "it_tickets", "source": "x.jsonl", "out": "data/p"},
            "train": {"config": "lora", "methods": ["lora", broken], "seeds": [2, 1], "concurrency": 4},
            "score": {"archive": "a.csv", "out": "scores/p", "nodes": 1},
        }
    )


def all_ended(slurm: MiniSlurm) -> bool:
    return not slurm.run("squeue", "-h", "-o", "%i").split()


def test_a_failed_member_stops_only_what_depends_on_it_and_a_second_submission_mends_it(
    slurm: MiniSlurm, project: Path
):
    site = load_site("test", [f"python={project}/python"])
    done = submit_pipeline(settings(), site, rung="cpu")
    assert [job.kind for job in done.jobs] == ["prepare", "sweep", "evaluate", "score", "compare"]
    wait_until(lambda: all_ended(slurm), "the pipeline's end", timeout=300, slurm=slurm)
    run = project / "runs/p"
    assert {path.parent.name for path in run.glob("*/summary.json")} == {"lora-seed1", "lora-seed2"}
    assert {path.parts[-4] for path in run.glob("*/eval/test/metrics.json")} == {"lora-seed1", "lora-seed2"}
    # The best of what was finished: its stand-in's loss is its seed.
    assert json.loads((project / "scores/p/manifest.json").read_text())["run"] == "runs/p/lora-seed1"
    members = {one["member"]: one for one in json.loads((run / "status.json").read_text())["members"]}
    assert members["lora-seed1"]["missing"] is None
    sweep = done.jobs[1].job_id
    assert members["broken-seed2"]["missing"].endswith(f"job {sweep}_2 is FAILED: it is broken")
    log = (done.jobs[-1].folder / f"{done.jobs[-1].job_id}.log").read_text()
    assert "broken-seed1 is missing" in log

    (project / "mended").touch()
    again = submit_pipeline(settings(), site, rung="cpu")
    assert [job.kind for job in again.jobs] == ["sweep", "evaluate", "compare"]
    wait_until(lambda: all_ended(slurm), "the second pipeline's end", timeout=300, slurm=slurm)
    assert len(list(run.glob("*/eval/test/metrics.json"))) == 4
    assert not any(one["missing"] for one in json.loads((run / "status.json").read_text())["members"])


def test_a_failed_preparation_stops_everything_and_the_report_says_so(slurm: MiniSlurm, project: Path):
    broken = project / "python"
    broken.write_text(broken.read_text().replace('if words[2] == "data":', 'if words[2] == "data":\n    sys.exit(1)'))
    site = load_site("test", [f"python={broken}"])
    submit_pipeline(settings(), site, rung="cpu")
    wait_until(lambda: all_ended(slurm), "the pipeline's end", timeout=300, slurm=slurm)
    members = json.loads((project / "runs/p/status.json").read_text())["members"]
    assert len(members) == 4 and all("the data was not prepared" in one["missing"] for one in members)
    assert not (project / "scores").exists()


def test_a_submitit_job_that_is_warned_saves_is_requeued_and_finishes(slurm: MiniSlurm, project: Path):
    (seen := project / "seen").mkdir()
    (script := project / "work.py").write_text(STOPPING_WORK)
    site = load_site("test")
    parameters = slurm_parameters(site, site.place("cpu"), name="warned")
    (handle,) = submit_all(make_executor(project / "jobs", site, parameters), [CommandJob([str(script), str(seen)])])
    job = str(handle.job_id)
    wait_until(lambda: (seen / "ready").exists(), "the work's begin", timeout=120, slurm=slurm)
    slurm.run("scancel", "--signal=USR2", job)
    wait_until(lambda: (seen / "start-2").exists(), "the second start", timeout=180, slurm=slurm)
    wait_until(lambda: job_info(slurm, job)["JobState"] in ENDED, "the job's end", timeout=120, slurm=slurm)
    info = job_info(slurm, job)
    assert (info["JobState"], info["Restarts"]) == ("COMPLETED", "1")
    assert (seen / "saved-1").exists() and not (seen / "saved-2").exists()
    assert wait_for(handle, 60) is None


def test_a_submitit_array_keeps_its_cap_and_one_failure_is_one_members(slurm: MiniSlurm, project: Path):
    site = load_site("test")
    parameters = slurm_parameters(site, site.place("cpu"), name="array", at_once=2)
    code = "import sys, time; time.sleep(2); sys.exit(3 if sys.argv[1] == '1' else 0)"
    jobs = [CommandJob(["-c", code, str(number)]) for number in range(4)]
    handles = submit_all(make_executor(project / "jobs", site, parameters), jobs)
    most = 0
    until = time.monotonic() + 240
    while not all_ended(slurm):
        assert time.monotonic() < until
        most = max(most, len(slurm.run("squeue", "-h", "-t", "RUNNING", "-o", "%i").split()))
        time.sleep(0.2)
    assert most <= 2
    wrong = [wait_for(handle, 60) for handle in handles]
    assert [one is None for one in wrong] == [True, False, True, True] and "exit code 3" in wrong[1]


def test_the_table_and_cancel_on_the_real_queue(slurm: MiniSlurm, project: Path):
    blocked = load_site("test", [f"python={project}/python"])
    submit_pipeline(settings(), blocked, rung="cpu")

    def triage(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "triagekit", *words], capture_output=True, text=True, check=False, cwd=project
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    table = json.loads(triage("jobs", "--all", "--json"))
    assert table["slurm"] == "asked"
    kinds = [row["kind"] for row in table["jobs"]]
    assert {"prepare", "sweep", "evaluate", "score", "compare"} == set(kinds) and kinds.count("sweep") == 4
    assert all(row["reason"] == "Dependency" for row in table["jobs"] if row["kind"] == "compare")
    assert "Cancelled:" in triage("jobs", "cancel", "p")
    wait_until(lambda: all_ended(slurm), "the cancelled jobs' end", timeout=120, slurm=slurm)
