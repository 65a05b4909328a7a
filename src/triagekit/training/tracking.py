"""Weights & Biases and MLflow, where a run asks for them: fed with the lines of metrics.jsonl by transformers' callbacks."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from triagekit.errors import Problem, ProblemsError, TriageError
from triagekit.training.run_folder import RunFolder
from triagekit.training.settings import TrainSettings

if TYPE_CHECKING:
    from triagekit.training.trainer import TriageTrainer

CALLBACKS = {"wandb": "WandbCallback", "mlflow": "MLflowCallback"}
"""Name of the package, and of transformers' own class for it."""
ADVICE = {
    "wandb": "Log in (wandb login), or keep the figures here (--offline)",
    "mlflow": "Set MLFLOW_TRACKING_URI to a store that it accepts, such as sqlite:///mlflow.db or a server",
}
PROJECT = "triagekit"
NO_FIGURES = {"split", "step", "epoch"}


def check_trackers(settings: TrainSettings) -> None:
    """Raise ProblemsError for every tracker that cannot be used here, before anything heavy is loaded."""
    problems = []
    for name in settings.report_to:
        if importlib.util.find_spec(name) is None:
            text = "this package is not installed."
            problems.append(Problem(f"report_to: {name}", text, f"pip install {name}, or take it out."))
    address = os.environ.get("MLFLOW_TRACKING_URI", "")
    if "mlflow" in settings.report_to and _is_offline() and address.startswith(("http:", "https:", "databricks")):
        text = f"MLFLOW_TRACKING_URI is {address}, but this process is offline."
        problems.append(Problem("report_to: mlflow", text, "Set it to a local store, such as sqlite:///mlflow.db."))
    if problems:
        raise ProblemsError("The figures of this run cannot be sent where it asks:", problems)


def start_trackers(trainer: TriageTrainer, run: RunFolder) -> None:
    """Begin a record of this start with every tracker of the settings, from the first process alone.

    What the environment says (WANDB_PROJECT, MLFLOW_TRACKING_URI and the like) goes before our defaults; offline, wandb
    writes into the run folder only. Raises TriageError when a tracker cannot begin, for instance without a login.
    """
    if not trainer.settings.report_to or not trainer.group.main:
        return
    _set_defaults(run)
    for name in trainer.settings.report_to:
        try:
            callback = _callback(name)
            callback.setup(trainer.args, trainer.state, trainer.network)
        except Exception as error:
            raise TriageError(
                f"report_to: {name} could not begin. {ADVICE[name]}, or set report_to=[].\nIt says: "
                f"{str(error) or type(error).__name__}"
            ) from error
        trainer.add_callback(callback)


def figures_to_send(line: Mapping[str, Any]) -> dict[str, float]:
    """A line of metrics.jsonl in the callbacks' words: figures of the validation split begin with eval_."""
    prefix = "eval_" if line["split"] == "val" else ""
    return {
        f"{prefix}{name}": value
        for name, value in line.items()
        if name not in NO_FIGURES and isinstance(value, int | float)
    }


def _callback(name: str) -> Any:
    from transformers.integrations import integration_utils

    return getattr(integration_utils, CALLBACKS[name])()


def _set_defaults(run: RunFolder) -> None:
    for variable, value in {
        "WANDB_PROJECT": PROJECT,
        "WANDB_DIR": str(run.folder),
        # A run that goes on is another one there; the group holds them together.
        "WANDB_RUN_GROUP": run.name,
        "MLFLOW_EXPERIMENT_NAME": PROJECT,
    }.items():
        os.environ.setdefault(variable, value)
    if _is_offline() and os.environ.get("WANDB_MODE") != "disabled":
        os.environ["WANDB_MODE"] = "offline"


def _is_offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"}
