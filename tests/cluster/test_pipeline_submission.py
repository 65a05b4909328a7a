"""A pipeline's jobs and what each waits for; what is done is left out, what is missing is named with its reason.

To renew the stored scripts on purpose: TRIAGEKIT_UPDATE_GOLDEN=1 .venv/bin/python -m pytest -q THIS_FILE
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from fake_slurm import words_after

from triagekit import __version__
from triagekit.cluster import pipeline_report
from triagekit.cluster.attempts.record import Attempt, write_attempts
from triagekit.cluster.pipeline import load_pipeline, submit_pipeline
from triagekit.cluster.pipeline_settings import PipelineSettings
from triagekit.cluster.sites import load_site
from triagekit.errors import ProblemsError, TriageError
from triagekit.files.resources import shipped_names

GOLDEN = Path(__file__).parent / "golden"
MEMBERS = ["lora-seed1", "lora-seed2", "hybrid-seed1", "hybrid-seed2"]
VALUES = {
    "name": "p",
    "prepare": {"config": "it_tickets", "source": "export file.jsonl", "out": "data/p"},
    "train": {"config": "lora", "methods": ["lora", "hybrid"], "seeds": [1, 2]},
    "evaluate": {"split": "test", "words": ["--limit", "20"]},
    "score": {"archive": "archive.csv", "out": "scores/p", "overrides": ["auto_threshold=0.9"]},
}


def settings(**changes):
    return PipelineSettings.model_validate({**VALUES, **changes})


def submit(pipeline, **more):
    return submit_pipeline(pipeline, load_site("test", ["python=/opt/python"]), rung="cpu", **more)


def waits(done):
    return [(job.kind, job.dependency) for job in done.jobs]


def finish(*members, loss=1.0):
    for number, member in enumerate(members):
        folder = Path("runs/p") / member
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "summary.json").write_text(json.dumps({"val_loss_best": loss + number}))


def evaluate(*members):
    for member in members:
        folder = Path("runs/p") / member / "eval/test"
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text("{}")


def prepared():
    Path("data/p").mkdir(parents=True)
    Path("data/p/manifest.json").write_text("{}")


def test_every_stage_waits_for_what_it_needs(here):
    done = submit(settings())
    assert waits(done) == [
        ("prepare", None),
        ("sweep", "afterok:11"),
        ("evaluate", "aftercorr:12"),
        ("score", "afterany:13"),
        ("compare", "afterany:13:14"),
    ]
    assert words_after("array", done.jobs[1].text) == words_after("array", done.jobs[2].text) == "0-3%2"
    assert all("data: data/p" in path.read_text() for path in Path("runs/p").glob("jobs/*-sweep/members/*.yaml"))
    for job, words in zip(done.jobs, here.calls("sbatch"), strict=True):
        asked = [word for word in words if word.startswith("--dependency=")]
        assert asked == ([f"--dependency={job.dependency}"] if job.dependency else [])


def test_elements_of_training_and_evaluation_are_in_one_order(here):
    done = submit(settings())
    runs = [re.findall(r"^  (runs/p/[\w-]+)$", job.text, re.MULTILINE) for job in done.jobs[1:3]]
    assert runs[0] == runs[1] == [f"runs/p/{name}" for name in MEMBERS]


def test_a_named_member_is_waited_for_alone(here):
    done = submit(settings(score={**VALUES["score"], "member": "hybrid-seed1"}))
    assert dict(waits(done))["score"] == "afterok:13_2"


def test_again_goes_on_with_what_is_missing(here):
    prepared()
    finish("lora-seed1", "lora-seed2", "hybrid-seed1")
    evaluate("lora-seed1")
    done = submit(settings())
    assert waits(done) == [
        ("sweep", None),
        ("evaluate", "aftercorr:11"),
        ("evaluate", None),
        ("score", "afterany:12:13"),
        ("compare", "afterany:12:13:14"),
    ]
    assert "runs/p/hybrid-seed2" in done.jobs[1].text and "runs/p/lora-seed2" not in done.jobs[1].text
    assert "runs/p/lora-seed2" in done.jobs[2].text and "runs/p/lora-seed1\n" not in done.jobs[2].text
    assert {"prepare: data/p", "train: lora-seed1", "evaluate: lora-seed1"} <= set(done.done)


def test_a_pipeline_that_is_done_submits_nothing(here):
    prepared()
    finish(*MEMBERS)
    evaluate(*MEMBERS)
    Path("scores/p").mkdir(parents=True)
    Path("scores/p/manifest.json").write_text("{}")
    Path("runs/p/report.html").write_text("")
    with pytest.raises(TriageError, match="is done"):
        submit(settings())
    Path("runs/p/report.html").unlink()
    assert waits(submit(settings())) == [("compare", None)]


def test_a_pipeline_in_the_queue_is_not_submitted_twice(here):
    done = submit(settings())
    script = str(done.jobs[0].script.absolute())
    line = ["11", "11", "RUNNING", "None", "cpu", "0:00", "1:00", "1", "c1", "N/A", "me", "", ".", script, "p"]
    here.answers("squeue", ("\x1f".join(line) + "\n", "", 0))
    with pytest.raises(TriageError, match=r"11 \(p, running\).*triage jobs cancel runs/p"):
        submit(settings())
    assert len(here.calls("sbatch")) == 5


def test_a_site_that_forbids_requeueing_is_told_what_that_means(here):
    done = submit_pipeline(settings(), load_site("test", ["requeue=successor"]), rung="cpu")
    assert "submit the pipeline again" in done.notes[0]


def test_mistakes_are_told_before_anything_is_submitted(here):
    with pytest.raises(ProblemsError, match="Did you mean 'lora-seed1'"):
        submit(settings(score={**VALUES["score"], "member": "lora_seed1"}))
    with pytest.raises(ValueError, match="leave them out"):
        settings(train={**VALUES["train"], "name": "other"})
    with pytest.raises(ValueError, match="both source and schema"):
        settings(prepare={"out": "data/p"})
    assert not here.calls("sbatch") and not Path("runs").exists()


def test_the_dry_run_is_the_stored_one_and_writes_nothing(here):
    done = submit(settings(), dry_run=True)
    text = "\n".join(job.text for job in done.jobs).replace(str(Path.cwd()), "/project")
    text = text.replace(f"triagekit {__version__};", "triagekit VERSION;")
    text = re.sub(r"--config \S+/configs/score", "--config /triagekit/configs/score", text)
    path = GOLDEN / "pipeline_test.txt"
    if os.environ.get("TRIAGEKIT_UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()
    assert not Path("runs").exists() and not Path("scores").exists() and not here.calls("sbatch")


def test_bash_can_read_every_script(here):
    for job in submit(settings(score={**VALUES["score"], "nodes": 1}), dry_run=True).jobs:
        assert subprocess.run(["bash", "-n"], input=job.text, text=True, check=False).returncode == 0


@pytest.mark.parametrize("name", shipped_names("pipeline"))
def test_shipped_pipelines_can_be_submitted(here, name):
    jobs = submit(load_pipeline(name), dry_run=True).jobs
    assert [job.kind for job in jobs][-1] == "compare"


def test_the_settings_are_read_back_as_they_were(here):
    submit(settings())
    assert pipeline_report.read_pipeline(Path("runs/p")) == settings()


def test_the_best_member_has_the_lowest_validation_loss(here):
    with pytest.raises(TriageError, match="none is best"):
        pipeline_report.choose(settings())
    finish("hybrid-seed2", "lora-seed1", "lora-seed2", loss=0.5)
    assert pipeline_report.choose(settings()) == Path("runs/p/hybrid-seed2")
    named = settings(score={**VALUES["score"], "member": "lora-seed2"})
    assert pipeline_report.choose(named) == Path("runs/p/lora-seed2")


def test_missing_members_are_named_with_their_reason(here, capsys):
    submit(settings())
    prepared()
    finish("lora-seed1", "lora-seed2")
    evaluate("lora-seed1")
    Path("runs/p/jobs/2-sweep/12_2.log").write_text("loading\ntriage: No model folder at /nowhere.\nsrun: error: x\n")
    failed = Attempt("12.0", "12", 0, "12", "c1", "requeue", "failed", 1.0, 0, ended=2.0, code=2, message="user error")
    write_attempts(Path("runs/p/hybrid-seed1"), [failed])
    here.answers("scontrol", ("JobId=1 JobState=FAILED ExitCode=2:0 Restarts=0\n", "", 0))
    found = {status.member: status for status in pipeline_report.statuses(settings())}
    assert found["lora-seed1"].missing is None
    assert found["lora-seed2"].stage == "trained" and found["lora-seed2"].missing.startswith("evaluation: job 13_1")
    why = found["hybrid-seed1"].missing
    assert "user error" in why and "job 12_2 is FAILED" in why and "No model folder at /nowhere." in why


def test_without_data_that_is_the_reason(here):
    submit(settings())
    assert "the data was not prepared (data/p" in pipeline_report.statuses(settings())[0].missing


def test_the_report_takes_what_is_there_and_fails_when_something_is_missing(here, monkeypatch, capsys):
    submit(settings())
    prepared()
    finish(*MEMBERS[:3])
    evaluate(*MEMBERS[:3])
    asked = []

    def compare(words, check):
        asked.append(words)
        return subprocess.CompletedProcess(words, 0)

    monkeypatch.setattr(pipeline_report.subprocess, "run", compare)
    monkeypatch.setattr(pipeline_report, "sacct_state", lambda *words, **more: None)
    assert pipeline_report.main(["compare", "runs/p"]) == 1
    (words,) = asked
    assert [f"runs/p/{name}" for name in MEMBERS[:3]] == [
        word for word in words if word.startswith("runs/p/") and "seed" in word
    ]
    assert "p (3 of 4 runs; missing: hybrid-seed2 – training: job 12_3" in " ".join(words)
    assert "hybrid-seed2 is missing" in capsys.readouterr().err
    status = json.loads(Path("runs/p/status.json").read_text())["members"]
    assert [member["missing"] is None for member in status] == [True, True, True, False]
    finish("hybrid-seed2")
    evaluate("hybrid-seed2")
    assert pipeline_report.main(["compare", "runs/p"]) == 0
