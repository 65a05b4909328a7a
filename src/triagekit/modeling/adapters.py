"""Adapters: which weights are trained, attached to a base in memory, always with float32 masters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from triagekit.errors import TriageError, did_you_mean
from triagekit.modeling.record_pieces import output_token_ids
from triagekit.modeling.settings import AdapterSettings

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = [
    "AdapterSettings",
    "TrainableReport",
    "adapter_state",
    "attach_adapter",
    "load_adapter_state",
    "loaded_dtype",
    "output_token_ids",
]

Kind = Literal["lora", "head", "norm", "weight"]

_PISSA = "pissa_initial."


@dataclass
class TrainableReport:
    """What is trained. `total` counts the adapted model's own weights, quantised ones as the numbers they stand for.

    `matched`: one entry a trained tensor: {"name", "shape", "kind"}.
    """

    trainable: int
    total: int
    share: float
    matched: list[dict[str, Any]] = field(default_factory=list)

    def table(self) -> list[dict[str, Any]]:
        """One entry for tensors alike: {"kind", "module", "tensors", "shape", "weights"}; weights of all of them."""
        alike = Counter((item["kind"], _last_module(item["name"]), tuple(item["shape"])) for item in self.matched)
        return [
            {"kind": kind, "module": module, "tensors": count, "shape": list(shape), "weights": count * _numel(shape)}
            for (kind, module, shape), count in alike.items()
        ]

    def describe(self) -> str:
        """The figures, and the count of tensors and weights of each kind, in a few lines."""
        lines = [f"{self.trainable:,} of {self.total:,} weights are trained ({self.share:.2%})"]
        tensors = Counter(item["kind"] for item in self.matched)
        for kind, count in tensors.items():
            items = [item for item in self.matched if item["kind"] == kind]
            modules = Counter(_last_module(item["name"]) for item in items)
            shown = ", ".join(f"{name}×{number}" for name, number in modules.items())
            lines.append(
                f"  {kind}: {count} tensors, {sum(_numel(item['shape']) for item in items):,} weights: {shown}"
            )
        return "\n".join(lines)


def attach_adapter(
    model: Any,
    settings: AdapterSettings,
    output_token_ids: Sequence[int] | None = None,
    stored_initial: Mapping[str, torch.Tensor] | None = None,
) -> tuple[Any, TrainableReport]:
    """Make `model` trainable by `settings`, in place, and return it (wrapped by PEFT but for `full`) with a report.

    Every trained weight is float32 whatever the base's type; forward works with and without autocast.
    `output_token_ids` is needed for `head: output_tokens`. `stored_initial` gives PiSSA's start when an adapter is loaded.
    Raises TriageError for targets that match nothing and for methods that do not go with a quantised base.
    """
    quantised = getattr(model.config, "quantization_config", None) is not None
    if settings.method == "full":
        if quantised:
            raise TriageError("method: full cannot train quantised weights; use lora or hybrid, or drop quantization.")
        return _train_everything(model)
    if settings.pissa and quantised:
        raise TriageError(
            "pissa: true changes the base's weights and needs them un-quantised; drop quantization or pissa."
        )
    base_weights = model.num_parameters()
    tied_before = _is_tied(model)
    peft_model = _wrap(model, settings, output_token_ids)
    if settings.pissa:
        from triagekit.modeling.pissa import start_from_principal_parts

        peft_model.pissa_initial = start_from_principal_parts(peft_model, stored_initial)
    _check_masters(peft_model)
    report = _report(peft_model, base_weights, tied_before)
    peft_model.eval()
    return peft_model, report


def loaded_dtype(model: Any) -> torch.dtype:
    """The number type that the base of an attached model was loaded in."""
    from triagekit.modeling.forward import causal_model

    causal = causal_model(model)
    dtype: torch.dtype = getattr(causal, "loaded_dtype", causal.get_input_embeddings().weight.dtype)
    return dtype


def adapter_state(model: Any) -> dict[str, torch.Tensor]:
    """Every trained tensor by its name in the model, and PiSSA's start where used: what a checkpoint must hold.

    The tensors are the model's own, not copies.
    """
    state = {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}
    initial = getattr(model, "pissa_initial", {})
    return state | {f"{_PISSA}{name}": tensor for name, tensor in initial.items()}


def load_adapter_state(model: Any, state: Mapping[str, torch.Tensor]) -> None:
    """Put `adapter_state` of an equally attached model back. Raises TriageError naming the tensors that do not fit."""
    own = adapter_state(model)
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    wrong = [name for name in own.keys() & state.keys() if own[name].shape != state[name].shape]
    if missing or extra or wrong:
        raise TriageError(
            f"The stored weights do not fit this adapter: {len(missing)} missing {missing[:3]}, {len(extra)} not expected "
            f"{extra[:3]}, {len(wrong)} of another shape {sorted(wrong)[:3]}. Were adapter settings or base changed?"
        )
    for name, tensor in own.items():
        if not name.startswith(_PISSA):
            tensor.copy_(state[name])
    if hasattr(model, "pissa_initial"):
        from triagekit.modeling.pissa import restart_from

        restart_from(
            model, {name.removeprefix(_PISSA): part for name, part in state.items() if name.startswith(_PISSA)}
        )


def _wrap(model: Any, settings: AdapterSettings, token_ids: Sequence[int] | None) -> Any:
    from peft import LoraConfig, get_peft_model

    from triagekit.modeling import hybrid
    from triagekit.modeling.output_head import head_name, train_output_tokens

    targets = _targets(model, settings)
    whole = hybrid.modules_to_save(model, settings) if settings.method == "hybrid" else []
    rows_only = settings.method == "hybrid" and settings.head == "output_tokens"
    if rows_only and not token_ids:
        raise TriageError("head: output_tokens needs the token ids that the schema can emit (output_token_ids).")
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=targets,
        layers_to_transform=_layers(model, settings),
        exclude_modules=[head_name(model)] if settings.targets == "all-linear" else None,
        use_rslora=settings.rslora,
        use_dora=settings.dora,
        modules_to_save=whole or None,
        bias="none",
    )
    peft_model = get_peft_model(model, config)
    hybrid.train_in_float32(peft_model)
    if rows_only:
        train_output_tokens(model, token_ids or [])
    for parameter in peft_model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return peft_model


def _targets(model: Any, settings: AdapterSettings) -> str | list[str]:
    """Targets as PEFT takes them, each of a list checked to match a linear layer that is not the head."""
    if settings.targets == "all-linear" and settings.layers is None:
        return "all-linear"
    from torch import nn

    head = model.get_output_embeddings()
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and module is not head]
    ends = sorted({name.rpartition(".")[2] for name in linear})
    if settings.targets == "all-linear":
        # PEFT chooses layers only among modules that are named.
        return ends
    for target in settings.targets:
        if not any(name == target or name.endswith(f".{target}") for name in linear):
            raise TriageError(
                f"adapter.targets: '{target}' matches no linear layer of {type(model).__name__} below its head. "
                f"{did_you_mean(target, ends)}"
            )
    return sorted(set(settings.targets))


def _layers(model: Any, settings: AdapterSettings) -> list[int] | None:
    """The chosen decoder layers, checked to exist."""
    count = int(model.config.get_text_config().num_hidden_layers)
    beyond = [layer for layer in settings.layers or [] if layer >= count]
    if beyond:
        raise TriageError(
            f"adapter.layers names {beyond}, but {type(model).__name__} has layers 0 … {count - 1} ({count} of them)."
        )
    return settings.layers


def _train_everything(model: Any) -> tuple[Any, TrainableReport]:
    # Gemma keeps a rounded constant beside its weights: to reopen exactly, the base must be loaded in this type again.
    model.loaded_dtype = model.get_input_embeddings().weight.dtype
    model.float()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model, _report(model, model.num_parameters(), False)


def _check_masters(model: nn.Module) -> None:
    import torch

    wrong = [name for name, p in model.named_parameters() if p.requires_grad and p.dtype != torch.float32]
    if wrong:
        raise TriageError(
            f"{len(wrong)} trained tensors are not float32, first {wrong[0]}: they would lose small steps."
        )


def _report(model: Any, base_weights: int, tied_before: bool) -> TrainableReport:
    from triagekit.modeling.trainable_modules import Float32Linear, Float32Norm, OutputTokenLinear

    owners = dict(model.named_modules())
    matched: list[dict[str, Any]] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        owner = owners[name.rpartition(".")[0]]
        if ".lora_" in name:
            kind: Kind = "lora"
        elif isinstance(owner, Float32Norm):
            kind = "norm"
        else:
            kind = "head" if isinstance(owner, Float32Linear | OutputTokenLinear) else "weight"
        matched.append({"name": _base_name(name), "shape": list(parameter.shape), "kind": kind})
    trainable = sum(_numel(item["shape"]) for item in matched)
    # LoRA adds weights; a head adds its own only where it was one tensor with the embeddings before.
    added = sum(_numel(i["shape"]) for i in matched if i["kind"] == "lora" or (i["kind"] == "head" and tied_before))
    total = base_weights + added
    return TrainableReport(trainable, total, trainable / total, matched)


def _is_tied(model: Any) -> bool:
    from triagekit.modeling.output_head import is_tied

    return is_tied(model)


def _base_name(name: str) -> str:
    """The tensor's name in the base model's terms, free of the wrappers' parts."""
    return name.removeprefix("base_model.model.").replace(".modules_to_save.default", "").replace(".default", "")


def _last_module(name: str) -> str:
    parts = [part for part in name.split(".") if part not in {"weight", "bias", "rows"}]
    return ".".join(parts[-2:]) if parts[-1].startswith("lora_") else parts[-1]


def _numel(shape: Sequence[int]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product
