"""Nodes: processes of the real binary, each with its own data directory."""

import json
import os
import pathlib
import subprocess
import time
import urllib.error
import urllib.request

BINARY = os.environ["PAGE_NODE"]
#: How long anything may take on a busy machine.
DEADLINE_S = 120


def wait(what, ask, deadline_s=DEADLINE_S):
    """Calls `ask` until it returns something true, and returns that."""
    end = time.monotonic() + deadline_s
    while True:
        answer = ask()
        if answer:
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline_s} s: {what}")
        time.sleep(0.05)


class Node:
    """A running node. `boot`: addresses of other nodes; `more`: further flags."""

    def __init__(self, folder, boot=(), more=()):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir()
        self.boot = list(boot)
        self.more = list(more)
        self.log = self.folder.with_suffix(".log")
        self.http = "127.0.0.1:0"
        self.start()

    def start(self):
        args = ["--data-dir", self.folder, "--listen", "/ip4/127.0.0.1/tcp/0", "--http", self.http, "--mdns", "false"]
        for addr in self.boot:
            args += ["--bootstrap", addr]
        args += self.more
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([BINARY, *args], stdout=log, stderr=log)
        self.status = wait(f"{self.folder.name} runs", self._status)
        # Kept for a restart, because the browser stays at this address.
        self.http = self.status["http"]

    def _status(self):
        if self.process.poll() is not None:
            raise AssertionError(f"the node ended:\n{self.log.read_text()}")
        done = self.run("status", "--json", check=False)
        status = json.loads(done.stdout) if done.returncode == 0 else {}
        return status if status.get("http") and status.get("listen") else None

    def run(self, *args, check=True):
        """Runs a command of the command line against this node."""
        done = subprocess.run([BINARY, "--data-dir", self.folder, *args], capture_output=True, text=True, timeout=2 * DEADLINE_S)
        if check and done.returncode != 0:
            raise AssertionError(f"{args}: {done.stderr}")
        return done

    @property
    def addr(self):
        return self.status["listen"][0]

    @property
    def peer(self):
        return self.status["peer"]

    @property
    def url(self):
        return f"http://{self.http}/"

    @property
    def token(self):
        return (self.folder / "api.token").read_text().strip()

    def call(self, method, path, headers=None):
        """Calls the API and returns the headers and the JSON of the response."""
        headers = {"authorization": f"Bearer {self.token}", "tus-resumable": "1.0.0", **(headers or {})}
        request = urllib.request.Request(f"{self.url}api/v1{path}", method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
            body = answer.read()
            return answer.headers, json.loads(body) if body else None

    def provide(self, *paths, more=()):
        """Stores files or folders and returns the record of the first."""
        return json.loads(self.run("provide", *map(str, paths), *more, "--json").stdout.splitlines()[0])

    def create_token(self, name, scope):
        return json.loads(self.run("token", "create", "--name", name, "--scope", scope, "--json").stdout)["token"]

    def uploads(self, name=None):
        """The uploads that the node knows, or those of this name."""
        return [upload for upload in self.call("GET", "/uploads")[1] if name in (None, upload["name"])]

    def clear(self):
        """Deletes all uploads, files and tokens."""
        wait(f"{self.folder.name} is empty", self._clear)

    def _clear(self):
        """Deletes what there is. Returns whether there was nothing: a part of an upload may still be written, and an upload
        may become a file."""
        uploads = self.uploads()
        for upload in uploads:
            self._delete(f"/uploads/{upload['id']}")
        files = self.call("GET", "/files?limit=200")[1]["files"]
        for file in files:
            self._delete(f"/files/{file['cid']}")
        for token in self.call("GET", "/tokens")[1]:
            self._delete(f"/tokens/{token['id']}")
        return not uploads and not files

    def _delete(self, path):
        try:
            self.call("DELETE", path)
        except urllib.error.HTTPError as error:
            # It was deleted meanwhile, or is still being written.
            if error.code not in (404, 410, 423):
                raise

    def sign_in_link(self):
        return self.run("web").stdout.strip()

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
