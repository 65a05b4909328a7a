"""Uploads by the real client to a stand-in hub: what arrives, what is refused, and what people are told."""

from __future__ import annotations

import hashlib
import json
import socket

import pytest
from export_helpers import SECRET
from stand_in_hub import TOKEN, running_hub

from triagekit.cli.main import main
from triagekit.errors import TriageError
from triagekit.export.merged_folder import export_merged
from triagekit.export.push import PushTarget, push

REPO = "desk-team/ticket-triage"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with running_hub() as running:
        yield running


@pytest.fixture(scope="module")
def merged(hybrid_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("push") / "merged"
    export_merged(hybrid_run, out, check_rows=2)
    return out


def test_without_yes_nothing_leaves(hub, lora_run, capsys):
    words = ["export", "push", str(lora_run), "--repo", REPO, "--endpoint", hub.address]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert hub.calls == []
    assert "adapter_model.safetensors" in shown and "library_name: peft" in shown and "private" in shown
    assert "Nothing was uploaded" in shown and TOKEN not in shown
    # Looking at it needs no network, so it works offline too.
    assert main([*words, "--offline", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["uploaded"] is False and plan["files"]["adapter_config.json"] > 100


def test_the_adapter_arrives_whole_and_private(hub, lora_run, capsys):
    words = ["export", "push", str(lora_run), "--repo", REPO, "--endpoint", hub.address, "--yes"]
    assert main(words) == 0
    shown = capsys.readouterr()
    assert f"uploaded: {hub.address}/{REPO}/commit/" in shown.out
    assert TOKEN not in shown.out + shown.err
    assert hub.private == {REPO: True}
    files = hub.files[REPO]
    assert set(files) == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "export.json",
        "schema.yaml",
        "triagekit.json",
    }
    assert files["adapter_model.safetensors"] == (lora_run / "adapter" / "adapter_model.safetensors").read_bytes()
    assert not any(SECRET.encode() in content or str(lora_run).encode() in content for content in files.values())
    # Once more: the repository is there, and that is fine.
    assert main(words) == 0


def test_a_merged_model_of_this_run_and_of_no_other(hub, merged, hybrid_run, lora_run, tmp_path):
    target = PushTarget(REPO, hub.address, public=True)
    done = push(hybrid_run, target, merged, upload=True)
    assert (done["what"], done["visibility"], hub.private[REPO]) == ("merged", "public", False)
    assert hub.files[REPO]["model.safetensors"] == (merged / "model.safetensors").read_bytes()
    with pytest.raises(TriageError, match="was made from adapter"):
        push(lora_run, target, merged)
    with pytest.raises(TriageError, match="is no merged model"):
        push(lora_run, target, tmp_path)


def test_large_files_go_by_git_lfs(hub, merged, hybrid_run):
    hub.large = (".safetensors",)
    weights = (merged / "model.safetensors").read_bytes()
    push(hybrid_run, PushTarget(REPO, hub.address), merged, upload=True)
    assert hub.objects == {hashlib.sha256(weights).hexdigest(): weights}
    assert hub.files[REPO]["model.safetensors"] == weights
    assert sum(call == "POST /verify" for call in hub.calls) == 1
    # Cut off before the commit, the same command finds the large file there and sends only what is missing.
    hub.files[REPO].clear()
    hub.calls.clear()
    push(hybrid_run, PushTarget(REPO, hub.address), merged, upload=True)
    assert hub.files[REPO]["model.safetensors"] == weights
    assert not any(call.startswith("PUT") for call in hub.calls)


def test_a_large_file_that_does_not_arrive_leaves_no_commit(hub, merged, hybrid_run):
    hub.large, hub.refuse = (".safetensors",), {"objects/batch": (403, "your storage is full")}
    with pytest.raises(TriageError, match="your storage is full"):
        push(hybrid_run, PushTarget(REPO, hub.address), merged, upload=True)
    assert hub.files[REPO] == {}


def test_a_public_repository_is_not_filled_unasked(hub, merged, hybrid_run):
    push(hybrid_run, PushTarget(REPO, hub.address, public=True), merged, upload=True)
    hub.files[REPO].clear()
    with pytest.raises(TriageError, match="is public"):
        push(hybrid_run, PushTarget(REPO, hub.address), merged, upload=True)
    assert hub.files[REPO] == {}


@pytest.mark.parametrize(
    ("place", "status", "said"),
    [
        ("create", 401, "Set HF_TOKEN"),
        ("create", 403, "write access to 'desk-team'"),
        ("commit", 409, "Run the same command again"),
        ("preupload", 404, "no such owner or repository"),
        ("create", 500, "went over the brink"),
    ],
)
def test_refusals_say_what_to_do(place, status, said, hub, merged, hybrid_run):
    hub.refuse = {place: (status, f"went over the brink with {TOKEN}")}
    with pytest.raises(TriageError, match=said) as refused:
        push(hybrid_run, PushTarget(REPO, hub.address), merged, upload=True)
    assert f"HTTP {status}" in str(refused.value) and TOKEN not in str(refused.value)


def test_no_token_nobody_there_and_no_hub(hub, merged, hybrid_run, monkeypatch):
    hub.refuse = {"create": (200, "hello")}
    with pytest.raises(TriageError, match="does not answer as a hub does"):
        push(hybrid_run, PushTarget(REPO, hub.address), merged, upload=True)
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    hub.refuse = {}
    with pytest.raises(TriageError, match="knows no valid token"):
        push(hybrid_run, PushTarget(REPO, hub.address), merged, upload=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(TriageError, match="No answer from"):
        push(hybrid_run, PushTarget(REPO, closed), merged, upload=True)


def test_offline_refuses_to_upload(merged, hybrid_run, capsys):
    # The tests run offline, as a node of a cluster may.
    with pytest.raises(TriageError, match="this process is offline"):
        push(hybrid_run, PushTarget(REPO), merged, upload=True)
    assert main(["export", "push", str(hybrid_run), "--repo", REPO, "--yes", "--offline"]) == 2
    assert "uploading needs the network" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("repo", "endpoint", "said"),
    [
        ("ticket-triage", None, "give owner/name"),
        ("a/b/c", None, "give owner/name"),
        ("a/..", None, "give owner/name"),
        (REPO, "hub.example.org", "give the hub's address"),
        (REPO, "https://me:secret@hub.example.org", "token comes from HF_TOKEN"),
    ],
)
def test_targets_that_cannot_be(repo, endpoint, said, lora_run):
    with pytest.raises(TriageError, match=said) as refused:
        push(lora_run, PushTarget(repo, endpoint))
    assert "secret" not in str(refused.value)
