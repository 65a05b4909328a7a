"""Figures sent to Weights & Biases and MLflow by transformers' own callbacks.

Neither package is needed by this project, so where one is not installed a stand-in takes its place that writes down what
the callback calls; the callbacks are the real ones either way.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys

import pytest
from training_helpers import metric_lines

from triagekit.errors import ProblemsError, TriageError
from triagekit.training.run_folder import PLACE_KEYS
from triagekit.training.tracking import check_trackers, figures_to_send
from triagekit.training.train import train

MLFLOW = """
import json, os
__version__ = "3.0.0"
_run = None
def _note(kind, value):
    with open(os.environ["STAND_IN_LOG"], "a") as file:
        file.write(json.dumps(["mlflow", kind, value]) + "\\n")
def is_tracking_uri_set(): return False
def set_tracking_uri(uri): _note("uri", uri)
def active_run(): return _run
def set_experiment(name): _note("experiment", name)
def start_run(run_name=None, nested=False):
    global _run
    if os.environ.get("STAND_IN_REFUSES"): raise RuntimeError("no such server")
    from types import SimpleNamespace as Space
    _run = Space(info=Space(run_id="1"))
    _note("run", run_name)
def end_run():
    global _run
    _run = None
    _note("end", None)
def log_params(values, synchronous=True): pass
def log_metrics(metrics, step, synchronous=True): _note("metrics", [step, metrics])
"""
WANDB = """
import json, os
run = None
class _Run:
    summary = {}
    def _label(self, **words): pass
class _Config(dict):
    def update(self, values, allow_val_change=False): pass
config = _Config()
def _note(kind, value):
    with open(os.environ["STAND_IN_LOG"], "a") as file:
        file.write(json.dumps(["wandb", kind, value]) + "\\n")
def init(**words):
    global run
    run = _Run()
    _note("init", {**words, **{name: os.environ.get(name) for name in ("WANDB_MODE", "WANDB_DIR", "WANDB_RUN_GROUP")}})
def define_metric(*words, **more): pass
def log(values): _note("log", values)
"""


def stand_in(folder, monkeypatch):
    """Make both packages importable in this test, recording what is called; gone afterwards."""
    for package, files in {
        "mlflow": {
            "__init__": MLFLOW + "from . import utils\n",
            "utils/__init__": "from . import validation\n",
            "utils/validation": "MAX_PARAM_VAL_LENGTH = 500\nMAX_PARAMS_TAGS_PER_BATCH = 100\n",
        },
        "wandb": {
            "__init__": WANDB,
            "sdk/__init__": "",
            "sdk/lib/__init__": "",
            "sdk/lib/config_util": "class ConfigError(Exception): pass\n",
        },
    }.items():
        for name, text in files.items():
            path = folder / package / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("STAND_IN_LOG", str(folder / "log.jsonl"))
    importlib.invalidate_caches()


@pytest.fixture
def called(tmp_path, monkeypatch):
    if any(importlib.util.find_spec(name) for name in ("wandb", "mlflow")):
        pytest.skip("a tracker is installed here; this test stands in for absent ones")
    for name in ("WANDB_PROJECT", "WANDB_DIR", "WANDB_RUN_GROUP", "MLFLOW_EXPERIMENT_NAME", "WANDB_MODE"):
        # Set and deleted, so that what the run sets is taken back too.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    stand_in(tmp_path / "packages", monkeypatch)
    log = tmp_path / "packages" / "log.jsonl"
    yield lambda: [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    for name in [name for name in sys.modules if name.partition(".")[0] in {"wandb", "mlflow"}]:
        del sys.modules[name]


def test_every_line_of_the_metrics_is_sent_and_nothing_else(settings_for, called, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///here.db")
    run = train(settings_for(report_to=["wandb", "mlflow"], max_steps=4))
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    said = called()
    of_mlflow = [value for package, kind, value in said if (package, kind) == ("mlflow", "metrics")]
    assert of_mlflow == [[line["step"], figures_to_send(line)] for line in lines]
    assert ["mlflow", "uri", "sqlite:///here.db"] in said and ["mlflow", "run", "run"] in said
    assert ["mlflow", "experiment", "triagekit"] in said and ["mlflow", "end", None] in said
    of_wandb = [value for package, kind, value in said if (package, kind) == ("wandb", "log")]
    assert [value["train/global_step"] for value in of_wandb] == [line["step"] for line in lines]
    names = set().union(*of_wandb)
    assert {"train/loss", "eval/loss", "train/peak_memory_bytes", "eval/value_accuracy/category"} <= names
    (begun,) = [value for package, kind, value in said if (package, kind) == ("wandb", "init")]
    # These tests run offline, and so does wandb.
    assert begun["WANDB_MODE"] == "offline" and begun["WANDB_DIR"] == str(run.folder)
    assert (begun["project"], begun["name"], begun["WANDB_RUN_GROUP"]) == ("triagekit", "run", "run")


def test_a_run_is_the_same_run_whoever_is_told_of_it(settings_for, called):
    told, silent = (
        train(settings_for(name=name, max_steps=2, report_to=to)) for name, to in (("told", ["mlflow"]), ("silent", []))
    )
    assert metric_lines(told.folder) == metric_lines(silent.folder)
    assert "report_to" in PLACE_KEYS
    train(settings_for(name="told", max_steps=2))
    plans = [run.read(run.plan)["conditions_fingerprint"] for run in (told, silent)]
    assert plans[0] == plans[1]


def test_a_tracker_that_cannot_begin_ends_the_start_with_advice(settings_for, called, monkeypatch):
    monkeypatch.setenv("STAND_IN_REFUSES", "1")
    with pytest.raises(TriageError, match="MLFLOW_TRACKING_URI") as caught:
        train(settings_for(max_steps=2, report_to=["mlflow"]))
    assert "no such server" in str(caught.value)


def test_missing_packages_are_named_all_at_once_before_anything_is_loaded(settings_for, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ProblemsError) as caught:
        check_trackers(settings_for(report_to=["wandb", "mlflow"]))
    assert "pip install wandb" in str(caught.value) and "pip install mlflow" in str(caught.value)


def test_offline_a_server_is_refused(settings_for, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ProblemsError, match="this process is offline"):
        check_trackers(settings_for(report_to=["mlflow"]))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    check_trackers(settings_for(report_to=["mlflow"]))
