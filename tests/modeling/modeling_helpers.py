"""Tiny random models, and a few steps of training."""

from __future__ import annotations

FAMILIES = ["Qwen2", "Qwen3", "Llama", "Mistral", "Gemma2"]


def random_model(family: str, tied: bool = False, vocabulary: int = 200):
    """A causal model of 2 layers with every norm away from its initial value."""
    import torch
    import transformers

    torch.manual_seed(0)
    extra = {"head_dim": 8} if family in {"Qwen3", "Gemma", "Gemma2", "Gemma3"} else {}
    if family == "Gemma2":
        extra["final_logit_softcapping"] = 5.0
    if family == "Gemma3":
        extra |= {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}
    if family == "Llama3":
        stretched = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0}
        extra["rope_parameters"] = {**stretched, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    family = {"Llama3": "Llama", "Gemma3": "Gemma3Text"}.get(family, family)
    config = getattr(transformers, f"{family}Config")(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
        **extra,
    )
    model = getattr(transformers, f"{family.removesuffix('Text')}ForCausalLM")(config).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def take_steps(model, steps: int = 3, vocabulary: int = 200, learning_rate: float = 1e-2) -> list[float]:
    """A few AdamW steps on one random batch through the helpers that training uses; returns the losses."""
    import torch

    from triagekit.modeling.forward import causal_model, hidden_states, project_to_logits

    torch.manual_seed(1)
    ids = torch.randint(0, vocabulary, (2, 12))
    ids = ids.to(causal_model(model).get_input_embeddings().weight.device)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=learning_rate)
    losses = []
    model.train()
    for _ in range(steps):
        hidden, _ = hidden_states(model, ids, torch.ones_like(ids))
        logits = project_to_logits(model, hidden[:, :-1]).float()
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    model.eval()
    return losses
