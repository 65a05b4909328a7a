"""The whole way: what is kept, what is rejected and why, the same bytes each time, no leaks, nothing lost."""

import json
from collections import Counter

import pytest
from desk import tickets

from triagekit.data.dataset import ProcessedDataset
from triagekit.data.leak_check import leak_check
from triagekit.data.prepare import prepare
from triagekit.data.prepare_settings import PrepareSettings
from triagekit.data.rows import SPLITS, read_rows
from triagekit.data.verify import verify
from triagekit.errors import ProblemsError, TriageError


def run(source, schema, out, **settings):
    return prepare(PrepareSettings(name="desk", source=str(source), schema=str(schema), **settings), out)


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def ids(folder):
    return {split: [row.id for row in read_rows(folder / f"{split}.jsonl")] for split in SPLITS}


def test_every_bad_row_is_listed_with_line_and_reason(tmp_path, schema_path, write):
    good = list(tickets())
    bad = [
        "{broken",
        {"id": "B1", "text": "  ", "category": "Hardware"},
        {"id": "B2", "text": "no such label", "category": "Hardwear"},
        {"id": "B3", "text": "no label at all", "category": None},
        {"id": "T1", "text": "an id seen before", "category": "Hardware"},
        {"id": "B4", "text": good[5]["text"].upper() + "  ", "category": good[5]["category"].lower()},
        {"id": "B5", "text": "x" * 100_001, "category": "Hardware"},
        {"id": "B6", "text": "nul \0 byte", "category": "Hardware"},
    ]
    extra = [
        {"id": "G1", "text": "alias and case are mended", "category": " net "},
        {"id": "G2", "text": "fÃ¼r den Drucker", "category": "HARDWARE"},
        {"id": "G3", "text": good[6]["text"], "category": "Access"},
    ]
    out = tmp_path / "out"
    report = run(write("t.jsonl", [*good, *bad, *extra]), schema_path, out)
    rejects = lines(out / "rejects.jsonl")
    assert [(item["line"], item["reason"]) for item in rejects] == [
        (61, "broken JSON"),
        (62, "empty text"),
        (63, "label outside the schema"),
        (64, "missing label"),
        (65, "duplicate id"),
        (66, "exact duplicate"),
        (67, "text too long"),
        (68, "NUL byte"),
    ]
    assert rejects[2]["id"] == "B2"
    assert all(len(item["raw"]) <= 500 for item in rejects)
    counts = report.manifest["counts"]
    assert counts["read"] == 71 == counts["train"] + counts["val"] + counts["test"] + counts["rejects"]
    kept = {row.id: row for split in SPLITS for row in read_rows(out / f"{split}.jsonl")}
    assert kept["G1"].record == {"summary": None, "category": "Network"}
    assert kept["G2"].text == "für den Drucker"
    assert report.manifest["repairs"] == {"mojibake repaired": 1}
    conflict = lines(out / "conflicts.jsonl")
    assert [row["id"] for row in conflict[0]["rows"]] == ["T6", "G3"]
    assert report.manifest["conflicts"] == {"texts": 1, "rows": 2}
    # Both rows of the conflict stand in the same split.
    assert len({split for split, members in ids(out).items() if {"T6", "G3"} & set(members)}) == 1
    assert set(report.manifest["rejects"].values()) == {1}


