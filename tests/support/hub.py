"""A local server with the part of the hub's API that an upload of a model needs."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Hub:
    """Runs in a thread; `address` is its URL. It accepts one token."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.private: dict[str, bool] = {}
        """By repository: whether it is private."""
        self.files: dict[str, dict[str, bytes]] = {}
        """By repository: the contents of its files."""
        self.requests: list[str] = []
        self.broken = False
        """Whether commits fail."""
        hub = self

        class Handler(_Handler):
            state = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self.blobs: dict[str, bytes] = {}
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> "Hub":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    state: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        repository = "/".join(self.path.split("?")[0].split("/")[3:5])
        if not self._accepted():
            return
        if repository in self.state.private:
            self._send({"id": repository, "modelId": repository, "sha": "0" * 40, "siblings": []})
        else:
            self._send({"error": "not found"}, 404, {"X-Error-Code": "RepoNotFound"})

    def do_PUT(self) -> None:
        """Store a large file."""
        body = self._body()
        self.state.blobs[hashlib.sha256(body).hexdigest()] = body
        self._send({})

    def do_POST(self) -> None:
        body = self._body()
        if self.path == "/api/validate-yaml":
            self._send({"errors": [], "warnings": []})
        elif not self._accepted():
            pass
        elif self.path == "/api/repos/create":
            self._create(json.loads(body))
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            modes = [("lfs" if f["path"].endswith(".safetensors") else "regular") for f in files]
            self._send(
                {
                    "files": [
                        {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}
                        for file, mode in zip(files, modes, strict=True)
                    ]
                }
            )
        elif self.path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            upload = {"upload": {"href": f"{self.state.address}/blob"}}
            self._send(
                {"transfer": "basic", "objects": [item | {"actions": upload} for item in objects]}
            )
        elif "/commit/" in self.path:
            self._commit("/".join(self.path.split("/")[3:5]), body)
        else:
            self._send({"error": "not found"}, 404)

    def _create(self, request: dict[str, Any]) -> None:
        repository = f"{request['organization']}/{request['name']}"
        if repository in self.state.private:
            self._send({"error": "exists", "url": f"{self.state.address}/{repository}"}, 409)
            return
        private = request.get("private") or request.get("visibility") == "private"
        self.state.private[repository] = bool(private)
        self.state.files[repository] = {}
        self._send({"url": f"{self.state.address}/{repository}"})

    def _commit(self, repository: str, body: bytes) -> None:
        if self.state.broken:
            self._send({"error": f"no room for {self.state.token}"}, 507)
            return
        files = self.state.files[repository]
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.state.blobs[value["oid"]]
        url = f"{self.state.address}/{repository}/commit/{'1' * 40}"
        self._send({"success": True, "commitOid": "1" * 40, "commitUrl": url})

    def _accepted(self) -> bool:
        self.state.requests.append(f"{self.command} {self.path}")
        if self.headers.get("authorization") == f"Bearer {self.state.token}":
            return True
        self._send({"error": "Invalid username or password."}, 401)
        return False

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def _send(
        self, data: dict[str, Any], code: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        body = json.dumps(data).encode()
        self.send_response(code)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
