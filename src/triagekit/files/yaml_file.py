"""YAML with the line of every key, duplicate keys refused: so that an error can say where to look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triagekit.errors import Problem, ProblemsError, TriageError

if TYPE_CHECKING:
    import yaml

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True)
class YamlDocument:
    """Parsed data with the line of each key path, e.g. `lines[("fields", 0, "name")] == 4`."""

    path: Path | None
    data: Any
    lines: dict[KeyPath, int] = field(default_factory=dict)

    def where(self, key: Sequence[str | int] = ()) -> str:
        """`file:line key` of a key path, or of its nearest parent that stands in the file."""
        path = tuple(key)
        line = next((self.lines[path[:n]] for n in range(len(path), -1, -1) if path[:n] in self.lines), None)
        place = str(self.path) if self.path else "settings"
        if line is not None:
            place += f":{line}"
        dotted = ".".join(str(part) for part in path)
        return f"{place} {dotted}".strip()


def load_yaml(path: Path) -> YamlDocument:
    """Read one YAML document. Raises TriageError for an unreadable file, ProblemsError for bad YAML."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise TriageError(f"No file at {path}.") from None
    except UnicodeDecodeError as error:
        raise TriageError(f"{path} is not UTF-8 text (byte {error.start}). Save it as UTF-8.") from None
    except OSError as error:
        raise TriageError(f"Cannot read {path}: {error.strerror}.") from None
    return parse_yaml(text, path)


def parse_yaml(text: str, path: Path | None = None) -> YamlDocument:
    """Parse YAML `text`; `path` is only used in messages."""
    try:
        import yaml
    except ImportError:
        raise TriageError("PyYAML is needed to read YAML files: pip install pyyaml") from None

    name = str(path) if path else "text"
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        lines: dict[KeyPath, int] = {}
        problems: list[Problem] = []
        if root is not None:
            _walk(root, (), lines, problems, name)
        if problems:
            raise ProblemsError(f"{name} has duplicate keys:", problems)
        return YamlDocument(path, yaml.safe_load(text), lines)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise ProblemsError(f"{name} is not valid YAML:", [Problem(f"{name}:{line}", str(error.problem))]) from None
    except yaml.YAMLError as error:
        raise TriageError(f"{name} is not valid YAML: {error}") from None


def _walk(node: yaml.Node, key: KeyPath, lines: dict[KeyPath, int], problems: list[Problem], name: str) -> None:
    import yaml

    lines.setdefault(key, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key_node, value_node in node.value:
            child = str(key_node.value)
            line = key_node.start_mark.line + 1
            if child in seen and child != "<<":
                problems.append(Problem(f"{name}:{line}", f"'{child}' stands here again; first on line {seen[child]}."))
            seen[child] = line
            lines[(*key, child)] = line
            _walk(value_node, (*key, child), lines, problems, name)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _walk(item, (*key, index), lines, problems, name)
