"""`triage export push`: an adapter or a merged model to a hub. Shows what it would do; uploads only when told to."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from triagekit.errors import TriageError
from triagekit.export.peft_folder import export_adapter
from triagekit.export.source import is_merged, open_run, read_record

if TYPE_CHECKING:
    from huggingface_hub import HfApi

HUB = "https://huggingface.co"
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_SUMMARY_LENGTH = 300


@dataclass(frozen=True)
class PushTarget:
    """Where to. `endpoint` None: the library's own (HF_ENDPOINT, else the public hub)."""

    repo: str
    endpoint: str | None = None
    public: bool = False

    def check(self) -> None:
        """Raise TriageError for a repository or an endpoint that cannot be one."""
        if not _REPO.fullmatch(self.repo) or "--" in self.repo or ".." in self.repo:
            raise TriageError(f"--repo {self.repo}: give owner/name, e.g. my-organisation/ticket-triage")
        parts = urlsplit(self.endpoint) if self.endpoint is not None else None
        if parts is not None and (parts.scheme not in {"http", "https"} or not parts.hostname):
            raise TriageError(f"--endpoint {self.endpoint}: give the hub's address, e.g. https://hub.example.org")
        if parts is not None and (parts.username or parts.password):
            raise TriageError("--endpoint holds a user or a password. Leave them out; the token comes from HF_TOKEN.")

    @property
    def hub(self) -> str:
        """The hub's address."""
        return (self.endpoint or os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")


def push(
    run: Path,
    target: PushTarget,
    merged: Path | None = None,
    upload: bool = False,
    base: str | None = None,
    device: str | None = None,
) -> dict[str, Any]:
    """Show (`upload` False: without any network), or make the repository and upload, the adapter of `run` in PEFT's
    format, or the folder `merged` that `triage export merge` has made of it.

    Returns target, files with sizes, the model card, and after an upload the commit's address. The token is the library's
    business (HF_TOKEN or its login) and never part of a message. Raises TriageError where the hub refuses, with what to do.
    """
    target.check()
    if upload:
        _refuse_offline()
    source = open_run(run)
    with ExitStack() as stack:
        if merged is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="triagekit-push-"))) / source.name
            export_adapter(run, folder, base, device)
        else:
            folder = merged
            _check_merged(folder, source.card["fingerprint"], run)
        files = {
            path.relative_to(folder).as_posix(): path.stat().st_size
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        plan: dict[str, Any] = {
            "kind": "push",
            "what": "adapter" if merged is None else "merged",
            "run": source.name,
            "adapter_fingerprint": source.card["fingerprint"],
            "repo": target.repo,
            "hub": target.hub,
            "visibility": "public" if target.public else "private",
            "uploaded": False,
            "files": files,
            "card": (folder / "README.md").read_text(encoding="utf-8"),
        }
        if upload:
            plan |= {"uploaded": True, **_upload(folder, target, source.name)}
    return plan


def _check_merged(folder: Path, fingerprint: str, run: Path) -> None:
    if not folder.is_dir() or not is_merged(folder):
        raise TriageError(f"--merged {folder} is no merged model. Make one: triage export merge {run} --out {folder}")
    if (found := read_record(folder).get("adapter_fingerprint")) != fingerprint:
        raise TriageError(
            f"--merged {folder} was made from adapter {found}, but {run} has {fingerprint}. "
            f"Merge again: triage export merge {run} --out {folder}"
        )


def _refuse_offline() -> None:
    from huggingface_hub import constants

    if constants.is_offline_mode():
        raise TriageError(
            "Uploading needs the network, but this process is offline (--offline, HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE). "
            "Leave that out, or leave out --yes to see what would be uploaded."
        )


def _upload(folder: Path, target: PushTarget, name: str) -> dict[str, str]:
    """Returns the commit's address, and whether the repository is private or public as the hub says."""
    from huggingface_hub import HfApi

    # The transport's error by the hub library's name for it: which transport that is changes with its versions.
    from huggingface_hub.errors import HfHubHTTPError, HTTPError  # type: ignore[attr-defined]
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    api = HfApi(endpoint=target.endpoint)
    step = "making the repository"
    try:
        visibility = _make_repository(api, target)
        step = "uploading"
        with _transfers_of(target):
            commit = api.upload_folder(
                repo_id=target.repo, folder_path=folder, commit_message=f"triagekit run {name}", token=_token()
            )
    except HfHubHTTPError as error:
        raise TriageError(_refusal(error, target, step)) from None
    except (HTTPError, OSError) as error:
        raise TriageError(
            f"No answer from {target.hub} while {step}: {_short(error)} Is the address right, and is there network? "
            "The same command goes on with what is missing."
        ) from None
    except (ValueError, KeyError) as error:
        raise TriageError(
            f"{target.hub} does not answer as a hub does while {step}: {_short(error)} Is the address right?"
        ) from None
    return {"commit": str(commit.commit_url), "visibility": visibility}


@contextmanager
def _transfers_of(target: PushTarget) -> Iterator[None]:
    """Large files go by Git LFS to any hub but the public one: its own protocol, which the library would try alone, is
    spoken by few others."""
    from huggingface_hub import constants

    before = constants.HF_HUB_DISABLE_XET
    constants.HF_HUB_DISABLE_XET = before or target.hub != HUB
    try:
        yield
    finally:
        constants.HF_HUB_DISABLE_XET = before


def _make_repository(api: HfApi, target: PushTarget) -> str:
    """Make it; one that is there keeps its visibility, and must not be more visible than was asked for."""
    api.create_repo(target.repo, private=not target.public, exist_ok=True, token=_token())
    private = api.model_info(target.repo, token=_token()).private
    if private is not True and not target.public:
        raise TriageError(
            f"{target.repo} is there already and is public. Say --public to upload into it, make it private on the hub, or "
            "give another --repo."
        )
    return "private" if private else "public"


def _token() -> bool | None:
    """True: the token of the environment or the login, required. A hub of one's own may ask for none: then None."""
    from huggingface_hub import get_token

    return True if get_token() else None


def _refusal(error: Any, target: PushTarget, step: str) -> str:
    status = error.response.status_code if error.response is not None else None
    said = getattr(error, "server_message", None)
    reason = f" It says: {_short(said)}" if said else ""
    where = f"{target.hub} refused {step} {target.repo} (HTTP {status})."
    if status == 401:
        return (
            f"{where} It knows no valid token. Set HF_TOKEN to a token with write access, or run: hf auth login{reason}"
        )
    if status == 403:
        owner = target.repo.partition("/")[0]
        return f"{where} The token may not write there. Give it write access to '{owner}', or another --repo.{reason}"
    if status == 404:
        return f"{where} There is no such owner or repository, or the token may not see it.{reason}"
    if status in {409, 412}:
        return f"{where} Something else changed it at the same time. Run the same command again.{reason}"
    return f"{where}{reason} The same command goes on with what is missing."


def _short(message: object) -> str:
    """One line, without anything that looks like a token."""
    text = re.sub(r"hf_\w+|Bearer \S+", "…", " ".join(str(message).split()))
    text = text if len(text) <= _SUMMARY_LENGTH else text[: _SUMMARY_LENGTH - 1] + "…"
    return text if text.endswith((".", "!", "?", "…")) else f"{text}."
