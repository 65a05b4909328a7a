"""bitsandbytes quantisation of the frozen base, and reading back how a loaded model is quantised."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from triagekit.errors import TriageError
from triagekit.modeling.precision import precision_name, resolve_precision
from triagekit.modeling.settings import QuantizationSettings

if TYPE_CHECKING:
    import torch
    from transformers import BitsAndBytesConfig, PreTrainedModel

__all__ = ["QuantizationSettings", "bitsandbytes_config", "keep_layout", "quantization_of"]


def bitsandbytes_config(settings: QuantizationSettings, dtype: torch.dtype, device: str) -> BitsAndBytesConfig:
    """The libraries' form of `settings` for a base of type `dtype` on `device`.

    Raises TriageError when bitsandbytes is not installed.
    """
    from transformers import BitsAndBytesConfig
    from transformers.utils.import_utils import is_bitsandbytes_available

    if not is_bitsandbytes_available():
        raise TriageError(
            f"quantization: bits {settings.bits} needs bitsandbytes, which is not installed here. "
            "pip install bitsandbytes, or take quantization out of the settings."
        )
    if settings.bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)  # type: ignore[no-untyped-call]
    compute = dtype if settings.compute_dtype == "auto" else resolve_precision(settings.compute_dtype, device)
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type=settings.type,
        bnb_4bit_use_double_quant=settings.double_quant,
        bnb_4bit_compute_dtype=compute,
    )


def keep_layout(model: PreTrainedModel) -> None:
    """Keep bitsandbytes from laying out 4-bit weights anew on CPUs that multiply bfloat16.

    It does so in place, at the first pass without gradients, for a product that rounds activations to bfloat16 and has no
    backward: a model that was evaluated once could be trained no more, and would score with other numbers than it was
    evaluated with on a CPU without these instructions.
    """
    module: Any
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def quantization_of(model: PreTrainedModel) -> QuantizationSettings | None:
    """How the weights of `model` are quantised; None if they are plain."""
    config: Any = getattr(model.config, "quantization_config", None)
    if config is None:
        return None
    if getattr(config, "load_in_8bit", False):
        return QuantizationSettings.model_validate({"bits": 8})
    if getattr(config, "load_in_4bit", False):
        found = {
            "bits": 4,
            "type": config.bnb_4bit_quant_type,
            "double_quant": config.bnb_4bit_use_double_quant,
            "compute_dtype": precision_name(config.bnb_4bit_compute_dtype),
        }
        return QuantizationSettings.model_validate(found)
    raise TriageError(
        f"The base is already quantised by {type(config).__name__}. Take the un-quantised base and ask for 4 or 8 bits."
    )