def test_the_folder_opens_verifies_and_is_the_same_each_time(tmp_path, schema_path, write):
    source = write("t.jsonl", tickets())
    run(source, schema_path, tmp_path / "a")
    run(source, schema_path, tmp_path / "b")
    for name in ("train.jsonl", "val.jsonl", "test.jsonl", "rejects.jsonl", "conflicts.jsonl", "schema.yaml"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    first, second = (json.loads((tmp_path / name / "manifest.json").read_text()) for name in "ab")
    assert first.pop("created")
    assert second.pop("created")
    assert first == second
    dataset = ProcessedDataset.open(tmp_path / "a")
    assert (dataset.name, dataset.schema.name) == ("desk", "desk")
    assert dataset.manifest["labels"]["train"]["category"] == dict(
        Counter(row.record["category"] for row in dataset.rows("train")).most_common()
    )
    assert [len(dataset.rows(split)) for split in SPLITS] == [48, 6, 6]
    assert dataset.rows("val")[0].slices == {"language": "en"}
    assert verify(tmp_path / "a").good
    with pytest.raises(TriageError, match="Did you mean 'train'"):
        dataset.rows("trian")


def test_changed_files_are_noticed(tmp_path, schema_path, write):
    out = tmp_path / "out"
    run(write("t.jsonl", tickets()), schema_path, out)
    with (out / "val.jsonl").open("a", encoding="utf-8") as handle:
        handle.write('{"id":"new","text":"x","record":{"summary":null,"category":"Access"},"slices":{}}\n')
    (out / "schema.yaml").write_text(schema_path.read_text().replace("Access", "Door"))
    with pytest.raises(ProblemsError) as raised:
        ProcessedDataset.open(out)
    assert "val.jsonl: was changed" in str(raised.value)
    assert "schema.yaml" in str(raised.value)
    report = verify(out)
    assert not report.good
    assert any("val.jsonl" in problem for problem in report.problems)


def test_verify_finds_a_planted_leak_and_a_wrong_label(tmp_path, schema_path, write):
    from triagekit.data.dataset import content_fingerprint
    from triagekit.files.fingerprint import sha256_file

    out = tmp_path / "out"
    run(write("t.jsonl", tickets()), schema_path, out)
    train, test = lines(out / "train.jsonl"), lines(out / "test.jsonl")
    test[0]["text"] = train[0]["text"].upper()
    test[1]["record"]["category"] = "Nowhere"
    (out / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in test))
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["files"]["test.jsonl"] = sha256_file(out / "test.jsonl")
    manifest["fingerprint"] = content_fingerprint(out)
    (out / "manifest.json").write_text(json.dumps(manifest))
    report = verify(out)
    assert report.leak_check["exact"] == 1
    assert any(train[0]["id"] in problem and test[0]["id"] in problem for problem in report.problems)
    assert any("'Nowhere' is not" in problem for problem in report.problems), report.problems


def near(text, n):
    words = text.split()
    return " ".join([*words, *(f"filler{k}" for k in range(30)), f"end{n}"])


def test_near_duplicates_never_straddle(tmp_path, schema_path, write):
    rows = list(tickets(40))
    twins = [{**row, "id": f"{row['id']}-{n}", "text": near(row["text"], n)} for row in rows[:20] for n in range(4)]
    out = tmp_path / "out"
    report = run(write("t.jsonl", [*rows, *twins]), schema_path, out)
    assert report.manifest["duplicates"]["near_groups"] == 20
    assert report.manifest["leak_check"] == {"exact": 0, "near": 0, "threshold": 0.85, "pairs": []}
    texts = {split: [row.text for row in read_rows(out / f"{split}.jsonl")] for split in SPLITS}
    assert not leak_check(texts, 0.85).leaks
    assert all(texts.values())


def test_pairs_that_the_grouping_missed_are_joined_after_the_check(tmp_path, schema_path, write, monkeypatch):
    from triagekit.data import arrange

    # A grouping that finds nothing: the independent check must find every pair, and the result must still be clean.
    monkeypatch.setattr(arrange, "join_near_duplicates", lambda texts, threshold, sets, progress=None: len(texts))
    rows = list(tickets(40))
    twins = [{**row, "id": f"{row['id']}-{n}", "text": near(row["text"], n)} for row in rows[:20] for n in range(4)]
    report = run(write("t.jsonl", [*rows, *twins]), schema_path, tmp_path / "out")
    assert report.manifest["duplicates"]["joined_after_check"] > 0
    assert report.manifest["leak_check"]["near"] == 0
    assert verify(tmp_path / "out").good


