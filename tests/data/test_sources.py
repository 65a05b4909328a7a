"""Every kind of dirt costs the piece that is dirty, with its line and reason, and nothing else."""

import gzip
import io
import json
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from triagekit.data.sources import STRAY_BYTES, RawRow, Reject, SourceSettings, read_source
from triagekit.errors import TriageError


def read(tmp_path, name, content, **options):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return list(read_source(path, SourceSettings(**options)))


def texts(pieces):
    return [piece.values["text"] for piece in pieces if isinstance(piece, RawRow)]


def reasons(pieces):
    return [(piece.line, piece.reason) for piece in pieces if isinstance(piece, Reject)]


def as_csv(separator):
    return f"id{separator}text\n1{separator}Grüße, alle\n2{separator}two\n".encode()


def as_jsonl():
    return b'{"id": "1", "text": "Gr\xc3\xbc\xc3\x9fe, alle"}\n\n{"id": "2", "text": "two"}\n'


def as_parquet():
    sink = io.BytesIO()
    pq.write_table(pa.table({"id": ["1", "2"], "text": ["Grüße, alle", "two"]}), sink)
    return sink.getvalue()


FORMATS = {
    "a.csv": as_csv(";"),
    "a.tsv": as_csv("\t"),
    "a.jsonl": as_jsonl(),
    "a.json": json.dumps([{"id": "1", "text": "Grüße, alle"}, {"id": "2", "text": "two"}], indent=1).encode(),
    "a.parquet": as_parquet(),
    "a.txt": "Grüße, alle\n\ntwo\n".encode(),
}


@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_plain_and_compressed(tmp_path, name, packed):
    pack = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}[packed]
    pieces = read(tmp_path, name + packed, pack(FORMATS[name]))
    assert texts(pieces) == ["Grüße, alle", "two"]
    assert not reasons(pieces)
    assert {piece.file for piece in pieces} == {name + packed}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
def test_encodings_are_recognised(tmp_path, encoding):
    lines = ["id;text", *(f"{n};Der Drucker im Büro läuft nicht, Grüße von Jörg ({n})" for n in range(20))]
    pieces = read(tmp_path, "a.csv", "\r\n".join(lines).encode(encoding))
    assert texts(pieces) == [line.split(";")[1] for line in lines[1:]]


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1251", "Привет, принтер не работает, помогите пожалуйста, я не могу войти в систему"),
        ("gb18030", "我的电脑无法连接到公司的网络，请尽快帮助我解决这个问题，谢谢"),
        ("shift_jis", "プリンターが動きません。至急対応をお願いします。ネットワークに接続できません。"),
    ],
)
def test_other_scripts_are_detected(tmp_path, encoding, text):
    content = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for _ in range(5)).encode(encoding)
    assert texts(read(tmp_path, "a.jsonl", content)) == [text] * 5


def test_a_file_of_two_encodings(tmp_path):
    old = [f"Störung Nr. {n}: Gerät läuft nicht" for n in range(20)]
    new = ["UTF-8: Größe – “quoted” – 北京", "Москва"]
    content = b"text\n" + b"".join(line.encode("cp1252") + b"\n" for line in old)
    content += b"".join(line.encode() + b"\n" for line in new)
    assert texts(read(tmp_path, "a.csv", content, delimiter="|")) == old + new


def test_a_named_encoding_wins(tmp_path):
    content = "text\nä\n".encode("cp850")
    assert texts(read(tmp_path, "a.csv", content, encoding="cp850")) == ["ä"]


def test_stray_bytes_in_a_utf8_file(tmp_path):
    content = "text\nGrüße\nGröße\ncaf\xe9\n".encode("latin-1").replace(b"Gr\xfc\xdfe", "Grüße".encode())
    content = content.replace(b"Gr\xf6\xdfe", "Größe".encode()) + b"x\xff\xfe\x81\n" + b"caf\xc3\nlast\n"
    pieces = read(tmp_path, "a.csv", content)
    assert texts(pieces) == ["Grüße", "Größe", "café", "last"]
    assert pieces[2].repairs == (STRAY_BYTES,)
    assert reasons(pieces) == [(5, "undecodable bytes"), (6, "undecodable bytes")]
    json.dumps(pieces[3].to_json(), ensure_ascii=False).encode("utf-8")


