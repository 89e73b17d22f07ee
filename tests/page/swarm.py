"""Nodes of the real binary, each in a folder of its own."""

import json
import os
import pathlib
import subprocess
import time
import urllib.request

BINARY = os.environ["PAGE_NODE"]
DEADLINE_S = 60


def wait(what, ask, deadline_s=DEADLINE_S):
    """Asks until the answer is true, and answers it."""
    end = time.monotonic() + deadline_s
    while True:
        answer = ask()
        if answer:
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline_s} s: {what}")
        time.sleep(0.05)


class Node:
    """A running node; `boot` are addresses of others, `more` are further flags."""

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
        # The same address after a restart: the browser knows no other.
        self.http = self.status["http"]

    def _status(self):
        if self.process.poll() is not None:
            raise AssertionError(f"the node ended:\n{self.log.read_text()}")
        done = self.run("status", "--json", check=False)
        status = json.loads(done.stdout) if done.returncode == 0 else {}
        return status if status.get("http") and status.get("listen") else None

    def run(self, *args, check=True):
        """A verb of the command line, spoken to this node."""
        done = subprocess.run([BINARY, "--data-dir", self.folder, *args], capture_output=True, text=True, timeout=120)
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
        """A call of the API: headers and JSON of the answer."""
        headers = {"authorization": f"Bearer {self.token}", "tus-resumable": "1.0.0", **(headers or {})}
        request = urllib.request.Request(f"{self.url}api/v1{path}", method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
            body = answer.read()
            return answer.headers, json.loads(body) if body else None

    def sign_in_link(self):
        return self.run("web").stdout.strip()

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