def test_duplicates_kept_and_conflicts_dropped(tmp_path, schema_path, write):
    rows = list(tickets(30))
    again = {**rows[3], "id": "again"}
    other = {**rows[4], "id": "other", "category": "Access"}
    source = write("t.jsonl", [*rows, again, other])
    report = run(source, schema_path, tmp_path / "keep", duplicates={"mode": "keep"})
    assert report.manifest["counts"]["rejects"] == 0
    report = run(source, schema_path, tmp_path / "drop", duplicates={"conflicts": "drop"})
    assert report.manifest["rejects"] == {"conflicting labels": 2, "exact duplicate": 1}


def test_group_split(tmp_path, schema_path, write):
    rows = [{**row, "customer": f"C{n % 12}"} for n, row in enumerate(tickets(120))]
    out = tmp_path / "out"
    run(write("t.jsonl", rows), schema_path, out, split={"method": "group", "group": "customer"})
    groups = {split: {int(name[1:]) % 12 for name in members} for split, members in ids(out).items()}
    assert all(groups.values())
    assert not groups["train"] & groups["test"]
    assert not groups["train"] & groups["val"]
    assert not groups["val"] & groups["test"]


def test_time_split_drops_older_twins_of_later_rows(tmp_path, schema_path, write):
    rows = [{**row, "opened": f"2020-01-{n % 28 + 1:02d}"} for n, row in enumerate(tickets(56))]
    twin = {**rows[27], "id": "old twin", "text": near(rows[27]["text"], 1), "opened": "2020-01-01"}
    late = {**rows[27], "id": "late twin", "text": near(rows[27]["text"], 2), "opened": "2020-01-28"}
    broken = {**rows[0], "id": "no time", "text": "some other text", "opened": "28.1.2020"}
    out = tmp_path / "out"
    report = run(write("t.jsonl", [*rows, twin, late, broken]), schema_path, out, split={"time": "opened"})
    members = ids(out)
    days = {split: {int(n[1:]) % 28 for n in names if n.startswith("T")} for split, names in members.items()}
    assert max(days["train"]) < min(days["val"])
    assert max(days["val"]) < min(days["test"])
    assert "late twin" in members["test"]
    assert report.manifest["rejects"] == {"near-duplicate in a later split": 1, "no time for the split": 1}
    assert report.manifest["split"]["method"] == "time"


def test_official_split_column_keeps_its_test_rows(tmp_path, schema_path, write):
    rows = [{**row, "part": "test" if n % 5 == 0 else "train"} for n, row in enumerate(tickets(60))]
    leaked = {**rows[0], "id": "leaked", "part": "train"}
    odd = {**rows[1], "id": "odd", "text": "another text", "part": "prod"}
    out = tmp_path / "out"
    report = run(write("t.jsonl", [*rows, leaked, odd]), schema_path, out, split={"official": "part"})
    members = ids(out)
    assert sorted(members["test"]) == sorted(row["id"] for row in rows if row["part"] == "test")
    assert members["val"]
    assert report.manifest["rejects"] == {"exact duplicate": 1, "no official for the split": 1}


def test_label_text_folder_of_an_earlier_project(tmp_path, write):
    schema = tmp_path / "groups.yaml"
    schema.write_text(
        "name: groups\nfields:\n  - {name: group, kind: enum, values: ['111', '9007199254740993', '0']}\n", "utf-8"
    )
    labels = [111, 9007199254740993, 0]
    for split, count in (("train", 40), ("test", 10)):
        rows = [{"label": labels[n % 3], "text": f"{split} {row['text']}"} for n, row in enumerate(tickets(count))]
        write(f"source/{split}/data.json", rows)
    out = tmp_path / "out"
    report = run(tmp_path / "source", schema, out)
    assert report.manifest["split"]["method"] == "official"
    test = read_rows(out / "test.jsonl")
    assert [row.record["group"] for row in test[:3]] == ["111", "9007199254740993", "0"]
    assert [row.id for row in test[:2]] == ["test/data.json:1", "test/data.json:2"]
    assert report.manifest["counts"]["val"] > 0
    assert [source["path"] for source in report.manifest["sources"]] == ["test/data.json", "train/data.json"]


