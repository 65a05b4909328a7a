"""plan.json: what a run will do, known before its first step, and compared when it goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from triagekit.errors import Problem, ProblemsError
from triagekit.files.atomic import write_json
from triagekit.files.fingerprint import fingerprint_json
from triagekit.training.arguments import evaluation_interval, steps_per_epoch
from triagekit.training.inputs import TrainingInputs
from triagekit.training.ranks import Ranks
from triagekit.training.run_folder import RunFolder
from triagekit.training.rungs import accumulation
from triagekit.training.settings import TrainSettings
from triagekit.training.signs_of_trouble import absent_values, signs_in_plan

if TYPE_CHECKING:
    from triagekit.modeling.adapters import TrainableReport

FINGERPRINTS = ("data_fingerprint", "schema_fingerprint", "base_fingerprint", "template_fingerprint")
AS_COMPUTED = ("precision", "quantization", "max_length")
"""What a rung of the hardware ladder may have decided in place of the settings."""


def make_plan(
    settings: TrainSettings, name: str, inputs: TrainingInputs, report: TrainableReport, packing: str, ranks: Ranks
) -> dict[str, Any]:
    """The plan of run `name`, the same in all of its processes."""
    from triagekit.modeling.base import base_fingerprint
    from triagekit.modeling.precision import precision_name, resolve_precision

    dataset, template = inputs.dataset, inputs.segments.template
    steps = inputs.steps(settings)
    plan = {
        "name": name,
        "method": settings.adapter.method,
        "steps": steps,
        "steps_per_epoch": steps_per_epoch(settings, len(inputs.train)),
        "effective_batch": settings.batch.effective,
        "micro_batch": settings.batch.micro,
        "accumulation": accumulation(settings, ranks.size),
        "packing": packing,
        "max_length": settings.prompt.max_length,
        "precision": precision_name(resolve_precision(settings.precision)),
        "quantization": settings.quantization and settings.quantization.model_dump(mode="json"),
        **ranks.describe(),
        "evaluate_every": evaluation_interval(settings, steps),
        "data": dataset.name,
        "data_fingerprint": dataset.fingerprint,
        "schema": dataset.schema.name,
        "schema_fingerprint": dataset.schema.fingerprint,
        "base": settings.base,
        "base_fingerprint": base_fingerprint(settings.base),
        "template_fingerprint": template.fingerprint,
        "prompt_variants": template.variants,
        "train": inputs.train.statistics(),
        "val": inputs.val.statistics() if inputs.val_rows else {"rows": 0},
        "class_weights": inputs.weights,
        "trainable": report.trainable,
        "total": report.total,
        "share": report.share,
        "matched": report.matched,
    }
    plan["conditions_fingerprint"] = fingerprint_json(conditions(settings, plan))
    absent = absent_values(dataset.schema, inputs.train_rows)
    signs = signs_in_plan(settings, steps, plan["train"], report.total, absent)
    plan["warnings"] = [sign.as_dict() for sign in signs]
    return plan


def conditions(settings: TrainSettings, plan: dict[str, Any]) -> dict[str, Any]:
    """What must be equal for a comparison of methods to be fair, as it really is on this rung.

    Method, adapter, learning rate (each method has its own best) and seed (comparisons run over several) are left out on
    purpose.
    """
    optimizer = settings.optimizer.model_dump(mode="json", exclude={"learning_rate"})
    return {
        **{name: plan[name] for name in (*FINGERPRINTS, "steps", "effective_batch", *AS_COMPUTED)},
        "train_rows": plan["train"]["rows"],
        "val_rows": plan["val"]["rows"],
        "optimizer": optimizer,
        "evaluation": settings.evaluation.model_dump(mode="json"),
        "sampling": settings.sampling.model_dump(mode="json"),
        "class_weights": settings.class_weights,
        "loss": settings.loss.model_dump(mode="json"),
        # Where it is 0, runs keep the fingerprint that they had before there was such a share.
        **({"labels_alone_share": settings.labels_alone_share} if settings.labels_alone_share else {}),
    }


def keep_plan(folder: RunFolder, plan: dict[str, Any]) -> None:
    """Write plan.json. Raises ProblemsError when the folder's plan was made from other input, naming which."""
    before = folder.read(folder.plan)
    changed = [
        Problem(name.replace("_", " "), f"was {before[name]}, is {plan[name]}.")
        for name in FINGERPRINTS
        if before and before.get(name) != plan[name]
    ]
    for name in ("max_length", "quantization"):
        if before.get(name, plan[name]) != plan[name]:
            hint = f"Rung {plan['rung']} changes it; choose one that keeps it." if plan["rung"] else ""
            changed.append(Problem(name.replace("_", " "), f"was {before[name]}, is {plan[name]}.", hint))
    if changed:
        raise ProblemsError(
            f"{folder.folder} was begun with other input than it would go on with. Give this run its own name (--name) "
            "or restore the input:",
            changed,
        )
    write_json(folder.plan, plan)
