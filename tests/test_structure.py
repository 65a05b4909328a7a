"""The house rules that a reader relies on: rooms import downwards only, and light modules stay light."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

FLOORS = [
    {"errors", "progress", "signals", "files", "settings"},
    {"schema", "data"},
    {"modeling", "hardware"},
    {"training", "scoring", "decoding"},
    {"evaluation", "launching", "service"},
    {"compare", "sweep", "export"},
    {"cluster"},
    {"cli"},
    {"__main__"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
# On one floor, the room on the left may import the one on the right.
ALLOWED = {("data", "schema"), ("settings", "files"), ("settings", "errors"), ("files", "errors")}
ALLOWED |= {("scoring", "decoding")}
HEAVY = ["torch", "transformers", "ray", "pandas", "sklearn", "pyarrow", "matplotlib", "numpy", "deepspeed", "submitit"]
HEAVY += ["fastapi", "starlette", "uvicorn"]


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module


def test_a_room_imports_only_from_rooms_below_it(checkout):
    package = checkout / "src" / "triagekit"
    wrong = []
    for path in package.rglob("*.py"):
        room = path.relative_to(package).parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        for name in imports(path):
            parts = name.split(".")
            if parts[0] != "triagekit" or len(parts) < 2 or parts[1] == room or parts[1] == "__version__":
                continue
            other = parts[1]
            if FLOOR[other] > FLOOR[room] or (FLOOR[other] == FLOOR[room] and (room, other) not in ALLOWED):
                wrong.append(f"{path.relative_to(checkout)} imports {name}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["--version"],
        ["schema", "show", "it_tickets"],
        ["train", "--help"],
        ["score", "--help"],
        ["serve", "--help"],
        ["plan", "lora", "--gpus", "2xA100-80GB"],
        ["submit", "train", "lora", "--site", "csf", "--rung", "2xA100", "--dry-run"],
        ["site", "list"],
        ["jobs", "--help"],
        ["sweep", "--help"],
        ["export", "--help"],
        ["doctor", "--help"],
    ],
)
def test_light_commands_import_nothing_heavy(words):
    script = (
        "import sys\nfrom triagekit.cli.main import main\n"
        f"try:\n    main({words!r})\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
        f"heavy = [name for name in {HEAVY!r} if name in sys.modules]\nassert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_every_module_says_what_it_is(checkout):
    silent = [
        str(path.relative_to(checkout))
        for path in (checkout / "src").rglob("*.py")
        if path.read_text(encoding="utf-8").strip()
        and not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not silent


def test_no_script_was_left_at_the_top(checkout):
    assert [path.name for path in checkout.glob("*.py")] == []
