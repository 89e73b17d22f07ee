"""Third-party clients and proxies store and read files through the HTTP API, or get an error."""

import concurrent.futures
import grp
import io
import json
import os
import pathlib
import pwd
import shutil
import socket
import subprocess
import tarfile
import tempfile
import unittest

import urllib3

from swarm import DEADLINE_S, Node, wait

CLIENTS = pathlib.Path(os.environ["CLIENTS"])
NGINX = """
user {user}; daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log; worker_processes 1;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
    uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    server {{
        listen 127.0.0.1:{port};
        # nginx as it is installed: HTTP/1.0 to the node, and buffers.
        location /storgo/ {{ proxy_pass http://{node}; proxy_set_header Host $http_host; }}
        location /cut/ {{ proxy_pass http://{node}/; }}
    }}
}}
"""


class Clients(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="storgo-clients-"))
        cls.node = Node(cls.folder / "node", more=["--chunker", "fixed:64KiB", "--http-base-path", "/storgo"])
        cls.auth = f"Authorization: Bearer {cls.node.token}"
        cls.api = f"{cls.node.url}api/v1"
        # nginx inherits the socket, so that nobody else can take the port.
        listener = socket.create_server(("127.0.0.1", 0))
        cls.port = listener.getsockname()[1]
        config = cls.folder / "nginx.conf"
        # As root, nginx would use an account that cannot write to the folder.
        user = f"{pwd.getpwuid(os.getuid()).pw_name} {grp.getgrgid(os.getgid()).gr_name}"
        config.write_text(NGINX.format(user=user, folder=cls.folder, port=cls.port, node=cls.node.http))
        command = ["nginx", "-e", cls.folder / "error.log", "-p", cls.folder, "-c", config]
        env = {**os.environ, "NGINX": f"{listener.fileno()};"}
        cls.nginx = subprocess.Popen(command, env=env, pass_fds=[listener.fileno()])
        listener.close()
        wait("nginx answers", lambda: cls.curl(f"http://127.0.0.1:{cls.port}/storgo/livez").returncode == 0)

    @classmethod
    def tearDownClass(cls):
        for process in (cls.nginx, cls.node.process):
            process.terminate()
            process.wait()
        shutil.rmtree(cls.folder)

    @classmethod
    def curl(cls, *args, data=None):
        return subprocess.run(["curl", "-sS", "-m", "300", "-H", cls.auth, *args], input=data, capture_output=True)

    def store_archive(self, archive):
        done = self.curl("--data-binary", "@-", f"{self.api}/files?tree=true&name=folder", data=archive)
        return json.loads(done.stdout)

    def files(self, report):
        """The contents of the files of a stored folder."""
        done = self.curl(f"{self.api}/files/{report['cid']}/content")
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
            return {one.name: archive.extractfile(one).read() for one in archive if one.isfile()}

    def content(self, name):
        return self.curl(f"{self.api}/files/{name}/content").stdout

    def test_bsdtar_stores_sparse_files_with_their_holes(self):
        source = pathlib.Path(tempfile.mkdtemp(dir=self.folder))
        with open(source / "sparse", "wb") as file:
            for number in range(30):
                file.seek(number * 131072)
                file.write(bytes([number + 1]) * 4096)
            file.truncate(4_000_001)
        os.link(source / "sparse", source / "hard")
        (source / ("n" * 200)).write_text("long name")
        archive = subprocess.run(["bsdtar", "-cf", "-", "."], cwd=source, check=True, capture_output=True).stdout
        self.assertIn(b"GNU.sparse.major", archive)
        stored = self.files(self.store_archive(archive))
        whole = (source / "sparse").read_bytes()
        self.assertEqual(sorted(stored), sorted(["sparse", "hard", "n" * 200]))
        self.assertTrue(stored["sparse"] == whole and stored["hard"] == whole)
        for cut in (archive[: len(archive) // 1024 * 512], b""):
            self.assertEqual(self.store_archive(cut)["reason"], "tar_invalid")

    def test_an_archive_of_git_is_stored(self):
        source = pathlib.Path(tempfile.mkdtemp(dir=self.folder))
        (source / "read.me").write_text("from git")
        (source / "link").symlink_to("read.me")
        git = ["git", "-C", source, "-c", "user.name=a", "-c", "user.email=a@example.org"]
        for args in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
            subprocess.run([*git, *args], check=True)
        archive = subprocess.run([*git, "archive", "HEAD"], check=True, capture_output=True).stdout
        self.assertEqual(self.files(self.store_archive(archive)), {"read.me": b"from git", "link": b"from git"})

    def test_urllib3_and_curl_store_files_under_their_names(self):
        pool = urllib3.PoolManager()
        headers = {"Authorization": f"Bearer {self.node.token}"}
        for name in ('ü "quoted" 100%25.txt', "two\nlines"):
            fields = {"field": "text", "file": (name, name.encode())}
            stored = pool.request("POST", f"{self.api}/files", fields=fields, headers=headers)
            self.assertEqual((stored.status, [file["name"] for file in stored.json()["files"]]), (201, [name]))
        file = self.folder / 'curl "ä".txt'
        file.write_text("by curl")
        escaped = str(file).replace("\\", "\\\\").replace('"', '\\"')
        for more in ([], ["--form-escape"]):
            done = self.curl("-F", f'file=@"{escaped}"', *more, f"{self.api}/files")
            self.assertEqual([one["name"] for one in json.loads(done.stdout)["files"]], [file.name])
        refused = self.curl("-0", "-H", "Content-Length:", "--data-binary", "x", f"{self.api}/files?name=lost")
        self.assertEqual(json.loads(refused.stdout)["status"], 411)

    def test_tus_js_client_uploads_through_nginx(self):
        file = self.folder / "tus.bin"
        file.write_bytes(os.urandom(250_000))
        endpoint = f"http://127.0.0.1:{self.port}/storgo/api/v1/uploads"

        def upload(parallel):
            args = ["node", CLIENTS / "upload.js", endpoint, self.node.token, file, str(parallel)]
            return json.loads(subprocess.run(args, check=True, capture_output=True, timeout=DEADLINE_S).stdout)

        done = upload(1)
        self.assertIn(endpoint + "/", done.get("url", ""), done)
        self.assertTrue(self.content(done["cid"]) == file.read_bytes())
        before = len(self.node.call("GET", "/files")[1]["files"])
        refused = upload(2)
        self.assertEqual(refused.get("status"), 400, refused)
        self.assertIn("parallelUploads", refused["body"])
        self.assertEqual(len(self.node.call("GET", "/files")[1]["files"]), before)

    def test_a_broken_download_is_an_error_for_http_1_0_and_behind_nginx(self):
        # Longer than the files whose blocks the node checks before it sends them. All but the end is one block of zeros.
        source = pathlib.Path(tempfile.mkdtemp(dir=self.folder))
        with open(source / "long", "wb") as file:
            file.seek(65 << 20)
            file.write(os.urandom(3 * 65536))
        self.curl("--data-binary", "@-", f"{self.api}/files", data=bytes(3 * 65536))
        before = self.blocks()
        archive = subprocess.run(["bsdtar", "-cf", "-", "long"], cwd=source, check=True, capture_output=True).stdout
        report = self.store_archive(archive)
        self.assertEqual(report["size"], (65 << 20) + 3 * 65536)
        address = f"api/v1/files/{report['cid']}/content"
        direct, proxied = f"{self.node.url}{address}", f"http://127.0.0.1:{self.port}/storgo/{address}"
        # The other new blocks are lists of blocks.
        chunks = [block for block in self.blocks() - before if block.stat().st_size == 65536]
        self.assertEqual(len(chunks), 3)
        for block in chunks:
            block.unlink()

        def download(args):
            return self.curl("-H", "Storgo-Timeout: 1", "-w", "%{stderr}%{http_code}", *args)

        requests = [["-0", direct], [direct], [proxied]]
        with concurrent.futures.ThreadPoolExecutor() as threads:
            for args, done in zip(requests, threads.map(download, requests)):
                self.assertIn(b"200", done.stderr, (args, done.stdout[:1000]))
                # Partial file, or connection reset.
                self.assertIn(done.returncode, (18, 56), f"{args}: {len(done.stdout)} bytes seem to be all")

    def blocks(self):
        return {path for path in (self.folder / "node/blocks").rglob("*") if path.is_file()}

    def test_nginx_as_installed_passes_events_and_a_base_path_on(self):
        url = f"http://127.0.0.1:{self.port}"
        with subprocess.Popen(["curl", "-sSN", "-m", "300", "-H", self.auth, f"{url}/storgo/api/v1/events"], stdout=subprocess.PIPE) as events:
            self.assertEqual(events.stdout.readline(), b"retry: 2000\n")
            events.terminate()
        stored = self.curl("-i", "--data-binary", "proxied", f"{url}/cut/api/v1/files?name=a").stdout.decode()
        self.assertIn("\r\nLocation: /storgo/api/v1/files/", stored.replace("location:", "Location:"))
        for path in ("/storgo/", "/storgo/ui/main.js", "/storgo/api/docs", "/cut/"):
            self.assertEqual(self.curl("-o", "/dev/null", "-w", "%{http_code}", url + path).stdout, b"200", path)
        sign_in = ["-H", "Content-Type: application/json", "-H", f"Origin: {url}", "--data", json.dumps({"token": self.node.token})]
        self.assertIn("scope", json.loads(self.curl(*sign_in, f"{url}/storgo/api/v1/session").stdout))
        # Without `proxy_set_header Host`, the node sees another name than the browser.
        refused = json.loads(self.curl(*sign_in, f"{url}/cut/api/v1/session").stdout)
        self.assertEqual(refused["status"], 403)
        self.assertIn("Host", refused["hint"])


if __name__ == "__main__":
    unittest.main()