def test_ragged_and_misquoted_csv_rows(tmp_path):
    content = b"""id,text,c
1,hello,x
2,"two ""quoted""
lines",y
3,too,many,cells
4,few
5,"never closed,z
6,good,z
7,"fine, too",z
8,"he said "hi" to me",z
9,nul\0byte,z
10,it's "quoted" inside,z
"""
    pieces = read(tmp_path, "a.csv", content)
    assert texts(pieces) == ["hello", 'two "quoted"\nlines', "good", "fine, too", 'it\'s "quoted" inside']
    assert reasons(pieces) == [
        (5, "ragged row"),
        (6, "ragged row"),
        (7, "text after closing quote"),
        (10, "text after closing quote"),
        (11, "NUL byte"),
    ]
    assert pieces[2].detail == "expected 3 columns, found 4"


def test_text_inside_a_broken_row_is_no_row(tmp_path):
    rows = b"".join(b"%d,row %d\n" % (n, n) for n in range(1, 5))
    broken = b'5,"Hello,\nJohn, I clicked "ok" and\nthen, nothing"\n'
    pieces = read(tmp_path, "a.csv", b"id,text\n" + rows + broken + b"6,good\n")
    assert texts(pieces) == ["row 1", "row 2", "row 3", "row 4", "good"]
    assert reasons(pieces) == [
        (6, "text after closing quote"),
        (7, "part of a broken row"),
        (8, "part of a broken row"),
    ]


def test_a_quote_open_to_the_end_of_the_file(tmp_path):
    content = b'id,text\n1,a\n2,"open\n' + b"".join(b"%d,row %d\n" % (n, n) for n in range(3, 5000))
    pieces = read(tmp_path, "a.csv", content)
    assert len(texts(pieces)) == 1 + 4997
    assert reasons(pieces) == [(3, "quote never closed")]


def test_csv_cells_beyond_the_limit_of_the_csv_module(tmp_path):
    long = "x" * 300_000
    assert texts(read(tmp_path, "a.csv", f'text\n"{long}"\nshort\n'.encode())) == [long, "short"]


def test_csv_headers(tmp_path):
    pieces = read(tmp_path, "a.csv", b"text,,text\na,b,c\n")
    assert pieces[0].values == {"text": "a", "column_2": "b", "text_2": "c"}
    pieces = read(tmp_path, "b.csv", b"1,a\n2,b\n", columns=("id", "text"))
    assert texts(pieces) == ["a", "b"]
    assert texts(read(tmp_path, "c.csv", b"id,text\r1,old\r2,mac\r")) == ["old", "mac"]


def test_broken_json_lines(tmp_path):
    content = b'{"text":"a"}\n{"text": oops}\n[1]\n{"text":"b\\u0000"}\n{"text":"c","n":NaN}\n{"text":"d\0"}\n'
    content += b'{"text":"\\ud83d\\ude00"}\n{"text":"\\ud800"}\n' + b"[" * 50_000 + b'\n{"text":"e"}\n{"text":"cut'
    pieces = read(tmp_path, "a.jsonl", content)
    assert texts(pieces) == ["a", "c", "😀", "e"]
    assert pieces[4].values["n"] is None
    assert reasons(pieces) == [
        (2, "broken JSON"),
        (3, "not a JSON object"),
        (4, "NUL byte"),
        (6, "NUL byte"),
        (8, "undecodable bytes"),
        (9, "broken JSON"),
        (11, "broken JSON"),
    ]


