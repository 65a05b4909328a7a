"""This project's scorer on the run's adapter folder. Its time includes tokenising the tickets and rendering the records."""

from __future__ import annotations

from typing import Any

import torch
from request import Answer, answer, read_request

from triagekit.modeling.segments import SegmentTokenizer
from triagekit.modeling.template import PromptTemplate
from triagekit.scoring.predictor import Predictor
from triagekit.scoring.process_memory import prepare_for_tickets


def main() -> None:
    task, settings = read_request()
    torch.set_num_threads(task.threads)
    precision = settings.get("precision", task.precision)
    run = task.runs[settings.get("run", "json")]
    fields = settings.get("fields")
    predictor = Predictor.from_run(
        run, device=task.device, batch_size=settings["batch"], precision=precision, fields=fields
    )
    prepare_for_tickets()  # as a worker does
    records: list[dict[str, Any] | None] = []

    def generate(places: list[int]) -> Answer:
        predictions = predictor.predict([task.texts[place] for place in places])
        records[:] = [prediction.record for prediction in predictions]
        return Answer(texts=[prediction.text for prediction in predictions])

    def facts(found: Answer) -> dict[str, Any]:
        template = predictor.adapter.segments.template
        # A tokenizer for the schema that was written, which may have fewer fields than the run's.
        segments = SegmentTokenizer(
            predictor.adapter.tokenizer,
            PromptTemplate.from_dict(
                predictor.adapter.tokenizer, {**template.to_dict(), "schema": predictor.schema.to_dict()}
            ),
        )
        lengths = [sum(len(ids) for _, ids in segments.record_ids(record)) for record in records if record is not None]
        return {"written_tokens": sum(lengths)}

    answer(task, generate, facts)


if __name__ == "__main__":
    main()
