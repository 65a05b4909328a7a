"""A hub of this machine's own: the few addresses that an upload calls, and what was put there."""

from __future__ import annotations

import base64
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_" + "standInToken" * 2


class StandInHub:
    """`files` by repository; `refuse` answers the next calls of an address with a status and a message.

    Files of `large` endings go by Git LFS: into `objects`, named by their SHA-256, before the commit speaks of them.
    """

    def __init__(self) -> None:
        self.large: tuple[str, ...] = ()
        self.objects: dict[str, bytes] = {}
        self.private: dict[str, bool] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        self.refuse: dict[str, tuple[int, str]] = {}
        self.calls: list[str] = []
        self.address = ""

    def answer(self, path: str, body: bytes, token: str | None) -> tuple[int, object]:
        for part, (status, message) in self.refuse.items():
            if part in path:
                return status, {"error": message}
        if path.startswith("/objects/"):  # as a signed address: whoever knows it may write there
            self.objects[path.removeprefix("/objects/")] = body
            return 200, {}
        if token != f"Bearer {TOKEN}":
            return 401, {"error": "Invalid username or password."}
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}"
            if repo in self.files:
                return 409, {"error": "You already created this model repo", "url": f"{self.address}/{repo}"}
            self.files[repo], self.private[repo] = {}, asked["visibility"] == "private"
            return 200, {"url": f"{self.address}/{repo}", "name": repo, "id": repo}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path.endswith(".git/info/lfs/objects/batch"):
            return 200, {"transfer": "basic", "objects": [self._room_for(item) for item in json.loads(body)["objects"]]}
        if path == "/verify":
            asked = json.loads(body)
            whole = len(self.objects.get(asked["oid"], b"")) == asked["size"]
            return (200, {}) if whole else (404, {"error": "Object not found"})
        repo, _, action = path.removeprefix("/api/models/").partition("/")
        name, _, action = action.partition("/")
        repo = f"{repo}/{name}"
        if repo not in self.files:
            return 404, {"error": "Repository not found"}
        if not action:
            return 200, {"id": repo, "_id": "1", "private": self.private[repo], "sha": "0" * 40, "siblings": []}
        if action.startswith("preupload/"):
            files = [item["path"] for item in json.loads(body)["files"]]
            modes = {name: "lfs" if name.endswith(self.large) else "regular" for name in files}
            return 200, {
                "files": [{"path": name, "uploadMode": mode, "shouldIgnore": False} for name, mode in modes.items()]
            }
        if action.startswith("commit/"):
            for line in body.splitlines():
                item = json.loads(line)
                if item["key"] == "file":
                    self.files[repo][item["value"]["path"]] = base64.b64decode(item["value"]["content"])
                elif item["key"] == "lfsFile":
                    self.files[repo][item["value"]["path"]] = self.objects[item["value"]["oid"]]
            return 200, {"commitUrl": f"{self.address}/{repo}/commit/{'a' * 40}", "commitOid": "a" * 40}
        return 404, {"error": f"no {path}"}

    def _room_for(self, item: dict[str, object]) -> dict[str, object]:
        """Where an object is to be put; nowhere, if it is there."""
        oid = str(item["oid"])
        if oid in self.objects:
            return dict(item)
        actions = {"upload": {"href": f"{self.address}/objects/{oid}"}, "verify": {"href": f"{self.address}/verify"}}
        return {**item, "actions": actions}


@contextmanager
def running_hub():
    """A StandInHub that listens on this machine."""
    hub = StandInHub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            path = self.path.partition("?")[0]
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            hub.calls.append(f"{self.command} {path}")
            status, content = hub.answer(path, body, self.headers.get("Authorization"))
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            if status >= 400 and isinstance(content, dict):
                self.send_header("X-Error-Message", content["error"])
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_PUT = do_GET

        def log_message(self, *_):
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
