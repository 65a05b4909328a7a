"""Free greedy writing on unseen template families: does the base write JSON, and does it fit the schema?"""

from __future__ import annotations

import torch
from transformers import PreTrainedTokenizerBase, Qwen2ForCausalLM

from triagekit.modeling.base_build.settings import TinyBaseSettings
from triagekit.modeling.base_build.stream import PretrainingStream
from triagekit.schema.parse import parse_record

_NEW_TOKENS = 160


@torch.no_grad()
def parse_share(
    model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerBase, stream: PretrainingStream, settings: TinyBaseSettings
) -> dict[str, float]:
    """{"records", "parsed": share that is JSON without repair, "valid": share without any problem in the schema}."""
    model.eval()  # type: ignore[no-untyped-call]
    records = parsed = valid = 0
    for group in stream.unseen(settings.evaluation_groups, taxonomies_too=False):
        for text, example in zip(group.texts, group.examples, strict=True):
            if records >= settings.generated_records:
                break
            prompt = torch.tensor([group.segments.prompt_ids(text, example.variant)])
            written = model.generate(  # type: ignore[misc]
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=_NEW_TOKENS,
                do_sample=False,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
            answer = str(tokenizer.decode(written[0, prompt.shape[1] :], skip_special_tokens=True))
            result = parse_record(group.segments.schema, answer)
            records += 1
            parsed += int(result.record is not None and not result.repairs)
            valid += int(result.verdict == "auto" and not result.repairs)
    return {
        "records": records,
        "parsed": round(parsed / max(1, records), 4),
        "valid": round(valid / max(1, records), 4),
    }
