"""What a person does on the page, in order: each test says it in its name."""

import base64
import hashlib
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tarfile
import tempfile
import threading
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
    def node(cls, name, boot=(), more=()):
        node = Node(cls.work / name, boot, more)
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
        page.get_by_label("Token").fill(self.a.token)
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

    def test_03_a_large_folder_is_shown_page_by_page(self):
        top = self.work / "large album"
        top.mkdir()
        for number in range(3):
            (top / f"picture {number}.txt").write_text("x")
        cid = json.loads(self.a.run("provide", top, "--json").stdout)["cid"]
        entries = self.a.call("GET", f"/files/{cid}")[1]["entries"]
        window = self.window()
        page = window.page

        def info(route):
            route.fulfill(json=route.fetch().json() | {"entries": entries[:1], "entries_next": "one"})

        page.route(f"**/api/v1/files/{cid}", info)
        rest = {"one": {"entries": entries[1:2], "next": "two"}, "two": {"entries": entries[2:], "next": None}}
        page.route(f"**/api/v1/files/{cid}/entries?*", lambda route: route.fulfill(json=rest[re.search(r"cursor=(\w+)", route.request.url)[1]]))
        window.go(f"file/{cid}")
        page.get_by_text("These are the first 1; there are more.").wait_for()
        more = page.get_by_role("button", name="Show more", exact=True)
        more.focus()
        page.keyboard.press("Enter")
        page.get_by_role("button", name="picture 1.txt").wait_for()
        self.assertEqual(page.evaluate("document.activeElement.textContent"), "Show more")
        page.keyboard.press("Enter")
        page.get_by_text("3 entries").wait_for()
        self.assertFalse(more.is_visible())
        self.assertIn("picture 2.txt", page.evaluate("document.activeElement.textContent"), "the focus is lost")

    def test_03_many_that_are_stored_are_cleared_at_once(self):
        window = self.window()
        page = window.page
        window.go("files")
        page.evaluate("""async () => {
            const [{ Upload }, { uploads }] = await Promise.all([import('/ui/upload.js'), import('/ui/uploads.js')]);
            window.asked = 0;
            for (let i = 0; i < 1000; i++) {
                let state = 'stored';
                const upload = new Upload({ name: `old ${i}`, size: 1, sent: 1 });
                const count = { get: () => (asked++, state), set: (now) => { state = now; } };
                uploads.list.push(Object.defineProperty(upload, 'state', count));
            }
            uploads.dispatchEvent(new Event('change'));
            asked = 0;
        }""")
        page.get_by_role("button", name="Clear what is stored").click()
        page.locator(".upload").first.wait_for(state="detached")
        self.assertLess(page.evaluate("asked"), 20_000, "each is looked at for each")

    def uploads(self, node, name):
        """What the node knows of uploads of this name."""
        return [upload for upload in node.call("GET", "/uploads")[1] if upload["name"] == name]

    def begin(self, window, name):
        """Waits until some of an upload is on the node; its row."""
        row = window.page.locator(".upload").filter(has_text=name)
        wait("some is sent", lambda: row.get_by_role("progressbar").evaluate("bar => bar.value") > 0.3)
        return row

    def give_up(self, row):
        """Gives up an upload of which some has arrived."""
        row.get_by_role("button", name="Give up").click()
        row.page.get_by_role("dialog").get_by_role("button", name="Give up").click()

    def test_03_a_folder_that_changed_is_sent_anew(self):
        top = self.work / "diary"
        top.mkdir()
        # More than what is kept inside the browser.
        for name, letter in [("first.txt", b"a"), ("second.txt", b"b"), ("third.txt", b"c")]:
            (top / name).write_bytes(letter * (23 * MIB))
        window = self.window()
        page = window.page
        begun = []
        page.on("request", lambda request: request.method == "POST" and request.url.endswith("/uploads") and begun.append(1))
        window.go("files")
        window.throttle(8 * MIB)
        page.locator("#choose-folder").set_input_files(top)
        row = self.begin(window, "diary")
        page.reload()
        row.get_by_role("button", name="Choose folder").wait_for()
        row.locator("input[type=file]").set_input_files(top)
        row.filter(has_text="left").wait_for()
        self.assertEqual(len(begun), 1, "the same folder goes on")
        page.reload()
        row.get_by_role("button", name="Choose folder").wait_for()
        (top / "second.txt").write_bytes(b"d" * (23 * MIB))
        later = (top / "first.txt").stat().st_mtime + 5
        os.utime(top / "second.txt", (later, later))
        window.throttle(None)
        row.locator("input[type=file]").set_input_files(top)
        page.get_by_text("it is sent from its beginning").wait_for()
        cid = self.stored(window, "diary")
        self.assertEqual(len(begun), 2)
        self.a.run("get", cid, "-o", str(self.work / "diary again"))
        for name, letter in [("first.txt", b"a"), ("second.txt", b"d"), ("third.txt", b"c")]:
            self.assertEqual(set((self.work / "diary again" / name).read_bytes()), set(letter), name)
        # Nothing is left of either on the node, not even the memory of it.
        wait("the node forgets it", lambda: self.uploads(self.a, "diary") == [])

    def test_03_a_folder_that_the_browser_reads_again_and_that_changed_is_sent_anew(self):
        window = self.window(expected=["ERR_UPLOAD_FILE_CHANGED"])
        page = window.page
        # A handle as of a folder that was dropped, but on a file system of the browser's own: it asks nobody.
        write = """async letters => {
            const top = await (await navigator.storage.getDirectory()).getDirectoryHandle('workbook', { create: true });
            for (const [name, letter] of Object.entries(letters)) {
                const file = await (await top.getFileHandle(name, { create: true })).createWritable();
                await file.write(letter.repeat(4 * 1024 * 1024));
                await file.close();
            }
        }"""
        window.go("files")
        window.throttle(2 * MIB)
        page.evaluate(write, {"one.txt": "a", "two.txt": "b"})
        page.evaluate("""async () => {
            const top = await (await navigator.storage.getDirectory()).getDirectoryHandle('workbook');
            const [{ fromHandle }, { uploads }] = await Promise.all([import('/ui/gather.js'), import('/ui/uploads.js')]);
            uploads.add([await fromHandle(top)]);
        }""")
        row = self.begin(window, "workbook")
        row.get_by_role("button", name="Pause").click()
        # In the page that has it, and in one that remembers it.
        page.evaluate(write, {"two.txt": "c"})
        row.get_by_role("button", name="Go on").click()
        row.filter(has_text="to store it as it is now").wait_for()
        before = [upload["id"] for upload in self.a.call("GET", "/uploads")[1]]
        row.get_by_role("button", name="Go on").click()
        page.get_by_text("it is sent from its beginning").wait_for()
        # The bar may still show how far the first one was.
        begun = lambda: [upload for upload in self.a.call("GET", "/uploads")[1] if upload["offset"] and upload["id"] not in before]
        wait("some of it is on the node", begun)
        row.get_by_role("button", name="Pause").click()
        page.evaluate(write, {"one.txt": "d"})
        page.reload()
        page.get_by_text("it is sent from its beginning").wait_for()
        window.throttle(None)
        row.get_by_role("button", name="Go on").click()
        cid = self.stored(window, "workbook")
        self.a.run("get", cid, "-o", str(self.work / "workbook"))
        for name, letter in [("one.txt", b"d"), ("two.txt", b"c")]:
            self.assertEqual(set((self.work / "workbook" / name).read_bytes()), set(letter), name)

    def test_03_a_folder_from_elsewhere_is_chosen_as_a_folder(self):
        top = self.work / "letters"
        top.mkdir()
        (top / "one.txt").write_text("one")
        words = {"filename": b"letters", "tree": b"true"}
        metadata = ",".join(f"{key} {base64.b64encode(value).decode()}" for key, value in words.items())
        # As long as the tar that the page makes of it: of what else is in it, nothing is known here.
        self.a.call("POST", "/uploads", {"upload-length": str(2560), "upload-metadata": metadata})
        window = self.window()
        window.go("files")
        # What others have begun is folded away.
        window.page.get_by_text("1 begun elsewhere").click()
        row = window.page.locator(".upload").filter(has_text="letters")
        self.assertIn("sent from elsewhere. Choose the same folder", row.inner_text())
        other = self.work / "other letters"
        other.mkdir()
        (other / "one.txt").write_text("one")
        row.locator("input[type=file]").set_input_files(other)
        row.get_by_text("other letters is another folder than letters was").wait_for()
        row.locator("input[type=file]").set_input_files(top)
        cid = self.stored(window, "letters")
        self.a.run("get", cid, "-o", str(self.work / "letters again"))
        self.assertEqual((self.work / "letters again" / "one.txt").read_text(), "one")

    def test_03_a_second_tab_leaves_the_first_ones_uploads_alone(self):
        window = self.window()
        page = window.page
        names = [f"tab {number}.bin" for number in range(5)]
        window.go("files")
        window.throttle(2 * MIB)
        begun = []
        window.context.on("request", lambda request: request.method == "POST" and request.url.endswith("/uploads") and begun.append(1))
        # Two of them wait.
        window.drop([(name, "application/octet-stream", pattern(4 * MIB + number)) for number, name in enumerate(names)])
        self.begin(window, names[0])
        second = window.tab()
        seen = second.locator(".upload").filter(has_text="in another tab")
        wait("the second tab knows of all", lambda: seen.count() == 5)
        self.assertEqual(second.get_by_role("button", name="Pause").count(), 0)
        window.throttle(None)
        for name in names:
            self.stored(window, name)
        seen.first.wait_for(state="detached")
        wait("the second tab forgets them", lambda: second.locator(".upload").filter(has_text="tab ").count() == 0)
        self.assertEqual(len(begun), 5, "each was begun once")

        window.throttle(2 * MIB)
        window.drop([("heirloom.bin", "application/octet-stream", pattern(8 * MIB))])
        self.begin(window, "heirloom.bin")
        second.reload()
        seen.wait_for()
        page.close()
        second.locator(".upload.stored").filter(has_text="heirloom.bin").wait_for()
        self.assertEqual(len(begun), 6, "what the first tab had begun went on")

    def test_03_what_the_node_could_not_store_is_tried_again(self):
        node = self.node("small", more=["--capacity", "30MiB"])
        window = self.window(node, expected=["507"])
        page = window.page
        window.go("files")
        window.throttle(4 * MIB)
        window.drop([(name, "application/octet-stream", pattern(13 * MIB + number)) for number, name in enumerate(["one.bin", "two.bin"])])
        two = self.begin(window, "two.bin")
        two.get_by_role("button", name="Pause").click()
        window.throttle(None)
        cid = self.stored(window, "one.bin")
        # Both had room when they began; this takes it.
        other = self.work / "other.bin"
        other.write_bytes(pattern(13 * MIB + 2))
        node.run("provide", other)
        two.get_by_role("button", name="Go on").click()
        two.filter(has_text="not stored:").wait_for()
        # What does not fit is refused at the start, and not asked again and again.
        window.drop([("three.bin", "application/octet-stream", pattern(21 * MIB))])
        three = page.locator(".upload.failed").filter(has_text="three.bin")
        three.filter(has_text="storage.capacity").wait_for()
        three.get_by_role("button", name="Give up").click()
        # Not by itself, and after a reload as before it.
        page.reload()
        two.filter(has_text="not stored:").wait_for()
        with page.expect_response(lambda response: response.request.method == "PATCH" and response.status == 507):
            two.get_by_role("button", name="Try again").click()
        two.filter(has_text="not stored:").wait_for()
        node.run("rm", cid)
        node.run("gc", "--now")
        two.get_by_role("button", name="Try again").click()
        self.stored(window, "two.bin")

    def test_03_a_file_that_changes_while_it_is_sent_is_chosen_again(self):
        path = self.work / "log.txt"
        path.write_bytes(b"a" * (40 * MIB))
        window = self.window(expected=["ERR_UPLOAD_FILE_CHANGED"])
        page = window.page
        window.go("files")
        window.throttle(8 * MIB)
        page.locator("#choose-files").set_input_files(path)
        row = self.begin(window, "log.txt")
        row.get_by_role("button", name="Pause").click()
        path.write_bytes(b"b" * (41 * MIB))
        row.get_by_role("button", name="Go on").click()
        row.filter(has_text="to store it as it is now").wait_for()
        window.throttle(None)
        row.locator("input[type=file]").set_input_files(path)
        cid = self.stored(window, "log.txt")
        self.a.run("get", cid, "-o", str(self.work / "log again.txt"))
        self.assertEqual((self.work / "log again.txt").read_bytes(), path.read_bytes())

    def test_03_uploads_are_those_of_who_began_them(self):
        secret = self.a.run("token", "create", "--name", "guest", "--scope", "write").stdout.strip()
        window = self.window(sign_in=False, expected=["401"])
        page = window.page
        sent = []
        page.on("request", lambda request: request.method == "PATCH" and sent.append(1))

        def sign_in(token):
            page.get_by_label("Token").fill(token)
            page.keyboard.press("Enter")
            page.locator("nav a[aria-current]").wait_for()

        sign_in(secret)
        window.go("files")
        window.throttle(2 * MIB)
        window.drop([("guest book.bin", "application/octet-stream", pattern(12 * MIB))])
        row = self.begin(window, "guest book.bin")
        token = next(token for token in self.a.call("GET", "/tokens")[1] if token["name"] == "guest")
        self.a.call("DELETE", f"/tokens/{token['id']}")
        page.reload()
        page.get_by_role("heading", name="Sign in", level=1).wait_for()
        sent.clear()
        sign_in(self.a.token)
        page.get_by_text("1 begun elsewhere").click()
        row.filter(has_text="sent from elsewhere").wait_for()
        self.assertEqual(sent, [], "another's upload went on")
        self.give_up(row)

        window.go("files")
        window.drop([("my book.bin", "application/octet-stream", pattern(12 * MIB))])
        row = self.begin(window, "my book.bin")
        window.go("settings")
        page.get_by_role("button", name="Sign out").click()
        page.get_by_role("heading", name="Sign in", level=1).wait_for()
        sent.clear()
        sign_in(self.a.token)
        row.filter(has_text="sent from elsewhere").wait_for()
        self.assertEqual(sent, [], "it was forgotten when its owner left")
        # What has arrived is not thrown away by a slip of the hand.
        row.get_by_role("button", name="Give up").click()
        dialog = page.get_by_role("dialog", name="Give up storing my book.bin?")
        dialog.get_by_text("is thrown away").wait_for()
        self.assertEqual(window.axe(), [])
        dialog.get_by_role("button", name="Cancel").click()
        dialog.wait_for(state="detached")
        self.assertEqual(len(self.uploads(self.a, "my book.bin")), 1)
        self.give_up(row)
        wait("the node forgets it", lambda: self.uploads(self.a, "my book.bin") == [])

    def test_03_what_another_sends_is_not_given_up_in_silence(self):
        name = base64.b64encode(b"busy.bin").decode()
        headers, _ = self.a.call("POST", "/uploads", {"upload-length": str(64 * MIB), "upload-metadata": f"filename {name}"})
        ends = threading.Event()

        def trickle():
            while not ends.wait(0.2):
                yield b"x" * 10_000

        def send(offset, body, size):
            line = http.client.HTTPConnection(self.a.http)
            line.request("PATCH", headers["location"], body, {
                "authorization": f"Bearer {self.a.token}", "tus-resumable": "1.0.0", "upload-offset": str(offset),
                "content-type": "application/offset+octet-stream", "content-length": str(size),
            })
            if not ends.is_set():
                line.getresponse()
            line.close()

        send(0, b"x" * MIB, MIB)
        sender = threading.Thread(target=send, args=(MIB, trickle(), 63 * MIB))
        sender.start()
        self.addCleanup(sender.join)
        self.addCleanup(ends.set)
        window = self.window(expected=["423", "500"])
        page = window.page
        page.get_by_text("1 begun elsewhere").click()
        row = page.locator(".upload").filter(has_text="busy.bin")
        self.give_up(row)
        page.locator(".toast.bad").filter(has_text="busy.bin is being sent by somebody else now").wait_for()
        row.filter(has_text="sent from elsewhere").wait_for()
        # Whatever else the node says is told, too.
        page.route("**/api/v1/uploads/*", lambda route: route.fulfill(status=500) if route.request.method == "DELETE" else route.continue_())
        self.give_up(row)
        page.locator(".toast.bad").filter(has_text="busy.bin could not be given up").wait_for()
        row.filter(has_text="sent from elsewhere").wait_for()
        page.unroute("**/api/v1/uploads/*")
        ends.set()
        sender.join()
        self.give_up(row)
        wait("the node forgets it", lambda: self.uploads(self.a, "busy.bin") == [])

    def test_03_given_up_at_its_very_beginning_it_is_gone(self):
        window = self.window()
        page = window.page
        window.go("files")
        held = []
        page.route("**/api/v1/uploads", lambda route: held.append(route) if route.request.method == "POST" else route.continue_())
        window.drop([("regret.txt", "text/plain", b"x" * 100)])
        row = page.locator(".upload").filter(has_text="regret.txt")
        wait("it begins", lambda: page.wait_for_timeout(20) or held)
        row.get_by_role("button", name="Give up").click()
        with page.expect_request(lambda request: request.method == "DELETE"):
            held[0].continue_()
        wait("the node forgets it", lambda: self.uploads(self.a, "regret.txt") == [])
        page.reload()
        window.settle()
        wait("it is not remembered", lambda: page.evaluate("import('/ui/kept.js').then(kept => kept.allOf('node'))") == [])
        self.assertEqual(row.count(), 0)

    def test_03_what_is_all_sent_but_not_stored_can_be_paused_too(self):
        node = self.node("asleep")
        window = self.window(node)
        page = window.page
        window.go("files")
        window.throttle(MIB // 16)
        window.drop([("nap.bin", "application/octet-stream", pattern(MIB // 4))])
        row = self.begin(window, "nap.bin")
        # The rest goes into the system's buffers.
        node.process.send_signal(signal.SIGSTOP)
        try:
            window.throttle(None)
            row.filter(has_text="being written to disk").wait_for()
            self.assertEqual(row.get_by_role("button", name="Give up").count(), 1)
            row.get_by_role("button", name="Pause").click()
            row.filter(has_text="paused at").wait_for()
        finally:
            node.process.send_signal(signal.SIGCONT)
        row.get_by_role("button", name="Go on").click()
        self.stored(window, "nap.bin")

    def test_03_an_upload_goes_on_where_the_node_could_not_be_asked(self):
        window = self.window(expected=["503"])
        page = window.page
        window.go("files")
        window.throttle(2 * MIB)
        begun = []
        page.on("request", lambda request: request.method == "POST" and request.url.endswith("/uploads") and begun.append(1))
        window.drop([("patient.bin", "application/octet-stream", pattern(8 * MIB))])
        self.begin(window, "patient.bin")
        page.route("**/api/v1/uploads", lambda route: route.fulfill(status=503) if route.request.method == "GET" else route.continue_())
        page.reload()
        window.throttle(None)
        self.stored(window, "patient.bin")
        self.assertEqual(len(begun), 1, "it began anew")

    def test_03_an_upload_goes_on_after_the_node_was_started_anew(self):
        # More than what is kept inside the browser: the tab alone has it.
        path = self.work / "enduring.bin"
        with open(path, "wb") as file:
            for number in range(65):
                file.write(hashlib.sha256(str(number + 1000).encode()).digest() * (MIB // 32))
        node = self.node("restarted")
        window = self.window(node, expected=["ERR_", "401"])
        page = window.page
        window.go("files")
        window.throttle(8 * MIB)
        page.locator("#choose-files").set_input_files(path)
        row = page.locator(".upload").filter(has_text="enduring.bin")
        wait("some is sent", lambda: row.get_by_role("progressbar").evaluate("bar => bar.value") > 0.3)
        node.kill()
        page.get_by_text("The node does not answer").first.wait_for()
        node.start()
        page.get_by_role("heading", name="Sign in", level=1).wait_for()
        page.get_by_text("1 upload waits in this tab").wait_for()
        self.assertFalse(page.locator("#tray").is_visible(), "what waits is shown to who is not signed in")
        self.assertEqual(window.axe(), [])
        offsets = []
        page.on("request", lambda request: request.method == "PATCH" and offsets.append(int(request.headers["upload-offset"])))
        page.get_by_label("Token").fill(node.token)
        page.keyboard.press("Enter")
        window.throttle(None)
        cid = self.stored(window, "enduring.bin")
        self.assertGreater(offsets[0], 0, "it began anew")
        node.run("get", cid, "-o", str(self.work / "enduring again.bin"))
        self.assertEqual((self.work / "enduring again.bin").read_bytes(), path.read_bytes())

    def test_03_uploads_that_wait_are_not_for_another_user(self):
        node = self.node("handed on")
        token = json.loads(node.run("token", "create", "--name", "another", "--scope", "write", "--json").stdout)["token"]
        window = self.window(node, expected=["ERR_", "401"])
        page = window.page
        window.go("files")
        window.throttle(MIB)
        window.drop([("diary of one.bin", "application/octet-stream", pattern(8 * MIB))])
        self.begin(window, "diary of one.bin")
        node.kill()
        page.get_by_text("The node does not answer").first.wait_for()
        node.start()
        page.get_by_text("1 upload waits in this tab").wait_for()
        page.get_by_label("Token").fill(token)
        page.keyboard.press("Enter")
        window.settle()
        page.get_by_role("heading", name="Files", level=1).wait_for()
        wait("it is not theirs", lambda: page.locator(".upload:not(.lost)").count() == 0)

    def test_03_what_was_said_to_one_is_not_for_the_next(self):
        node = self.node("one room")
        token = json.loads(node.run("token", "create", "--name", "next", "--scope", "write", "--json").stdout)["token"]
        window = self.window(node, expected=["401"])
        page = window.page
        window.go("files")
        self.store(window, "my secret.txt", "text/plain", b"mine")
        page.get_by_role("button", name="Copy link of my secret.txt").wait_for()
        page.evaluate("import('/ui/notes.js').then(({ note }) => note('my secret.txt is well'))")
        toast = page.locator(".toast").filter(has_text="my secret.txt")
        toast.wait_for()
        self.assertIn("my secret.txt", page.locator("#spoken").text_content())
        # A session that ended by itself is still its owner's.
        window.context.clear_cookies()
        page.get_by_role("heading", name="Sign in", level=1).wait_for()
        self.assertEqual(toast.count(), 1)
        page.get_by_label("Token").fill(node.token)
        page.keyboard.press("Enter")
        window.go("settings")
        page.get_by_role("button", name="Sign out").click()
        page.get_by_role("heading", name="Sign in", level=1).wait_for()
        wait("none of it can be read", lambda: page.get_by_text("my secret.txt").count() == 0, 5)
        self.assertEqual(page.locator("#spoken").text_content(), "")
        # Where the session ended by itself, the next may be another.
        page.get_by_label("Token").fill(node.token)
        page.keyboard.press("Enter")
        window.settle()
        page.evaluate("import('/ui/notes.js').then(({ note, speak }) => { note('my secret.txt is well'); speak('my secret.txt'); })")
        toast.wait_for()
        window.context.clear_cookies()
        page.get_by_role("heading", name="Sign in", level=1).wait_for()
        page.get_by_label("Token").fill(token)
        page.keyboard.press("Enter")
        page.locator("nav a[aria-current]").wait_for()
        self.assertEqual(toast.count(), 0)
        self.assertEqual(page.locator("#spoken").text_content(), "")

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
                # The driver hears of new frames only while it asks something.
                viewer = lambda: page.title() and any(frame.url.startswith("chrome-extension://") for frame in page.frames)
                wait("the browser's own viewer has it", viewer)
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
        at = lambda: page.evaluate("document.activeElement.getAttribute('aria-label')")
        wait("the next one can be deleted at once", lambda: at() == "Delete note 1.txt")
        page.reload()
        wait("the search is in the address", lambda: len(names()) == 7)
        page.get_by_label("Search by name").fill("no such thing")
        page.get_by_text("No file has that in its name").wait_for()

    def test_06_a_place_in_the_list_is_not_lost(self):
        node = self.node("pages")
        folder = self.work / "pages of files"
        folder.mkdir()
        paths = [folder / f"{number:03}.txt" for number in range(101)]
        for path in paths:
            path.write_text(path.name)
        cid = json.loads(node.run("provide", *map(str, paths), "--json").stdout.splitlines()[0])["cid"]
        window = self.window(node)
        page = window.page
        window.go("files?sort=name&order=asc")
        for number in (2, 3):
            page.get_by_role("button", name="Next").click()
            page.get_by_text(f"Page {number} of 3").wait_for()
        page.reload()
        page.get_by_role("link", name="100.txt", exact=True).wait_for()
        self.assertEqual(page.get_by_text("Page 3 of 3").count(), 1)
        page.get_by_role("link", name="100.txt", exact=True).click()
        page.get_by_role("heading", name="100.txt").wait_for()
        page.go_back()
        page.get_by_text("Page 3 of 3").wait_for()
        page.get_by_role("button", name="Previous").click()
        page.get_by_role("link", name="050.txt", exact=True).wait_for()
        page.get_by_label("Per page").select_option("200")
        wait("all are on one page", lambda: page.locator("table.files tbody tr").count() == 101)
        page.reload()
        wait("all are on one page again", lambda: page.locator("table.files tbody tr").count() == 101)
        # A file is found by its CID and by its link, and the key goes into no address.
        link = node.call("GET", f"/files/{cid}")[1]["link"]
        page.get_by_label("Search by name").fill(link)
        wait("only it is listed", lambda: page.locator("table.files tbody tr").count() == 1)
        self.assertIn(cid, page.url)
        self.assertNotIn(link.split("#")[1], page.url)

    def test_06_hidden_characters_of_names_are_shown(self):
        window = self.window()
        page = window.page
        window.go("files")
        evil, seen = "photo\u202egpj\u0007.exe", "photo\\u{202e}gpj\\u{7}.exe"
        window.drop([(evil, "application/octet-stream", b"evil"), ("  ", "text/plain", b"nameless")])
        cid = self.stored(window, seen)
        page.get_by_role("link", name=seen, exact=True).wait_for()
        nameless = page.get_by_role("link", name="unnamed", exact=True).first
        nameless.wait_for()
        page.get_by_role("button", name=f"Delete {seen}").click()
        self.assertIn(seen, page.get_by_role("dialog").inner_text())
        page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
        for view in ("files", f"file/{cid}", "activity", ""):
            window.go(view)
            page.get_by_text(seen).first.wait_for()
            shown = page.evaluate("document.title + document.body.innerText + [...document.querySelectorAll('[title], [aria-label]')].map(e => e.title + e.ariaLabel).join('')")
            self.assertNotRegex(shown, "[\u202e\u0007]", view)

    def test_06_what_looks_like_a_cid_may_be_a_name(self):
        window = self.window(expected=["400", "404", "422", "502", "504"])
        page = window.page
        window.go("files")
        name = "bananas" * 6
        self.store(window, f"{name}.txt", "text/plain", b"many")
        page.get_by_label("Search by name").fill(name)
        wait("it is found", lambda: page.locator("table.files tbody th a").all_inner_texts() == [f"{name}.txt"])
        window.go("files?page=99999999999&cursor=x")
        page.locator("table.files tbody tr").first.wait_for()
        self.assertNotIn("page=", page.url)

    def test_06_the_list_is_true_while_it_has_the_focus(self):
        node = self.node("watched")
        cids = {}

        def provide(name):
            path = self.work / name
            path.write_text(name)
            cids[name] = json.loads(node.run("provide", path, "--json").stdout)["cid"]

        provide("watched 1.txt")
        provide("watched 3.txt")
        window = self.window(node)
        page = window.page
        window.go("files?sort=name&order=asc")
        focused = lambda: page.evaluate("document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent")
        page.get_by_role("button", name="Delete watched 1.txt").focus()
        provide("watched 0.txt")
        page.get_by_role("link", name="watched 0.txt", exact=True).wait_for()
        self.assertEqual(focused(), "Delete watched 1.txt")
        node.run("rm", cids["watched 1.txt"])
        page.get_by_role("link", name="watched 1.txt", exact=True).wait_for(state="detached")
        self.assertEqual(focused(), "watched 3.txt")

    def test_06_a_file_that_nobody_has_any_more_is_an_error(self):
        source = self.node("source")
        reader = self.node("reader", boot=[source.addr])
        path = self.work / "elsewhere.bin"
        path.write_bytes(pattern(3 * MIB))
        link = json.loads(source.run("provide", path, "--json").stdout)["link"]
        window = self.window(reader, expected=["404", "502", "504"])
        page = window.page
        window.go("files")
        page.get_by_role("button", name="Open a link").click()
        page.get_by_role("textbox", name="Link").fill(link)
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="elsewhere.bin").wait_for()
        # Of a node that keeps nothing, nothing is said to be well.
        window.go("")
        page.get_by_text("This node keeps no file").wait_for()
        self.assertEqual(page.locator(".truth.plain").count(), 1)
        self.assertEqual(page.get_by_text("kept on this disk").count(), 0)
        window.go("files")
        page.get_by_text("opened, not kept").wait_for()
        page.get_by_role("button", name="Take elsewhere.bin off the list").click()
        page.get_by_role("dialog").get_by_role("button", name="Take off").click()
        page.get_by_text("No files yet").wait_for()
        page.get_by_role("button", name="Open a link").click()
        page.get_by_role("textbox", name="Link").fill(link)
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="elsewhere.bin").wait_for()
        source.kill()
        window.go("peers")
        page.get_by_text("Was here").wait_for()
        window.go("files")
        page.get_by_role("link", name="Download elsewhere.bin").click()
        page.locator(".toast.bad").filter(has_text="elsewhere.bin could not be read").wait_for()
        window.go("activity")
        page.locator(".log").get_by_text("elsewhere.bin could not be read").wait_for()
        own = self.work / "own.txt"
        own.write_text("own")
        reader.run("provide", own)
        window.go("")
        page.get_by_text("One file is kept on this disk").wait_for()
        self.assertEqual(page.locator(".truth.ok").count(), 0, "it has no copy")

    def test_06_the_last_file_of_a_page_takes_the_page_with_it(self):
        node = self.node("many")
        folder = self.work / "many files"
        folder.mkdir()
        paths = [folder / f"{number:02}.txt" for number in range(51)]
        for path in paths:
            path.write_text(path.name)
        node.run("provide", *map(str, paths))
        window = self.window(node)
        page = window.page
        window.go("files?sort=name&order=asc")
        page.get_by_role("button", name="Next").click()
        page.get_by_text("Page 2 of 2").wait_for()
        page.get_by_role("button", name="Delete 50.txt").click()
        page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        page.get_by_role("link", name="49.txt", exact=True).wait_for()
        self.assertEqual(page.locator("table.files tbody tr").count(), 50)
        self.assertEqual(page.get_by_text("No files yet").count(), 0)

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

    def test_07_a_dialog_is_not_closed_by_accident(self):
        window = self.window()
        page = window.page
        window.go("settings")
        dialog = page.locator("dialog")
        page.get_by_role("button", name="New token").click()
        name = page.get_by_label("Name, to know it by")
        name.fill("shown once")
        box = dialog.bounding_box()
        page.mouse.click(box["x"] + 4, box["y"] + 4)
        # Marking text may end beside it.
        name.hover()
        page.mouse.down()
        page.mouse.move(5, 5)
        page.mouse.up()
        self.assertEqual(dialog.count(), 1)
        held = []
        page.route("**/api/v1/tokens", lambda route: held.append(route) if route.request.method == "POST" else route.continue_())
        page.get_by_role("button", name="Make token").click()
        wait("it is asked for", lambda: page.title() and held)
        for _ in range(2):
            page.keyboard.press("Escape")
        page.mouse.click(5, 5)
        self.assertEqual(dialog.count(), 1)
        held[0].continue_()
        token = page.get_by_label("token", exact=True)
        token.wait_for()
        box = dialog.bounding_box()
        page.mouse.click(box["x"] + 4, box["y"] + 4)
        page.mouse.click(5, 5)
        for _ in range(3):
            page.keyboard.press("Escape")
        self.assertTrue(token.is_visible())
        page.get_by_role("button", name="Close").click()
        page.get_by_role("button", name="Revoke shown once").click()
        dialog.wait_for()
        page.mouse.click(5, 5)
        dialog.wait_for(state="detached")

    def test_07_nothing_outlives_its_session(self):
        made = json.loads(self.a.run("token", "create", "--name", "for a while", "--scope", "admin", "--json").stdout)
        window = self.window(sign_in=False, expected=["401"])
        page = window.page

        def sign_in(token):
            page.get_by_label("Token").fill(token)
            page.keyboard.press("Enter")
            page.locator("nav a[aria-current]").wait_for()

        sign_in(made["token"])
        window.go("activity")
        seen = page.locator(".log li").filter(has_text="Stored")
        self.a.call("POST", "/uploads", {"upload-length": "0"})
        seen.first.wait_for()
        window.go("settings")
        page.get_by_role("button", name="New token").click()
        page.get_by_label("Name, to know it by").fill("seen by one")
        page.get_by_role("button", name="Make token").click()
        page.get_by_label("token", exact=True).wait_for()
        ids = {token["name"]: token["id"] for token in self.a.call("GET", "/tokens")[1]}
        self.a.call("DELETE", f"/tokens/{ids['for a while']}")
        page.get_by_role("heading", name="Sign in", level=1).wait_for()
        self.assertEqual(page.locator("dialog").count(), 0)
        page.reload()
        sign_in(self.a.token)
        window.go("activity")
        self.assertEqual(seen.count(), 0, "another's activity is shown")

    def test_07_who_may_only_read_is_offered_nothing_else(self):
        node = self.node("library")
        token = json.loads(node.run("token", "create", "--name", "reader", "--scope", "read", "--json").stdout)["token"]
        window = self.window(node, sign_in=False, expected=["401"])
        page = window.page
        page.get_by_label("Token").fill(token)
        page.keyboard.press("Enter")
        page.get_by_text("Nothing is stored here yet").wait_for()
        window.go("files")
        page.get_by_text("What others store on this node").wait_for()
        self.assertEqual(page.get_by_text(re.compile("Drop|open by a link")).filter(visible=True).count(), 0)
        shelf = self.work / "shelf"
        shelf.mkdir()
        (shelf / "book.txt").write_text("Once upon a time")
        cid = json.loads(node.run("provide", shelf, "--json").stdout)["cid"]
        window.go(f"file/{cid}")
        page.get_by_text("book.txt").wait_for()
        self.assertEqual(page.get_by_role("button", name="book.txt").count(), 0)

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
        cid = self.store(window, "reached.txt", "text/plain", b"by keyboard")
        window.go("files")
        page.get_by_role("link", name="reached.txt", exact=True).focus()
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="reached.txt").wait_for()
        self.assertEqual(page.evaluate("document.activeElement.tagName"), "H1", "the file is not read out")
        # Words about what was done cover nothing, and a file that is deleted by somebody else says so.
        page.get_by_role("button", name="Copy link of reached.txt").wait_for()
        for width in (1280, 360):
            page.set_viewport_size({"width": width, "height": 860})
            page.evaluate("scrollTo(0, 0)")
            page.get_by_role("button", name="Copy link", exact=True).click()
            page.locator(".toast").first.wait_for()
            covered = page.evaluate(
                """() => {
                    const toasts = document.getElementById('toasts').getBoundingClientRect();
                    const meets = (other) => other.width && other.left < toasts.right && other.right > toasts.left && other.top < toasts.bottom && other.bottom > toasts.top;
                    scrollTo(0, 0);
                    return ['#main', '#tray', '#nav', '.brand'].filter((name) => meets(document.querySelector(name).getBoundingClientRect()));
                }"""
            )
            self.assertEqual(covered, [], f"covered at {width} pixels")
        page.set_viewport_size({"width": 1280, "height": 860})
        self.a.call("DELETE", f"/files/{cid}")
        page.get_by_text("This file was deleted").wait_for()
        window.go("peers")
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

    def test_11_a_node_that_hangs_is_away(self):
        node = self.node("hanging")
        window = self.window(node, expected=["ERR_"])
        page = window.page
        window.go("files")
        page.get_by_text("No files yet").wait_for()
        node.process.send_signal(signal.SIGSTOP)
        try:
            page.get_by_text("The node does not answer").first.wait_for()
        finally:
            node.process.send_signal(signal.SIGCONT)
        page.locator("#banner").wait_for(state="hidden")
        page.clock.install()
        asked = []
        page.on("request", lambda request: request.url.endswith("/events") and asked.append(1))
        page.reload()
        wait("the events come", lambda: page.title() and len(asked) == 1)
        window.settle()
        page.clock.fast_forward(41_000)
        wait("silence is no connection", lambda: page.title() and len(asked) == 2)

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

    def test_12_what_nobody_has_is_named_with_a_next_step(self):
        path = self.work / "torn.bin"
        path.write_bytes(pattern(MIB))
        node = self.node("torn")
        cid = json.loads(node.run("provide", path, "--public", "--chunker", "fixed:256KiB", "--json").stdout)["cid"]
        window = self.window(node)
        page = window.page
        page.get_by_text("One file is kept on this disk").wait_for()
        block = next(file for file in (node.folder / "blocks").rglob("*") if file.is_file() and file.stat().st_size > 100_000)
        data = bytearray(block.read_bytes())
        data[1000] ^= 1
        block.write_bytes(data)
        page.get_by_role("button", name="Check everything").click()
        dialog = page.get_by_role("dialog", name="Some blocks are not well")
        dialog.get_by_text("1 file lacks blocks:").wait_for()
        self.assertEqual(window.axe(), [])
        # What the check has found is said of the files, and at once.
        page.locator(".truth").get_by_text("1 file here lacks blocks").wait_for()
        page.locator(".card").get_by_text("1 file with blocks missing here").wait_for()
        dialog.get_by_role("button", name="Close").click()
        page.get_by_role("button", name="Repair").click()
        page.locator(".toast.bad").filter(has_text=re.compile("^1 block found nowhere.*Connect a node that has the file")).wait_for()
        page.get_by_role("button", name="Check everything").click()
        dialog.get_by_role("link", name="torn.bin").click()
        page.get_by_role("heading", name="torn.bin").wait_for()
        self.assertEqual(dialog.count(), 0)
        page.get_by_role("button", name="Repair").click()
        page.locator(".toast.bad").filter(has_text=re.compile("^1 block found nowhere.*Connect a node that has the file")).first.wait_for()
        self.assertIn(cid, page.url)

    def test_12_what_is_read_of_a_file_is_seen_to_be_here(self):
        source = self.node("lender")
        reader = self.node("borrower", boot=[source.addr])
        path = self.work / "borrowed.txt"
        path.write_bytes(b"Flour, water, salt, time.\n" * 40_000)
        link = json.loads(source.run("provide", path, "--chunker", "fixed:256KiB", "--json").stdout)["link"]
        window = self.window(reader)
        page = window.page
        window.go("files")
        page.get_by_role("button", name="Open a link").click()
        page.get_by_role("textbox", name="Link").fill(link)
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="borrowed.txt").wait_for()
        # Of what is only opened, nothing needs to be here.
        self.assertEqual(page.get_by_role("button", name="Verify").count(), 0)
        here = page.locator(".health dl dd").first
        known = re.compile(r"^(\d+) of (\d+) block")
        count = lambda: known.match(here.inner_text()).groups()
        here.wait_for()
        self.assertNotEqual(*count())
        before = int(count()[0])
        page.get_by_role("button", name="Open here").click()
        page.get_by_label("Text of borrowed.txt").wait_for()
        wait("what was read is here", lambda: int(count()[0]) > before, 15)
        # What comes without a word of it is seen, too.
        reader.run("get", link, "-o", str(self.work / "borrowed again.txt"))
        wait("all is here", lambda: len(set(count())) == 1, 40)
        asked = []
        page.on("request", lambda request: "/health" in request.url and asked.append(1))
        page.wait_for_timeout(6000)
        asked.clear()
        page.evaluate("document.querySelector('section[aria-label=Preview] .preview').dispatchEvent(new Event('load'))")
        page.wait_for_timeout(6000)
        self.assertEqual(asked, [], "there is nothing left to look for")

    def test_12_many_blocks_are_shown_page_by_page(self):
        path = self.work / "many blocks.bin"
        path.write_bytes(pattern(9 * MIB))
        node = self.node("blocks")
        cid = json.loads(node.run("provide", path, "--public", "--chunker", "fixed:4KiB", "--json").stdout)["cid"]
        window = self.window(node)
        page = window.page
        asked = []
        page.on("request", lambda request: "cursor=1000" in request.url and "holders" not in request.url and asked.append(1))
        window.go(f"file/{cid}")
        more = page.get_by_role("button", name="Show more blocks")
        more.focus()
        page.keyboard.press("Enter")
        squares = page.locator(".grid i")
        wait("two pages are shown", lambda: squares.count() == 2000)
        self.assertEqual(page.evaluate("document.activeElement.textContent"), "Show more blocks")
        # What is shown is drawn anew, all of it.
        self.node("blocks' peer", boot=[node.addr])
        wait("it is asked for again", lambda: page.title() and len(asked) > 1)
        page.get_by_text("No other node that could be asked has any").wait_for()
        self.assertEqual(squares.count(), 2000)
        page.keyboard.press("Enter")
        more.wait_for(state="hidden")
        self.assertGreater(squares.count(), 2000)
        self.assertIn("on this node", page.evaluate("document.activeElement.textContent"), "the focus is lost")

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
            page.get_by_label("Find").fill("")
            page.evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
            self.assertLessEqual(window.overflow(), 0, "it is wider than the window")
            self.assertEqual(page.locator("main").inner_text().count("`"), 0, "Markdown is shown raw")


if __name__ == "__main__":
    unittest.main()
