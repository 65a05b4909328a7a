"""What a job tells of itself, and what another terminal makes of it."""

from __future__ import annotations

import errno
import json
import os

import pytest

from triagekit.cli.main import main
from triagekit.errors import TriageError
from triagekit.scoring.status import SILENT_SECONDS, StatusBoard, read_status, told
from triagekit.scoring.stopping import ScoringInterrupted


def test_a_board_from_the_first_word_to_each_kind_of_end(tmp_path, capsys):
    with told(StatusBoard(tmp_path, 100)) as board:
        assert read_status(tmp_path)["state"] == "running"
        board.scoring_since = board.began - 10
        board.rows_kept, board.rows_scored, board.rejects, board.review = 20, 30, 2, 5
        board.workers = [
            {"worker": 0, "shard": 7, "rows": 30, "rows_per_second": 2.95, "errors": 1, "restarts": 1},
        ]
        counts = {"rows": 30, "tokens": 3030, "prompt_tokens": 75, "padded_prompt_tokens": 100}
        board.work.update(counts | {"slot_steps": 10, "busy_slot_steps": 9})
        board.tell(at_once=True)
        status = read_status(tmp_path)
        assert status["decoding"] == {"tokens_per_ticket": 101, "prompt_padding": 0.25, "idle_slots": 0.1}
        assert (status["rows_done"], status["rows_total"]) == (52, 100)
        assert status["rows_per_second"] == pytest.approx(3, rel=0.2)
        assert status["seconds_left"] == pytest.approx(16, rel=0.2)
        assert board.figures() == {"review": "10.0%", "errors": 0, "workers": "3.0/s"}
        assert main(["score", "status", str(tmp_path)]) == 0
        shown = capsys.readouterr().out
        assert "52 of 100 (52.0%)" in shown and "scored now 30, kept 20, rejects 2" in shown and "2.95" in shown
        assert "101.0 tokens a ticket; padding 25.0%, empty places of the batch 10.0%" in shown
        assert main(["score", "status", str(tmp_path), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["workers"] == board.workers
        # Told every two seconds, not with every part.
        board.rows_scored = 31
        board.tell()
        assert read_status(tmp_path)["rows_scored"] == 30
    assert read_status(tmp_path)["state"] == "finished"
    with pytest.raises(ScoringInterrupted), told(StatusBoard(tmp_path, None)):
        raise ScoringInterrupted(15)
    assert read_status(tmp_path)["state"] == "stopped"
    with pytest.raises(TriageError, match=r"no room left.*stay good.*same command"), told(StatusBoard(tmp_path, None)):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert read_status(tmp_path)["state"] == "failed"


def test_a_driver_that_is_gone(tmp_path):
    StatusBoard(tmp_path, 10).tell(at_once=True)
    assert read_status(tmp_path)["process"] == os.getpid()
    assert read_status(tmp_path, alive=lambda _: False)["state"] == "cut off"
    status = json.loads((tmp_path / "status.json").read_text())
    for silent, state in ((10, "running"), (SILENT_SECONDS + 10, "cut off")):
        told_at = status["updated"] - silent
        (tmp_path / "status.json").write_text(json.dumps(status | {"host": "elsewhere", "updated": told_at}))
        assert read_status(tmp_path)["state"] == state


def test_folders_that_tell_nothing(tmp_path, capsys):
    assert main(["score", "status", str(tmp_path)]) == 2
    assert "is not the --out folder of an archive job" in capsys.readouterr().err
    (tmp_path / "job.json").write_text("{}")
    assert read_status(tmp_path)["state"] == "cut off"
    (tmp_path / "status.json").write_text('{"state": "run')
    with pytest.raises(TriageError, match="is damaged"):
        read_status(tmp_path)
    assert main(["score", "status"]) == 2
    assert main(["score", "archive.csv", "--out", "o"]) == 2
    assert "needs --run" in capsys.readouterr().err
