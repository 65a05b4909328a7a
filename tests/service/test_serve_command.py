"""What `triage serve` refuses before it listens."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from triagekit.cli.main import main
from triagekit.errors import TriageError
from triagekit.files.resources import find_config
from triagekit.service.settings import ServeSettings
from triagekit.service.token import read_token
from triagekit.settings import load_settings

SECRET = "0123456789abcdef"


def test_the_shipped_file_says_the_defaults() -> None:
    assert load_settings(ServeSettings, find_config("serve", "default"), ["run=x"]) == ServeSettings(run="x")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "some.host"])
def test_other_machines_need_a_token_or_the_word_that_they_need_none(host: str) -> None:
    settings = ServeSettings(run="x", host=host)
    with pytest.raises(TriageError, match=r"--token-file.*--without-token"):
        read_token(settings, {})
    assert read_token(settings, {"TRIAGEKIT_TOKEN": SECRET}) is not None
    assert read_token(ServeSettings(run="x", host=host, without_token=True), {}) is None


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_this_machine_needs_none(host: str) -> None:
    assert read_token(ServeSettings(run="x", host=host), {}) is None


def test_the_token_is_read_from_the_file_before_the_variable(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{SECRET}\n")
    token = read_token(ServeSettings(run="x", token_file=str(file)), {"TRIAGEKIT_TOKEN": "another-0123456789"})
    assert token is not None and token.allows(f"bearer {SECRET}".encode())
    assert not token.allows(b"bearer another-0123456789") and not token.allows(None)


@pytest.mark.parametrize("value", ["", "short", "two words 0123456789", "é" * 20])
def test_a_token_that_protects_nothing_is_refused_without_being_shown(value: str) -> None:
    with pytest.raises(TriageError, match="TRIAGEKIT_TOKEN") as refused:
        read_token(ServeSettings(run="x"), {"TRIAGEKIT_TOKEN": value})
    assert not value or value not in str(refused.value)


def test_the_command_explains_what_it_refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRIAGEKIT_TOKEN", raising=False)
    assert main(["serve", "runs/x", "--host", "0.0.0.0"]) == 2
    assert "anyone who reaches 0.0.0.0" in capsys.readouterr().err
    assert main(["serve", "runs/x", "--token-file", str(tmp_path / "none")]) == 2
    assert "Cannot read the token file" in capsys.readouterr().err
    assert main(["serve", "runs/x", "queue_ticket=5", "max_tickets=2000"]) == 2
    message = capsys.readouterr().err
    assert "Did you mean 'queue_tickets'?" in message
    assert main(["serve", "runs/x", "max_tickets=2000"]) == 2
    assert "max_tickets (2000) is more than queue_tickets (1024)" in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "runs/x", "--port", str(port)]) == 2
    assert f"Cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err


def test_a_wrong_run_ends_the_command_with_its_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", str(tmp_path / "no-run"), "--port", "0"]) == 2
    assert "There is no run at" in capsys.readouterr().err