@pytest.mark.parametrize("between", [",", ",\n", "\n,  "])
def test_broken_objects_in_an_array(tmp_path, between):
    objects = [
        '{"text":"a"}',
        '{"text": oops}',
        '{"text":"b","n":{"m":[1,{"x":2}]}}',
        "5",
        '{"text":"open}',
        '{"text":"c"}',
    ]
    pieces = read(tmp_path, "a.json", ("[" + between.join(objects) + "]").encode())
    assert texts([p for p in pieces if isinstance(p, Reject) or "text" in p.values]) == ["a", "b", "c"]
    assert {reason for _, reason in reasons(pieces)} == {"broken JSON", "not a JSON object"}


def test_pretty_printed_objects_and_arrays(tmp_path):
    one = json.dumps({"text": "a", "inner": {"x": [1, 2]}}, indent=2)
    assert texts(read(tmp_path, "a.json", f"{one}\n{one}\n".encode())) == ["a", "a"]
    assert texts(read(tmp_path, "b.jsonl", f"[{one},\n{one}]".encode())) == ["a", "a"]
    assert texts(read(tmp_path, "c.json", b'{"text":"a"}\n{"text":"b"}\n')) == ["a", "b"]


def test_truncated_files_keep_what_came_before(tmp_path):
    rows = b"".join(json.dumps({"text": f"row {n} {n * 7919 % 1009}"}).encode() + b"\n" for n in range(5000))
    pieces = read(tmp_path, "a.jsonl.gz", gzip.compress(rows)[:-2000])
    assert len(texts(pieces)) > 3000
    assert [reason for _, reason in reasons(pieces)] == ["truncated gzip"]
    assert texts(pieces) == texts(read(tmp_path, "whole.jsonl", rows))[: len(texts(pieces))]
    pieces = read(tmp_path, "a.json", b'[{"text":"a"},{"text":"b"},{"te')
    assert texts(pieces) == ["a", "b"]
    assert reasons(pieces) == [(1, "broken JSON")]
    assert reasons(read(tmp_path, "b.jsonl.zst", zstandard.compress(rows)[:-5]))[-1][1] == "truncated zstd"
    broken = bytearray(gzip.compress(rows))
    broken[len(broken) // 2] ^= 0xFF
    assert reasons(read(tmp_path, "c.jsonl.gz", bytes(broken)))[-1][1] in {"broken gzip", "broken JSON"}


def test_long_rows_are_rejected_with_the_limit(tmp_path):
    content = b'{"text":"a"}\n{"text":"' + b"x" * 1_000_000 + b'"}\n{"text":"b"}\n'
    pieces = read(tmp_path, "a.jsonl", content, max_row_characters=100_000)
    assert texts(pieces) == ["a", "b"]
    assert reasons(pieces) == [(2, "row too long")]
    assert "100,000" in pieces[1].detail


def test_broken_parquet(tmp_path):
    assert reasons(read(tmp_path, "a.parquet", b"PAR1 nothing else")) == [(0, "not a readable Parquet file")]
    strings = pa.StringArray.from_buffers(
        3, pa.py_buffer(b"\0\0\0\0\1\0\0\0\5\0\0\0\7\0\0\0"), pa.py_buffer(b"acaf\xe9\xff\xfe")
    )
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": strings, "n": [1, 2, 3]}), sink)
    pieces = read(tmp_path, "b.parquet", sink.getvalue())
    assert texts(pieces) == ["a", "café"]
    assert reasons(pieces) == [(3, "undecodable bytes")]
    sink = io.BytesIO()
    table = pa.table({"text": [f"{n} " + "word " * 50 for n in range(3000)]})
    pq.write_table(table, sink, row_group_size=1000, compression="zstd", use_dictionary=False)
    content = bytearray(sink.getvalue())
    start = pq.ParquetFile(io.BytesIO(sink.getvalue())).metadata.row_group(1).column(0).data_page_offset
    content[start : start + 400] = b"\xff" * 400
    pieces = read(tmp_path, "c.parquet", bytes(content))
    assert len(pieces) == 3000
    assert len(texts(pieces)) == 2000
    assert {reason for _, reason in reasons(pieces)} == {"broken Parquet row group"}


def test_a_folder_is_read_in_a_fixed_order_with_relative_names(tmp_path):
    for name in ("b/2.jsonl", "a/1.jsonl", "a/.hidden.jsonl"):
        read(tmp_path, name, b'{"text":"x"}\n')
    (tmp_path / "notes.docx").write_bytes(b"PK something")
    pieces = list(read_source(tmp_path))
    assert [piece.file for piece in pieces] == ["a/1.jsonl", "b/2.jsonl", "notes.docx"]
    assert pieces[2].reason == "unknown kind of file"


def test_nothing_there_names_the_nearest(tmp_path):
    (tmp_path / "tickets.csv").write_text("text\na\n")
    with pytest.raises(TriageError, match=r"Did you mean '.*tickets\.csv'"):
        list(read_source(tmp_path / "ticket.csv"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(TriageError, match="holds no files"):
        list(read_source(tmp_path / "empty"))


DIRT = [
    b'{"text": "cut',
    b"\0\0\0\0",
    b"[1, 2]",
    b"\xff\xfe\xff",
    b'{"text": "x" "y"}',
    b"}{",
    b'"open',
    b"null",
    b"\xc3(",
]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_good_json_lines_are_never_lost(tmp_path_factory, data):
    good = data.draw(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1), max_size=12))
    lines = [("good", json.dumps({"text": text}, ensure_ascii=data.draw(st.booleans())).encode()) for text in good]
    for dirt in data.draw(st.lists(st.sampled_from(DIRT), max_size=8)):
        lines.insert(data.draw(st.integers(0, len(lines))), ("bad", dirt))
    pieces = read(tmp_path_factory.mktemp("x"), "a.jsonl", b"\n".join(line for _, line in lines))
    assert texts(pieces) == good
    assert len(pieces) == len(lines)


CSV_DIRT = [b"a,b,c,d", b"alone", b'9,"open', b'9,"a "b" c"', b"9,nul\0"]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_good_csv_rows_are_never_lost(tmp_path_factory, data):
    good = data.draw(st.lists(st.text("ab ,\"'ü;|", min_size=1, max_size=12), max_size=12))
    quoted = [b'%d,"%s"' % (n, text.replace('"', '""').encode()) for n, text in enumerate(good)]
    rows = list(quoted)
    dirt = data.draw(st.lists(st.sampled_from(CSV_DIRT), max_size=6))
    for bad in dirt:
        rows.insert(data.draw(st.integers(0, len(rows))), bad)
    pieces = read(tmp_path_factory.mktemp("x"), "a.csv", b"id,text\n" + b"\n".join(rows) + b"\n", delimiter=",")
    found = [piece.values["text"] for piece in pieces if isinstance(piece, RawRow)]
    # Rows of several lines are left out: an open quote before one can be read in two ways.
    assert not [text for text in good if text not in found]
    assert len([piece for piece in pieces if isinstance(piece, Reject)]) >= min(1, len(dirt))


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json"])
def test_memory_stays_flat(tmp_path, name):
    def peak(rows):
        path = tmp_path / name
        with path.open("w", encoding="utf-8") as handle:
            handle.write({"a.csv": "id,text\n", "a.jsonl": "", "a.json": "["}[name])
            for n in range(rows):
                if name == "a.csv":
                    handle.write(f'{n},"a ticket, {n} {"word " * 30}"\n')
                else:
                    end = "" if name == "a.jsonl" else "," if n < rows - 1 else "]"
                    handle.write(json.dumps({"id": n, "text": f"a ticket {n} {'word ' * 30}"}) + end + "\n")
        tracemalloc.start()
        count = sum(isinstance(piece, RawRow) for piece in read_source(path))
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count == rows
        return used

    # Beyond the sample that is looked at for the encoding (1 MiB), more rows take no more memory.
    assert peak(20_000) < 1.3 * peak(8_000) + 500_000
