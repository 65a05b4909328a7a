"""Quantised bases (bitsandbytes works on CPU): an adapter trains on them and reopens exactly; merging is refused."""

from __future__ import annotations

import pytest
import torch
from modeling_helpers import take_steps

from triagekit.errors import TriageError
from triagekit.modeling.adapter_folder import load_adapter, save_adapter
from triagekit.modeling.adapters import AdapterSettings, attach_adapter, output_token_ids
from triagekit.modeling.base import load_base
from triagekit.modeling.forward import hidden_states, project_to_logits
from triagekit.modeling.merge import merge_adapter
from triagekit.modeling.quantization import QuantizationSettings, quantization_of


def logits(model, ids):
    with torch.no_grad():
        return project_to_logits(model, hidden_states(model, torch.tensor([ids]))[0]).float()


FP4 = {"bits": 4, "type": "fp4", "double_quant": False}
CASES = [
    ({"bits": 4}, {}),
    ({"bits": 4}, {"method": "hybrid"}),
    ({"bits": 4}, {"method": "hybrid", "head": "output_tokens"}),
    ({"bits": 4}, {"dora": True}),
    ({"bits": 4, "compute_dtype": "bf16"}, {}),
    (FP4, {"method": "hybrid"}),
    ({"bits": 8}, {"method": "hybrid"}),
]


@pytest.mark.parametrize(("quantization", "method"), CASES, ids=str)
def test_trains_and_reopens_exactly(tmp_path, base_folder, segments, quantization, method):
    base, asked = base_folder("Qwen3", True), QuantizationSettings(**quantization)
    model = load_base(base, quantization=asked, device="cpu")
    assert quantization_of(model).model_dump(exclude={"compute_dtype"}) == (
        asked.model_dump(exclude={"compute_dtype"})
        if asked.bits == 4
        else QuantizationSettings(bits=8).model_dump(exclude={"compute_dtype"})
    )
    # On a CPU with AVX512-BF16 the library would lay weights out anew that were evaluated, and could not train them then.
    assert not any(getattr(module, "support_avx512bf16_for_cpu", False) for module in model.modules())
    logits(model, [5, 6, 7])
    settings = AdapterSettings(r=4, **method)
    model, report = attach_adapter(model, settings, output_token_ids(segments))
    _, plain_report = attach_adapter(load_base(base), settings, output_token_ids(segments))
    assert report.total == plain_report.total and report.trainable == plain_report.trainable
    losses = take_steps(model)
    assert losses[-1] < losses[0]
    save_adapter(model, tmp_path / "adapter", settings, segments, base, report, "d", ["VPN is down", "printer"])
    loaded = load_adapter(tmp_path / "adapter", device="cpu")
    assert quantization_of(loaded.model.get_base_model()) is not None
    assert torch.equal(logits(loaded.model, [5, 6, 7]), logits(model, [5, 6, 7]))
    merged = load_adapter(tmp_path / "adapter", device="cpu", merge=True).model
    assert quantization_of(merged) is None
    with pytest.raises(TriageError, match="cannot be merged into a quantised base"):
        merge_adapter(model)


def test_what_does_not_go_with_quantised_weights_is_refused(base_folder):
    for settings, message in (
        ({"method": "full"}, "cannot train quantised weights"),
        ({"pissa": True}, "needs them un-quantised"),
    ):
        model = load_base(base_folder("Qwen3", True), quantization=QuantizationSettings(), device="cpu")
        with pytest.raises(TriageError, match=message):
            attach_adapter(model, AdapterSettings(**settings))
