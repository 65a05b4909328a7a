"""This project's scorer on the run's adapter folder. Its time includes tokenising the tickets and rendering the records."""

from __future__ import annotations

from typing import Any

import torch
from request import Answer, answer, read_request

from triagekit.scoring.predictor import Predictor


def main() -> None:
    task, settings = read_request()
    torch.set_num_threads(task.threads)
    precision = settings.get("precision", "fp32")
    predictor = Predictor.from_run(task.run, device="cpu", batch_size=settings["batch"], precision=precision)
    records: list[dict[str, Any] | None] = []

    def generate(places: list[int]) -> Answer:
        predictions = predictor.predict([task.texts[place] for place in places])
        records[:] = [prediction.record for prediction in predictions]
        return Answer(texts=[prediction.text for prediction in predictions])

    def facts(found: Answer) -> dict[str, Any]:
        segments = predictor.adapter.segments
        lengths = [sum(len(ids) for _, ids in segments.record_ids(record)) for record in records if record is not None]
        return {"written_tokens": sum(lengths)}

    answer(task, generate, facts)


if __name__ == "__main__":
    main()
