"""`triage schema …` as a person or a script calls it."""

from __future__ import annotations

import csv
import json
import random
import subprocess
import sys

import pytest
from jsonschema import Draft202012Validator

from triagekit.cli.main import main
from triagekit.schema import Schema, load_schema


def test_show_prints_the_file_itself(capsys, checkout):
    assert main(["schema", "show", "it_tickets"]) == 0
    assert capsys.readouterr().out == (checkout / "configs/schema/it_tickets.yaml").read_text(encoding="utf-8")


def test_show_needs_no_library():
    code = (
        "import sys\n"
        "for name in ('yaml', 'pydantic', 'rich'): sys.modules[name] = None\n"
        "from triagekit.cli.main import main\n"
        "sys.exit(main(['schema', 'show', 'change_risk']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "name: change_risk" in done.stdout


def test_show_json_is_the_schema(capsys):
    assert main(["schema", "show", "erp_urgency", "--json"]) == 0
    assert Schema.from_dict(json.loads(capsys.readouterr().out)) == load_schema("erp_urgency")


def test_check_shows_the_fields(capsys):
    assert main(["schema", "check", "it_tickets"]) == 0
    out = capsys.readouterr().out
    assert "depends on category" in out
    assert load_schema("it_tickets").fingerprint in out
    assert main(["schema", "check", "it_tickets", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fields"][0] == "summary"


def test_check_tells_every_mistake(capsys, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("name: x\nfields:\n  - {name: a, kind: enum, values: [yes, yes]}\n  - {name: b, kind: txt}\n")
    assert main(["schema", "check", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.count(f"{path}:3") == 2
    assert f"{path}:4" in error
    assert "Did you mean 'text'?" in error


def test_json_schema_and_prompt(capsys):
    assert main(["schema", "json-schema", "it_tickets"]) == 0
    Draft202012Validator.check_schema(json.loads(capsys.readouterr().out))
    assert main(["schema", "prompt", "it_tickets"]) == 0
    assert "Workplace: Physical Security | Other" in capsys.readouterr().out
    assert main(["schema", "prompt", "it_tickets", "--strategy", "implicit"]) == 0
    assert capsys.readouterr().out.splitlines() == list(load_schema("it_tickets").instructions)


@pytest.fixture
def labelled(tmp_path):
    chance = random.Random(3)
    path = tmp_path / "my tickets.csv"
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(["text", "area", "part", "grade"])
        for number in range(500):
            area = chance.choice("AB")
            part = f"{area}{chance.randint(1, 4)}"
            writer.writerow([f"text {number}", area, part, chance.randint(1, 3)])
    return path


def test_infer_drafts_what_loads_back(capsys, labelled, tmp_path):
    assert main(["schema", "infer", str(labelled), "--fields", "area, part,grade"]) == 0
    out = capsys.readouterr().out
    (tmp_path / "drafted.yaml").write_text(out, encoding="utf-8")
    schema = load_schema(tmp_path / "drafted.yaml")
    assert schema.name == "my_tickets"
    assert schema.field("part").parent == "area"
    assert schema.field("grade").values == ("1", "2", "3")


def test_infer_to_a_file_with_tables_and_as_json(capsys, labelled, tmp_path):
    target = tmp_path / "out" / "mine.yaml"
    words = ["schema", "infer", str(labelled), "--fields", "area,grade", "--parent", "grade=area", "--name", "mine"]
    assert main([*words, "--out", str(target)]) == 0
    out = capsys.readouterr().out
    assert "grade: 3 values" in out
    assert load_schema(target).field("grade").parent == "area"
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert sum(found["counts"]["area"].values()) == 500
    assert Schema.from_dict(found["schema"]) == load_schema(target)


def test_infer_says_what_is_wrong(capsys, labelled):
    assert main(["schema", "infer", str(labelled), "--fields", "aera"]) == 2
    assert "Did you mean 'area'?" in capsys.readouterr().err
    assert main(["schema", "infer", str(labelled), "--fields", "area", "--parent", "area"]) == 2
    assert "expected CHILD=PARENT" in capsys.readouterr().err


@pytest.mark.realdata
def test_infer_on_real_tickets(capsys, real_data, tmp_path):
    target = tmp_path / "endava.yaml"
    columns = "ticket_type,category,sub_category1,sub_category2"
    source = str(real_data / "endava_raw_5k.parquet")
    assert main(["schema", "infer", source, "--fields", columns, "--out", str(target)]) == 0
    schema = load_schema(target)
    assert schema.field("sub_category1").parent == "category"
    assert [len(field.values) for field in schema.label_fields] == [2, 9, 31, 44]
