"""Does a row get the same numbers in any company? Of this machine's matrix products, and of the decoder built on them.

    python benchmarks/batch_invariance.py [--tickets 400]

For each shape and number of threads: the numbers of rows in a product at which some row differs from what it is among 1,024.
Then generated tickets in batches of several sizes and orders: records, and confidences to the last bit, against one batch of
all; and the same with the decoder's rows not brought to multiples of four.
"""

from __future__ import annotations

import argparse
import random
from typing import Any

from record import write_record

SHAPES = ((256, 256), (256, 768), (768, 256), (896, 4864), (4864, 896), (256, 48))
THREADS = (1, 2, 3, 4, 8)
BATCHES = ((1, 1), (3, 1), (7, 2), (32, 1), (64, 2), (128, 4))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tickets", type=int, default=400)
    options = parser.parse_args()
    figures = {
        "products": products(),
        "decoder": decoder(options.tickets, 4),
        "decoder_not_in_fours": decoder(options.tickets, 1),
    }
    print(write_record("batch_invariance", figures))


def products() -> list[dict[str, Any]]:
    """Of every shape [rows, inner] x [inner, columns]: where rows differ."""
    import torch

    generator = torch.Generator().manual_seed(0)
    counts = [*range(1, 130), *range(130, 1024, 38)]
    found = []
    for kind in ("float32", "bfloat16"):
        for inner, columns in SHAPES:
            rows = torch.randn(1024, inner, generator=generator).to(getattr(torch, kind))
            weight = torch.randn(columns, inner, generator=generator).to(getattr(torch, kind))
            torch.set_num_threads(1)
            whole = torch.nn.functional.linear(rows, weight)
            for threads in THREADS:
                torch.set_num_threads(threads)
                unlike = [
                    count
                    for count in counts
                    if not torch.equal(torch.nn.functional.linear(rows[:count], weight), whole[:count])
                ]
                case = {"type": kind, "inner": inner, "columns": columns, "threads": threads}
                case |= {"differ": unlike, "multiples_of_four": [count for count in unlike if not count % 4]}
                found.append(case)
                print(case, flush=True)
    return found


def decoder(count: int, rows: int) -> list[dict[str, Any]]:
    """Equal records and equal bits for each batch size, with products of multiples of `rows` rows."""
    import torch

    from triagekit.data.generator import generate_tickets
    from triagekit.decoding import batch_invariance
    from triagekit.decoding.decoder import BatchedDecoder
    from triagekit.modeling.base import load_base, load_tokenizer
    from triagekit.modeling.segments import SegmentTokenizer
    from triagekit.modeling.template import PromptSettings, PromptTemplate
    from triagekit.schema import load_schema

    tokenizer, settings = load_tokenizer("embedded"), PromptSettings(strategy="explicit", max_length=1024)
    segments = SegmentTokenizer(tokenizer, PromptTemplate(tokenizer, load_schema("it_tickets"), settings))
    model = load_base("embedded", precision="fp32", device="cpu")
    texts = [row["text"] for row in generate_tickets(count, seed=3)]
    torch.set_num_threads(1)
    batch_invariance.STEPS = ((None, 4),)
    whole = BatchedDecoder(model, segments, batch_size=count).decode(texts)
    batch_invariance.STEPS = ((None, rows),)
    found = []
    for batch_size, threads in BATCHES:
        torch.set_num_threads(threads)
        places = list(range(count if batch_size > 3 else count // 8))
        random.Random(batch_size).shuffle(places)
        records = BatchedDecoder(model, segments, batch_size=batch_size).decode([texts[place] for place in places])
        pairs = [(record, whole[place]) for place, record in zip(places, records, strict=True)]
        case = {
            "batch_size": batch_size,
            "threads": threads,
            "tickets": len(pairs),
            "equal_records": sum(one.text == other.text for one, other in pairs),
            "equal_to_the_bit": sum(one == other for one, other in pairs),
        }
        found.append(case)
        print(case, flush=True)
    return found


if __name__ == "__main__":
    main()
