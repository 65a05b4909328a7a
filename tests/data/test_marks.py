"""Reading on from any mark gives the very pieces that reading from the beginning gives."""

from __future__ import annotations

import gzip
import json
import random

import pytest
import zstandard

from triagekit.data.marks import Mark
from triagekit.data.source_settings import SourceSettings
from triagekit.data.sources import SourceFile


def texts(count):
    source = random.Random(3)
    words = ["printer", "señal", "日本", "🖨️", 'say "hi"', "a,b;c", "two\nlines", "x" * 40]
    return [" ".join(source.choices(words, k=source.randint(1, 6))) for _ in range(count)]


def csv_text(rows):
    lines = ["id,text\r\n"]
    for number, text in enumerate(rows):
        quoted = text.replace('"', '""')
        lines.append(f'{number},"{quoted}"\r\n')
        if number % 9 == 4:
            # Behind a broken row, a line whose first cell looks like no id is a part of it.
            broken = '77,"never closed\n8,"a"\njunk words,here\n'
            lines.append(["ragged,a,b\n", broken, "\n", "9,\0nul\n"][number % 4])
    return "".join(lines)


def jsonl_text(rows):
    lines = [json.dumps({"id": number, "text": text}, ensure_ascii=number % 2 == 0) for number, text in enumerate(rows)]
    lines[5:5] = ["", "{broken", "[1]", "x" * 3000]
    return "\n".join(lines)


def array_text(rows):
    return json.dumps([{"id": number, "text": text} for number, text in enumerate(rows)], indent=1, ensure_ascii=False)


ROWS = texts(120)
FILES = {
    "comma.csv": csv_text(ROWS).encode(),
    "bom.csv": b"\xef\xbb\xbf" + csv_text(ROWS).encode(),
    "windows.csv": b"id;text\n" + "".join(f"{n};Störung größer ÄÖÜ {n}\n" for n in range(60)).encode("cp1252"),
    "wide.csv": csv_text(ROWS).encode("utf-16"),
    "old_mac.csv": "".join(f"{line}\r" for line in ["id,text", *(f"{n},Ticket {n}" for n in range(50))]).encode(),
    "lines.jsonl": jsonl_text(ROWS).encode("utf-8", "surrogatepass"),
    "stray.jsonl": jsonl_text(ROWS).encode() + b'\n{"id": 1, "text": "caf\xe9"}\n' * 3,
    "array.json": array_text(ROWS).encode(),
    "plain.txt": "\n".join(text.replace("\n", " ") for text in ROWS).encode(),
}


@pytest.mark.parametrize("name", [*FILES, "comma.csv.gz", "lines.jsonl.zst", "array.json.gz", "groups.parquet"])
def test_from_every_mark_the_rest_is_the_same(tmp_path, name):
    path = tmp_path / name
    settings = SourceSettings(max_row_characters=2000)
    if name.endswith(".parquet"):
        import pyarrow
        import pyarrow.parquet

        table = pyarrow.table(
            {"id": list(range(len(ROWS))), "text": ["\0" if n == 50 else t for n, t in enumerate(ROWS)]}
        )
        pyarrow.parquet.write_table(table, path, row_group_size=35)
    elif name.endswith(".gz"):
        half = len(FILES[name[:-3]]) // 2
        path.write_bytes(gzip.compress(FILES[name[:-3]][:half]) + gzip.compress(FILES[name[:-3]][half:]))
    elif name.endswith(".zst"):
        path.write_bytes(zstandard.compress(FILES[name[:-4]]))
    else:
        path.write_bytes(FILES[name])
    reader = SourceFile(path, name, settings, marked=True)
    pieces, marks = [], []
    for piece in reader:
        pieces.append(piece)
        marks.append(reader.mark())
    assert pieces == list(SourceFile(path, name, settings)) and len(pieces) >= 50
    known = [place for place, mark in enumerate(marks) if mark is not None]
    assert len(known) > 0.6 * len(pieces)
    for place in known:
        mark = Mark.from_json(json.loads(json.dumps(marks[place].to_json())))
        assert mark == marks[place]
        rest = list(SourceFile(path, name, settings, start=mark, marked=True))
        assert rest == pieces[place + 1 :], (place, mark)
