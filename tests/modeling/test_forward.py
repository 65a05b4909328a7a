"""Hidden states and their projection equal the model's own forward, for every family and method."""

from __future__ import annotations

import pytest
import torch
from modeling_helpers import FAMILIES, random_model, take_steps

from triagekit.errors import TriageError
from triagekit.modeling.adapters import AdapterSettings, attach_adapter
from triagekit.modeling.forward import check_projection, hidden_states, project_to_logits

METHODS = [
    {"method": "lora"},
    {"method": "hybrid"},
    {"method": "hybrid", "head": "output_tokens"},
    {"method": "full"},
]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_equal_to_the_models_own_logits(family, method):
    model, _ = attach_adapter(random_model(family, tied=family != "Llama"), AdapterSettings(r=4, **method), [3, 5, 7])
    take_steps(model)
    ids = torch.randint(0, 200, (2, 9))
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    with torch.no_grad():
        own = model(input_ids=ids, attention_mask=mask).logits
        hidden, _ = hidden_states(model, ids, mask)
        assert torch.equal(project_to_logits(model, hidden), own)
        torch.testing.assert_close(project_to_logits(model, hidden[:, 4:6]), own[:, 4:6])


def test_the_cache_continues_where_it_stopped():
    model = random_model("Qwen2")
    ids = torch.randint(0, 200, (1, 12))
    with torch.no_grad():
        _, cache = hidden_states(model, ids[:, :7], use_cache=True)
        rest, _ = hidden_states(
            model, ids[:, 7:], torch.ones(1, 12, dtype=torch.long), past_key_values=cache, use_cache=True
        )
        torch.testing.assert_close(project_to_logits(model, rest), model(input_ids=ids).logits[:, 7:])


def test_softcapping_takes_part():
    model = random_model("Gemma2")
    with torch.no_grad():
        logits = project_to_logits(model, 1e4 * torch.ones(1, 1, 32))
    assert logits.abs().max() <= 5.0


def test_an_unknown_treatment_of_logits_is_refused():
    model = random_model("Qwen2")
    check_projection(model)
    head = model.lm_head
    forward = type(model).forward

    class Odd(type(model)):
        def forward(self, *arguments, **options):
            output = forward(self, *arguments, **options)
            output.logits = output.logits * 3
            return output

    model.__class__ = Odd
    assert model.lm_head is head
    with pytest.raises(TriageError, match="in a way that triagekit does not know"):
        check_projection(model)
