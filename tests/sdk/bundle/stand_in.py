"""A stand-in of the Hugging Face Hub: the part of its protocol that huggingface_hub speaks for bundles."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

MAIN, OLD = "a" * 40, "b" * 40


class Hub(BaseHTTPRequestHandler):
    """Repositories, each with its commits, each with its files; tokens of private ones; what was asked."""

    repositories: ClassVar[dict[str, dict[str, dict[str, bytes]]]]
    asked: ClassVar[list[str]]
    heads: ClassVar[
        dict[tuple[str, str], str]
    ] = {}  # commit by repository and branch, where it is none of the two

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self) -> None:
        path = self.path.split("?")[0]
        self.asked.append(path)
        parts = path.strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        owner, name, *rest = parts[2:] if api else parts
        commits = self.repositories.get(f"{owner}/{name}")
        if commits is None or (
            owner == "private" and self.headers.get("authorization") != "Bearer hf_secret"
        ):
            return self.send(401, {"X-Error-Code": "RepoNotFound"})
        revision = rest[1] if len(rest) > 1 else "main"
        commit = self.heads.get(
            (f"{owner}/{name}", revision), {"main": MAIN, "v1": OLD}.get(revision, revision)
        )
        if commit not in commits:
            return self.send(404, {"X-Error-Code": "RevisionNotFound"})
        files = commits[commit]
        if api and rest[:1] == ["tree"]:
            rows = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in files.items()
            ]
            return self.send(200, {}, json.dumps(rows).encode())
        if api:
            siblings = [{"rfilename": file} for file in files]
            about = {"id": f"{owner}/{name}", "sha": commit, "siblings": siblings}
            return self.send(200, {}, json.dumps(about).encode())
        if rest[2] not in files:
            return self.send(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        data = files[rest[2]]
        headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": commit}
        return self.send(200, headers, data)

    def send(self, status: int, headers: dict[str, str], content: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


class WritableHub(Hub):
    """Takes pushes with the token ``hf_write``; large files by Git LFS, as the Hub without Xet."""

    visibility: ClassVar[dict[str, str]]
    blobs: ClassVar[dict[str, bytes]]  # by SHA-256
    commits: ClassVar[list[dict[str, Any]]]  # what each push said

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["content-length"]))
        self.blobs[self.path.rsplit("/", 1)[-1]] = content
        self.send(200, {})

    def do_POST(self) -> None:
        body = self.body()
        path = self.path.split("?")[0]
        self.asked.append(path)
        if self.headers.get("authorization") != "Bearer hf_write":
            return self.send(403, {})
        parts = path.strip("/").split("/")
        if path == "/api/validate-yaml":
            return self.reply({})
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        if path.endswith(".git/info/lfs/objects/batch"):
            return self.batch(json.loads(body))
        repo, (action, revision) = "/".join(parts[2:4]), parts[4:6]
        if action == "branch":
            start = self.heads[repo, "main"]
            known = (repo, revision) in self.heads
            self.heads.setdefault((repo, revision), start)
            return self.send(409, {}) if known else self.reply({})
        if action == "preupload":
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            return self.reply({"files": files})
        return self.commit(repo, revision, [json.loads(line) for line in body.splitlines()])

    def body(self) -> bytes:
        if "content-length" in self.headers:
            return self.rfile.read(int(self.headers["content-length"]))
        content = b""
        while size := int(self.rfile.readline(), 16):  # chunked
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def reply(self, answer: dict[str, Any]) -> None:
        self.send(200, {"Content-Type": "application/json"}, json.dumps(answer).encode())

    def create(self, asked: dict[str, Any]) -> None:
        repo = f"{asked['organization'] or 'somebody'}/{asked['name']}"
        url = f"http://{self.headers['host']}/{repo}"
        if repo in self.repositories:
            return self.send(409, {"Content-Type": "application/json"}, json.dumps({"url": url}).encode())
        private = asked.get("private")  # as huggingface_hub said it until version 1
        self.visibility[repo] = asked.get("visibility") or ("private" if private else "public")
        self.repositories[repo] = {MAIN: {".gitattributes": b""}}
        self.heads[repo, "main"] = MAIN
        return self.reply({"url": url})

    def batch(self, asked: dict[str, Any]) -> None:
        objects = []
        for each in asked["objects"]:
            href = f"http://{self.headers['host']}/lfs/{each['oid']}"
            actions = {} if each["oid"] in self.blobs else {"actions": {"upload": {"href": href}}}
            objects.append({"oid": each["oid"], "size": each["size"], **actions})
        self.reply({"transfer": "basic", "objects": objects})

    def commit(self, repo: str, revision: str, lines: list[dict[str, Any]]) -> None:
        head = self.heads[repo, revision]
        summary = lines[0]["value"]
        if summary.get("parentCommit", head) != head:
            return self.send(412, {})
        files = dict(self.repositories[repo][head])
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.blobs[value["oid"]]
            else:
                del files[value["path"]]
        oid = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.repositories[repo][oid] = files
        self.heads[repo, revision] = oid
        self.commits.append({"repo": repo, "revision": revision, "message": summary["summary"]})
        return self.reply(
            {"commitUrl": f"http://{self.headers['host']}/{repo}/commit/{oid}", "commitOid": oid}
        )


@contextmanager
def served(hub: type[Hub]) -> Iterator[str]:
    """The endpoint of a hub that is served meanwhile."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def asked_in_a_process(
    program: str, endpoint: str, home: Path, *calls: dict[str, Any], **environment: str
) -> list[Any]:
    """The lines of JSON that ``program`` prints for the calls. huggingface_hub reads its environment once, so it runs
    in a process of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", program],
        input="".join(json.dumps(call) + "\n" for call in calls),
        env=kept | {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1"} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]
