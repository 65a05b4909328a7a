"""Archives are streamed in one fixed order, with places and ids that are the same in every reading."""

import gzip
import json

import pytest

from triagekit.data.archive import Ticket, archive_mapper, as_ticket, check_archive
from triagekit.data.mapping import DataMapping
from triagekit.data.pieces import Reject
from triagekit.data.sources import read_source
from triagekit.errors import ProblemsError


def archive(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "2.csv").write_text("id,text\nC1,first\nC2,\nC3,third\n")
    lines = [{"text": f"row {n}"} for n in range(5)]
    content = "\n".join(json.dumps(line) for line in lines) + '\n{"text": \n'
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(content.encode()))
    return tmp_path


def tickets(path, mapping=None):
    mapper = archive_mapper(mapping)
    check_archive(path, mapper)
    return [as_ticket(mapper, piece) for piece in read_source(path)]


def test_order_places_and_ids(tmp_path):
    pieces = tickets(archive(tmp_path))
    assert pieces == tickets(tmp_path)
    assert [(piece.file, piece.line) for piece in pieces] == [
        *[("a.jsonl.gz", n) for n in range(1, 7)],
        *[("b/2.csv", n) for n in range(2, 5)],
    ]
    assert [piece.id for piece in pieces if isinstance(piece, Ticket)] == [
        *[f"a.jsonl.gz:{n}" for n in range(1, 6)],
        "C1",
        "C3",
    ]
    assert [piece.reason for piece in pieces if isinstance(piece, Reject)] == ["broken JSON", "empty text"]


def test_a_training_mapping_serves_without_its_label_columns(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("nr,subject,body\n1,vpn,is down\n")
    mapping = DataMapping(id="nr", text="{subject}\n{body}", labels={"category": "kind"}, slices={"language": "lang"})
    assert tickets(path, mapping) == [Ticket("1", "vpn\nis down", 2, "a.csv")]


def test_plain_lines_and_known_formats_without_labels(tmp_path):
    path = tmp_path / "queries.txt"
    path.write_text("vpn is down\n\nprinter too\n")
    assert [ticket.text for ticket in tickets(path)] == ["vpn is down", "printer too"]
    path = tmp_path / "chat.jsonl"
    path.write_text('{"messages":[{"role":"user","content":"help"}]}\n{"instruction":"Convert.","input":"pc dead"}\n')
    assert [ticket.text for ticket in tickets(path)] == ["help", "pc dead"]


def test_no_text_column_names_what_there_is(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("nr,texts\n1,vpn\n")
    with pytest.raises(ProblemsError, match="Did you mean 'texts'"):
        tickets(path)
