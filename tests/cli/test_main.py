"""The command line as a whole: help everywhere with an example, typos answered, errors without tracebacks."""

from __future__ import annotations

import argparse
import subprocess
import sys

import pytest

from triagekit.cli import main as cli


def leaves(parser, words=()):
    actions = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not actions:
        yield words, parser
    for action in actions:
        for name, inner in action.choices.items():
            yield from leaves(inner, (*words, name))


@pytest.mark.parametrize("command", list(cli.COMMANDS))
def test_every_command_has_help_with_an_example_and_offline(command):
    parser = cli._parser(command)
    inner = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    for words, leaf in leaves(inner.choices[command], (command,)):
        text = leaf.format_help()
        assert "xample" in text, f"triage {' '.join(words)} --help shows no example"
        assert "--offline" in text, f"triage {' '.join(words)} takes no --offline"


def test_unknown_command_names_the_nearest(capsys):
    assert cli.main(["scor"]) == cli.USER_ERROR
    assert "Did you mean 'triage score'?" in capsys.readouterr().err


def test_errors_come_without_traceback():
    done = subprocess.run(
        [sys.executable, "-m", "triagekit.cli.main", "schema", "check", "no_such_schema"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == cli.USER_ERROR
    assert "Traceback" not in done.stderr
    assert "it_tickets" in done.stderr


def test_closed_pipe_is_not_an_error():
    done = subprocess.run(
        f"{sys.executable} -m triagekit.cli.main schema show it_tickets | head -1",
        shell=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == ""


def test_offline_sets_the_variables_the_libraries_read(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(cli, "go_offline", lambda: monkeypatch.setenv("HF_HUB_OFFLINE", "1"))
    assert cli.main(["schema", "show", "it_tickets", "--offline"]) == 0
    import os

    assert os.environ["HF_HUB_OFFLINE"] == "1"
