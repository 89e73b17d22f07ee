"""What a person does on the page, in order: each test says it in its name."""

import hashlib
import json
import pathlib
import re
import shutil
import subprocess
import tarfile
import tempfile
import unittest

from browser import Browser, pattern
from swarm import Node, wait

MIB = 1 << 20
BIG = 24 * MIB


class ThePage(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.work = pathlib.Path(tempfile.mkdtemp(prefix="storgo-page-"))
        cls.addClassCleanup(shutil.rmtree, cls.work)
        cls.nodes = []
        cls.addClassCleanup(lambda: [node.kill() for node in cls.nodes])
        cls.a = cls.node("a")
        cls.b = cls.node("b", boot=[cls.a.addr])
        cls.browser = Browser()
        cls.addClassCleanup(cls.browser.stop)

    @classmethod
    def node(cls, name, boot=()):
        node = Node(cls.work / name, boot)
        cls.nodes.append(node)
        return node

    def window(self, node=None, expected=(), **how):
        window = self.browser.window(node or self.a, **how)
        window.expected += expected
        self.addCleanup(lambda: self.assertEqual(window.close(), [], "the console is not empty"))
        return window

    def store(self, window, name, kind, data):
        """Stores a file by the page; its CID."""
        window.drop([(name, kind, data)])
        return self.stored(window, name)

    def stored(self, window, name):
        row = window.page.locator(".upload.stored").filter(has_text=name)
        row.wait_for()
        return row.get_by_role("link").get_attribute("href").split("/")[-1]

    def test_01_signing_in_and_out(self):
        window = self.window(sign_in=False, expected=["401"])
        page = window.page
        page.get_by_role("heading", name="Sign in", level=1).wait_for()
        self.assertEqual(window.axe(), [])
        page.get_by_label("Token").fill("not a token")
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("alert").filter(has_text="oken").wait_for()
        page.get_by_label("Token").fill((self.a.folder / "api.token").read_text().strip())
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="Overview", level=1).wait_for()
        window.go("settings")
        page.get_by_role("button", name="Sign out").click()
        page.get_by_role("heading", name="Sign in", level=1).wait_for()
        link = self.a.sign_in_link()
        page.goto(link)
        page.locator("nav a[aria-current]").wait_for()
        self.assertNotIn("signin", page.url, "the code is still in the address")
        # It was for once.
        other = self.window(sign_in=False, expected=["401"])
        other.page.goto(link)
        other.page.get_by_role("alert").filter(has_text=re.compile(".+")).wait_for()

    def test_02_an_upload_outlives_a_reload_and_is_read_on_another_node(self):
        window = self.window()
        page = window.page
        window.go("files")
        data = pattern(BIG)
        window.throttle(4 * MIB)
        window.drop([("big file.bin", "application/octet-stream", data)])
        row = page.locator(".upload").filter(has_text="big file.bin")
        self.assertIn("B/s", wait("a rate is shown", lambda: (text := row.inner_text()) and "left" in text and text))
        wait("a third is sent", lambda: row.get_by_role("progressbar").evaluate("bar => bar.value") > 0.33)
        row.get_by_role("button", name="Pause").click()
        row.filter(has_text="paused").wait_for()
        row.get_by_role("button", name="Go on").click()
        row.filter(has_text="left").wait_for()
        offsets = []
        sums = []
        page.on("request", lambda request: request.method == "PATCH" and (offsets.append(int(request.headers["upload-offset"])), sums.append(request.headers.get("upload-checksum", ""))))
        page.reload()
        wait("the upload goes on", lambda: page.wait_for_timeout(20) or offsets)
        self.assertGreater(offsets[0], BIG // 4, "it began anew")
        window.throttle(None)
        cid = self.stored(window, "big file.bin")
        self.assertTrue(all(one.startswith("sha256 ") for one in sums), sums)

        window.go(f"file/{cid}")
        page.get_by_role("heading", name="big file.bin").wait_for()
        link = page.get_by_label("link", exact=True).input_value()
        self.assertTrue(link.startswith(f"storgo://{cid}#"))
        page.get_by_text("QR code").click()
        page.get_by_role("img", name="QR code of the link").wait_for()
        page.get_by_role("img", name=re.compile("blocks? are on this node|on this node")).wait_for()
        page.get_by_role("button", name="Verify").click()
        page.get_by_text("Every block is what its name says").wait_for()

        other = self.window(self.b)
        other.go("files")
        other.page.get_by_role("button", name="Open a link").click()
        other.page.get_by_role("textbox", name="Link").fill(link)
        other.page.keyboard.press("Enter")
        other.page.get_by_role("heading", name="big file.bin").wait_for()
        with other.page.expect_download() as download:
            other.page.get_by_role("link", name="Download").click()
        self.assertEqual(download.value.suggested_filename, "big file.bin")
        self.assertEqual(hashlib.sha256(download.value.path().read_bytes()).digest(), hashlib.sha256(data).digest())

    def test_03_an_upload_that_the_browser_did_not_keep_is_chosen_again(self):
        # More than what is kept inside the browser.
        path = self.work / "large.bin"
        with open(path, "wb") as file:
            for number in range(65):
                file.write(hashlib.sha256(str(number).encode()).digest() * (MIB // 32))
        window = self.window()
        page = window.page
        window.go("files")
        window.throttle(8 * MIB)
        page.locator("#choose-files").set_input_files(path)
        row = page.locator(".upload").filter(has_text="large.bin")
        wait("some is sent", lambda: row.get_by_role("progressbar").evaluate("bar => bar.value") > 0.1)
        page.reload()
        row.get_by_role("button", name="Choose file").wait_for()
        window.throttle(None)
        row.locator("input[type=file]").set_input_files(path)
        self.stored(window, "large.bin")

    def test_03_a_folder_becomes_one_folder(self):
        top = self.work / "album"
        (top / "inner").mkdir(parents=True)
        (top / "first.txt").write_text("one")
        (top / "inner" / ("ü" + "x" * 120 + ".txt")).write_text("two")
        window = self.window()
        page = window.page
        window.go("files")
        page.locator("#choose-folder").set_input_files(top)
        cid = self.stored(window, "album")
        window.go(f"file/{cid}")
        page.get_by_role("heading", name="album", exact=True).wait_for()
        page.get_by_role("button", name="first.txt").wait_for()
        with page.expect_download() as download:
            page.get_by_role("link", name="Download as tar").click()
        with tarfile.open(download.value.path()) as tar:
            files = {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}
        self.assertEqual(sorted(files.values()), [b"one", b"two"])
        self.assertTrue(any(name.endswith("inner/ü" + "x" * 120 + ".txt") for name in files), files.keys())
        page.get_by_role("button", name="first.txt").click()
        page.get_by_role("heading", name="first.txt").wait_for()

    def test_04_a_video_is_seeked_without_being_loaded_whole(self):
        path = self.work / "clip.webm"
        subprocess.run(
            ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc2=size=960x540:rate=24:duration=30", "-c:v", "libvpx", "-b:v", "4M", "-deadline", "realtime", "-cpu-used", "8", path],
            check=True,
        )
        window = self.window()
        page = window.page
        window.go("files")
        page.locator("#choose-files").set_input_files(path)
        cid = self.stored(window, "clip.webm")
        ranges = []
        page.on("response", lambda response: "/content" in response.url and ranges.append((response.status, response.headers.get("content-range", ""))))
        window.go(f"file/{cid}")
        video = page.locator("video")
        wait("the video is there", lambda: video.evaluate("video => video.readyState >= 1"))
        video.evaluate("video => new Promise((done, failed) => { video.onseeked = done; video.onerror = failed; video.currentTime = 25; })")
        wait("the picture is there", lambda: video.evaluate("video => video.readyState >= 2 && Math.abs(video.currentTime - 25) < 0.5"))
        far = [first for status, first in ranges if status == 206 and int(re.match(r"bytes (\d+)-", first)[1]) > path.stat().st_size // 2]
        self.assertTrue(far, f"no range was asked for: {ranges}")

    def test_05_what_is_shown_in_the_browser(self):
        window = self.window()
        page = window.page
        window.go("files")
        picture = bytes.fromhex("89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c4944415408d763f8cfc0000003010100c9fe92ef0000000049454e44ae426082")
        for name, kind, data, shown in [
            ("pixel.png", "image/png", picture, "img[alt='pixel.png']"),
            ("<b>words.txt", "text/plain", b"<script>alert(1)</script>", "pre"),
            ("page.html", "text/html", b"<script>alert(1)</script>", "pre"),
            ("paper.pdf", "application/pdf", b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj 2 0 obj<</Type/Pages/Kids[]/Count 0>>endobj\ntrailer<</Root 1 0 R>>", "iframe"),
        ]:
            cid = self.store(window, name, kind, data)
            window.go(f"file/{cid}")
            page.get_by_role("heading", name=name, exact=True).wait_for()
            element = page.locator(f".preview {shown}")
            element.wait_for()
            if shown == "pre":
                self.assertEqual(element.text_content(), data.decode())
            if shown == "iframe":
                wait("the browser's own viewer has it", lambda: any(frame.url.startswith("chrome-extension://") for frame in page.frames))
            if shown.startswith("img"):
                wait("the picture is drawn", lambda: element.evaluate("img => img.naturalWidth") == 1)

    def test_06_the_list_is_searched_sorted_and_shortened(self):
        window = self.window()
        page = window.page
        window.go("files")
        window.drop([(f"note {i}.txt", "text/plain", b"x" * (i + 1)) for i in range(8)])
        for i in range(8):
            self.stored(window, f"note {i}.txt")
        page.get_by_role("button", name="Clear what is stored").click()
        page.get_by_label("Search by name").fill("note")
        names = lambda: page.locator("table.files tbody th a").all_inner_texts()
        wait("only these are listed", lambda: len(names()) == 8)
        page.get_by_role("button", name="Size").click()
        wait("the largest is first", lambda: names()[0] == "note 7.txt")
        page.get_by_role("button", name="Size").click()
        wait("the smallest is first", lambda: names()[0] == "note 0.txt")
        self.assertEqual(page.get_by_role("columnheader", name="Size").get_attribute("aria-sort"), "ascending")
        page.get_by_role("button", name="Delete note 0.txt").click()
        dialog = page.get_by_role("dialog")
        self.assertIn("cannot be undone", dialog.inner_text())
        dialog.get_by_role("button", name="Cancel").click()
        page.get_by_role("button", name="Delete note 0.txt").click()
        page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        wait("it is gone", lambda: len(names()) == 7 and "note 0.txt" not in names())
        page.reload()
        wait("the search is in the address", lambda: len(names()) == 7)
        page.get_by_label("Search by name").fill("no such thing")
        page.get_by_text("No file has that in its name").wait_for()

    def test_07_tokens_are_made_and_revoked(self):
        window = self.window()
        page = window.page
        window.go("settings")
        page.get_by_role("button", name="New token").click()
        page.get_by_label("Name, to know it by").fill("a reader")
        page.get_by_role("button", name="Make token").click()
        token = page.get_by_label("token", exact=True).input_value()
        page.get_by_role("button", name="Close").click()
        reader = self.window(sign_in=False, expected=["401"])
        reader.page.get_by_label("Token").fill(token)
        reader.page.keyboard.press("Enter")
        reader.page.get_by_role("heading", name="Overview", level=1).wait_for()
        reader.go("files")
        self.assertEqual(reader.page.get_by_role("button", name="Choose files").count(), 0, "a reader cannot store")
        page.get_by_role("button", name="Revoke a reader").click()
        page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
        reader.page.get_by_role("heading", name="Sign in", level=1).wait_for()

    def test_08_everything_by_keyboard(self):
        window = self.window()
        page = window.page
        page.reload()
        page.keyboard.press("Tab")
        self.assertEqual(page.evaluate("document.activeElement.textContent"), "Skip to the content")
        reached = set()
        for _ in range(40):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("document.activeElement.textContent.trim()"))
        for name in ("Overview", "Files", "Peers", "Activity", "Settings", "Check everything"):
            self.assertIn(name, reached)
        page.get_by_role("link", name="Peers", exact=True).focus()
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="Peers", level=1).wait_for()
        self.assertEqual(page.evaluate("document.activeElement.tagName"), "H1", "the new view is not read out")
        page.get_by_role("button", name="Add a peer").focus()
        page.keyboard.press("Enter")
        self.assertTrue(page.evaluate("document.querySelector('dialog').contains(document.activeElement)"))
        page.keyboard.press("Escape")
        self.assertEqual(page.evaluate("document.activeElement.textContent"), "Add a peer", "the focus is lost")

    def test_09_every_view_is_accessible_wide_narrow_and_dark(self):
        cid = self.store(self.window(), "an example.txt", "text/plain", b"Hello.\n" * 40)
        views = {"overview": "", "files": "files", "file": f"file/{cid}", "peers": "peers", "activity": "activity", "settings": "settings", "nowhere": "what/is/this"}
        for look, how in {"wide": {}, "narrow": {"width": 360, "height": 740}, "dark": {"scheme": "dark"}}.items():
            window = self.window(**how)
            for name, view in views.items():
                with self.subTest(view=name, look=look):
                    window.go(view)
                    if name == "overview":
                        window.page.get_by_text("on this disk").wait_for()
                    window.page.wait_for_timeout(300)
                    self.assertEqual(window.axe(), [])
                    self.assertLessEqual(window.overflow(), 0, "it is wider than the window")
            for view, button in [("files", "Open a link"), ("peers", "Add a peer"), ("settings", "New token"), (f"file/{cid}", "Delete")]:
                with self.subTest(dialog=button, look=look):
                    window.go(view)
                    window.page.get_by_role("button", name=button, exact=True).click()
                    self.assertEqual(window.axe(), [])
                    window.page.keyboard.press("Escape")

    def test_10_a_peer_that_dies_leaves_the_list(self):
        third = self.node("c", boot=[self.a.addr])
        window = self.window()
        window.go("peers")
        row = window.page.locator(f"table.peers tr[data-key='{third.peer}']")
        row.wait_for()
        self.assertIn("direct", row.inner_text())
        third.kill()
        row.wait_for(state="detached")
        window.page.locator(f"table.peers tr[data-key='{self.b.peer}']").wait_for()

    def test_11_a_node_that_is_away_comes_back(self):
        node = self.node("d")
        window = self.window(node, expected=["ERR_", "401"])
        window.go("files")
        window.page.get_by_text("No files yet").wait_for()
        node.kill()
        window.page.get_by_text("The node does not answer").first.wait_for()
        node.start()
        window.page.locator("#banner").wait_for(state="hidden")
        # Sessions end with the node.
        window.page.get_by_role("heading", name="Sign in", level=1).wait_for()

    def test_12_a_file_that_lacks_a_block_is_named_and_repaired(self):
        path = self.work / "shared.bin"
        path.write_bytes(pattern(3 * MIB))
        first = self.node("e")
        second = self.node("f", boot=[first.addr])
        for node in (first, second):
            # Cut alike on both: where chunks begin depends on a node's own secret otherwise.
            cid = json.loads(node.run("provide", path, "--public", "--chunker", "fixed:256KiB", "--json").stdout)["cid"]
        window = self.window(first)
        page = window.page
        window.go(f"file/{cid}")
        page.get_by_text("Any node may be lost").wait_for()
        page.get_by_text("on other nodes, too (asked just now)").wait_for()
        self.assertEqual(page.locator(".grid i:not(.shared)").count(), 0)
        next(file for file in (first.folder / "blocks").rglob("*") if file.is_file() and file.stat().st_size > 100_000).unlink()
        window.go("")
        page.get_by_text("1 file here lacks blocks").wait_for()
        page.get_by_role("link", name="shared.bin").first.wait_for()
        self.assertEqual(window.axe(), [])
        window.go(f"file/{cid}")
        page.get_by_text("1 block is missing here").wait_for()
        self.assertEqual(window.axe(), [])
        page.get_by_role("button", name="Repair").click()
        page.get_by_text("Any node may be lost").wait_for()

    def test_13_the_documents_page_shows_every_call(self):
        for how in ({}, {"width": 360, "height": 740}, {"scheme": "dark"}):
            window = self.window(sign_in=False, expected=["401"], **how)
            page = window.page
            page.goto(f"{self.a.url}api/docs")
            page.get_by_role("heading", name="uploads", exact=True).wait_for()
            page.get_by_label("Find").fill("health")
            call = page.locator("details:visible").filter(has_text="/health")
            call.locator("summary").click()
            call.get_by_text("may_lose").wait_for()
            self.assertEqual(window.axe(), [])
            self.assertLessEqual(window.overflow(), 0, "it is wider than the window")


if __name__ == "__main__":
    unittest.main()