def test_fallback_for_labels_outside_the_schema(tmp_path, schema_path, write):
    rows = [*tickets(30), {"id": "X", "text": "something quite new", "category": "Coffee"}]
    report = run(write("t.jsonl", rows), schema_path, tmp_path / "out", mapping={"fallback": {"category": "Access"}})
    assert report.manifest["counts"]["rejects"] == 0
    assert report.manifest["repairs"] == {"labels outside the schema set to the fallback": 1}


def test_mistakes_are_told_before_the_work(tmp_path, schema_path, write):
    source = write("t.jsonl", tickets(30))
    out = tmp_path / "out"
    with pytest.raises(ProblemsError, match="Did you mean 'text'"):
        run(source, schema_path, out, mapping={"text": "txt"})
    with pytest.raises(ProblemsError, match="Did you mean 'language'"):
        run(source, schema_path, out, split={"group": "langage"})
    with pytest.raises(ProblemsError, match="Did you mean 'category'"):
        run(source, schema_path, out, split={"stratify": ["categories"]})
    with pytest.raises(TriageError, match=r"no usable row .*empty text: 1"):
        run(write("e.jsonl", [{"text": "", "category": "x"}]), schema_path, out)
    assert not out.exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(TriageError, match="not replaced"):
        run(source, schema_path, tmp_path / "mine")


def test_no_manifest_says_how_to_make_one(tmp_path):
    with pytest.raises(TriageError, match="triage data prepare"):
        ProcessedDataset.open(tmp_path)


def test_a_cut_row_is_named(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text('{"id":"1","text":"a","record":{},"slices":{}}\n{"id":"2","te')
    with pytest.raises(TriageError, match=r"train\.jsonl:2"):
        read_rows(path)


@pytest.mark.realdata
def test_real_assignment_tickets(tmp_path, real_data):
    from triagekit.files.resources import find_config
    from triagekit.settings import load_settings

    source = real_data / "itsm_assignment_8500.parquet"
    settings = load_settings(PrepareSettings, find_config("data", "itsm_assignment"), [f"source={source}"])
    manifest = prepare(settings, tmp_path / "out").manifest
    assert manifest["counts"]["read"] == 8500
    assert manifest["duplicates"]["texts"] == 8500 - 678
    assert manifest["conflicts"]["texts"] == 18
    assert manifest["repairs"]["mojibake repaired"] > 500
    assert manifest["slices"]["train"]["language"]["de"] > 300
    assert (manifest["leak_check"]["exact"], manifest["leak_check"]["near"]) == (0, 0)
    assert verify(tmp_path / "out").good


def test_every_shipped_config_loads_and_names_fields_of_its_schema(checkout):
    from triagekit.files.resources import find_config, shipped_names
    from triagekit.schema.load import load_schema
    from triagekit.settings import load_settings

    names = shipped_names("data")
    assert {"it_tickets", "itsm_assignment", "apache_change_risk", "call_centre"} <= set(names)
    for name in names:
        settings = load_settings(PrepareSettings, find_config("data", name))
        if settings.schema_name not in shipped_names("schema"):
            assert name == "endava"  # its schema is drafted from the data
            continue
        schema = load_schema(settings.schema_name)
        mapping = settings.mapping
        assert {*mapping.labels, *mapping.tags, *mapping.values, *mapping.constants} <= set(schema.field_names)
        for field, rules in mapping.tags.items():
            assert {rule.tag for rule in rules} <= set(schema.field(field).values)
