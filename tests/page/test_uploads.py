"""Uploading files: resuming, failing, cancelling, several tabs and several users."""

import base64
import hashlib
import http.client
import re
import signal
import threading
import urllib.error

from base import MIB, PageTest, created_uploads, distinct
from browser import pattern
from swarm import wait

BIG = 24 * MIB
BINARY = "application/octet-stream"
#: More than the browser stores: after a reload, the file must be chosen again.
LARGE = 65 * MIB


class Uploads(PageTest):
    def test_an_upload_resumes_after_a_reload_and_another_node_reads_the_file(self):
        window = self.window()
        page = window.page
        window.go("files")
        data = pattern(BIG)
        window.throttle(4 * MIB)
        window.drop([("big file.bin", BINARY, data)])
        row = page.locator(".upload").filter(has_text="big file.bin")
        self.assertIn("B/s", wait("a rate is shown", lambda: (text := row.inner_text()) and "left" in text and text))
        self.wait_for_progress(window, "big file.bin", 0.33)
        row.get_by_role("button", name="Pause").click()
        row.filter(has_text="Paused").wait_for()
        row.get_by_role("button", name="Resume").click()
        row.filter(has_text="left").wait_for()
        parts = []
        page.on("request", lambda request: request.method == "PATCH" and parts.append(request.headers))
        page.reload()
        window.wait("the upload resumes", lambda: parts)
        self.assertGreater(int(parts[0]["upload-offset"]), BIG // 4, "it started over")
        window.throttle(None)
        cid = self.stored(window, "big file.bin")
        sums = [part.get("upload-checksum", "") for part in parts]
        self.assertTrue(all(one.startswith("sha256 ") for one in sums), sums)

        window.go(f"file/{cid}")
        page.get_by_role("heading", name="big file.bin").wait_for()
        link = page.get_by_label("Link", exact=True).input_value()
        self.assertTrue(link.startswith(f"storgo://{cid}#"))
        page.get_by_text("QR code").click()
        page.get_by_role("img", name="QR code of the link").wait_for()
        page.locator("summary").filter(has_text="Blocks").click()
        page.get_by_role("img", name=re.compile("blocks?: .* on this node")).wait_for()
        page.get_by_role("button", name="Verify").click()
        page.get_by_text("All blocks are intact").wait_for()

        other = self.window(self.other_node)
        self.open_link(other, link)
        other.page.get_by_role("heading", name="big file.bin").wait_for()
        with other.page.expect_download() as download:
            other.page.get_by_role("link", name="Download").click()
        self.assertEqual(download.value.suggested_filename, "big file.bin")
        self.assertEqual(hashlib.sha256(download.value.path().read_bytes()).digest(), hashlib.sha256(data).digest())

    def test_a_file_too_large_for_the_browser_to_store_is_chosen_again(self):
        path = self.write("large.bin", distinct(LARGE, "large"))
        window = self.window()
        page = window.page
        window.go("files")
        window.throttle(8 * MIB)
        page.locator("#choose-files").set_input_files(path)
        row = self.wait_for_progress(window, "large.bin", 0.1)
        page.reload()
        row.get_by_role("button", name="Choose file").wait_for()
        window.throttle(None)
        row.locator("input[type=file]").set_input_files(path)
        self.stored(window, "large.bin")

    def test_a_thousand_stored_uploads_are_cleared_in_linear_time(self):
        window = self.window()
        page = window.page
        window.go("files")
        page.evaluate("""async () => {
            const [{ Upload }, { uploads }] = await Promise.all([import('/ui/upload.js'), import('/ui/uploads.js')]);
            window.stateReads = 0;
            for (let i = 0; i < 1000; i++) {
                let state = 'stored';
                const upload = new Upload({ name: `old ${i}`, size: 1, sent: 1 });
                const counted = { get: () => (stateReads++, state), set: (now) => { state = now; } };
                uploads.list.push(Object.defineProperty(upload, 'state', counted));
            }
            uploads.dispatchEvent(new Event('change'));
            stateReads = 0;
        }""")
        page.get_by_role("button", name="Clear stored files").click()
        page.locator(".upload").first.wait_for(state="detached")
        self.assertLess(page.evaluate("stateReads"), 20_000, "the time is quadratic")

    def test_a_second_tab_waits_and_takes_over_when_the_first_is_closed(self):
        window = self.window()
        page = window.page
        names = [f"tab {number}.bin" for number in range(5)]
        window.go("files")
        window.throttle(2 * MIB)
        created = created_uploads(window.context)
        # Three are sent at a time, so two are queued.
        window.drop([(name, BINARY, pattern(4 * MIB + number)) for number, name in enumerate(names)])
        self.wait_for_progress(window, names[0])
        second = window.tab()
        waiting = second.locator(".upload").filter(has_text="in another tab")
        wait("the second tab shows all", lambda: waiting.count() == 5)
        self.assertEqual(second.get_by_role("button", name="Pause").count(), 0)
        window.throttle(None)
        for name in names:
            self.stored(window, name)
        waiting.first.wait_for(state="detached")
        wait("the second tab forgets them", lambda: second.locator(".upload").filter(has_text="tab ").count() == 0)
        self.assertEqual(len(created), 5, "each was created once")

        window.throttle(2 * MIB)
        window.drop([("heirloom.bin", BINARY, pattern(8 * MIB))])
        self.wait_for_progress(window, "heirloom.bin")
        second.reload()
        waiting.wait_for()
        page.close()
        second.locator(".upload.stored").filter(has_text="heirloom.bin").wait_for()
        self.assertEqual(len(created), 6, "the second tab resumed it")

    def test_an_upload_that_the_node_could_not_store_is_retried_on_demand(self):
        node = self.new_node("small", more=["--capacity", "30MiB"])
        window = self.window(node, expected=["507"])
        page = window.page
        window.go("files")
        window.throttle(4 * MIB)
        window.drop([(name, BINARY, pattern(13 * MIB + number)) for number, name in enumerate(["one.bin", "two.bin"])])
        two = self.wait_for_progress(window, "two.bin")
        two.get_by_role("button", name="Pause").click()
        window.throttle(None)
        cid = self.stored(window, "one.bin")
        # There was room for both when they began. This file takes it.
        node.provide(self.write("other.bin", pattern(13 * MIB + 2)))
        two.get_by_role("button", name="Resume").click()
        two.filter(has_text="Not stored.").wait_for()
        # An upload that does not fit is refused when it is created, and is not retried.
        window.drop([("three.bin", BINARY, pattern(21 * MIB))])
        three = page.locator(".upload.failed").filter(has_text="three.bin")
        three.filter(has_text="storage.capacity").wait_for()
        three.get_by_role("button", name="Cancel upload").click()
        # A reload does not retry either.
        page.reload()
        two.filter(has_text="Not stored.").wait_for()
        with page.expect_response(lambda response: response.request.method == "PATCH" and response.status == 507):
            two.get_by_role("button", name="Try again").click()
        two.filter(has_text="Not stored.").wait_for()
        node.run("rm", cid)
        node.run("gc", "--now")
        two.get_by_role("button", name="Try again").click()
        self.stored(window, "two.bin")

    def test_a_file_that_changes_while_it_is_sent_is_chosen_again(self):
        path = self.write("log.txt", b"a" * (40 * MIB))
        window = self.window(expected=["ERR_UPLOAD_FILE_CHANGED"])
        page = window.page
        window.go("files")
        window.throttle(8 * MIB)
        page.locator("#choose-files").set_input_files(path)
        row = self.wait_for_progress(window, "log.txt")
        row.get_by_role("button", name="Pause").click()
        path.write_bytes(b"b" * (41 * MIB))
        row.get_by_role("button", name="Resume").click()
        row.filter(has_text="to upload its current content").wait_for()
        window.throttle(None)
        row.locator("input[type=file]").set_input_files(path)
        cid = self.stored(window, "log.txt")
        self.node.run("get", cid, "-o", str(self.work / "log again.txt"))
        self.assertEqual((self.work / "log again.txt").read_bytes(), path.read_bytes())

    def test_no_user_continues_the_uploads_of_another(self):
        token = self.node.create_token("guest", "write")
        window = self.window(sign_in=False, expected=["401"])
        page = window.page
        parts = []
        page.on("request", lambda request: request.method == "PATCH" and parts.append(request))
        self.sign_in(window, token)
        window.go("files")
        window.throttle(2 * MIB)
        window.drop([("guest book.bin", BINARY, pattern(12 * MIB))])
        row = self.wait_for_progress(window, "guest book.bin")
        guest = next(token for token in self.node.call("GET", "/tokens")[1] if token["name"] == "guest")
        self.node.call("DELETE", f"/tokens/{guest['id']}")
        page.reload()
        page.get_by_role("heading", name="Sign in", level=1).wait_for()
        parts.clear()
        self.sign_in(window, self.node.token)
        page.get_by_text("1 started elsewhere").click()
        row.filter(has_text="uploaded elsewhere").wait_for()
        self.assertEqual(parts, [], "the upload of another user went on")
        self.cancel(row)

        window.go("files")
        window.drop([("my book.bin", BINARY, pattern(12 * MIB))])
        row = self.wait_for_progress(window, "my book.bin")
        window.go("settings")
        page.get_by_role("button", name="Sign out").click()
        page.get_by_role("heading", name="Sign in", level=1).wait_for()
        parts.clear()
        self.sign_in(window, self.node.token)
        row.filter(has_text="uploaded elsewhere").wait_for()
        self.assertEqual(parts, [], "signing out did not forget the upload")
        # Cancelling asks first.
        row.get_by_role("button", name="Cancel upload").click()
        dialog = page.get_by_role("dialog", name="Cancel upload of my book.bin?")
        dialog.get_by_text("uploaded so far are deleted").wait_for()
        self.assertEqual(window.axe(), [])
        dialog.get_by_role("button", name="Keep upload").click()
        dialog.wait_for(state="detached")
        self.assertEqual(len(self.node.uploads("my book.bin")), 1)
        self.cancel(row)
        window.wait("the node forgets it", lambda: self.node.uploads("my book.bin") == [])

    def test_an_upload_that_another_program_sends_cannot_be_cancelled(self):
        name = base64.b64encode(b"busy.bin").decode()
        headers, _ = self.node.call("POST", "/uploads", {"upload-length": str(64 * MIB), "upload-metadata": f"filename {name}"})
        stop = threading.Event()

        def trickle():
            while not stop.wait(0.05):
                yield b"x" * 10_000

        def send(offset, body, size):
            connection = http.client.HTTPConnection(self.node.http)
            connection.request("PATCH", headers["location"], body, {
                "authorization": f"Bearer {self.node.token}", "tus-resumable": "1.0.0", "upload-offset": str(offset),
                "content-type": "application/offset+octet-stream", "content-length": str(size),
            })
            if not stop.is_set():
                connection.getresponse()
            connection.close()

        def is_locked():
            try:
                self.node.call("HEAD", headers["location"].removeprefix("/api/v1"))
            except urllib.error.HTTPError as error:
                return error.code == 423
            return False

        send(0, b"x" * MIB, MIB)
        sender = threading.Thread(target=send, args=(MIB, trickle(), 63 * MIB))
        sender.start()
        self.addCleanup(sender.join)
        self.addCleanup(stop.set)
        wait("the other program holds the upload", is_locked)
        window = self.window(expected=["423", "500"])
        page = window.page
        page.get_by_text("1 started elsewhere").click()
        row = page.locator(".upload").filter(has_text="busy.bin")
        self.cancel(row)
        page.locator(".toast.bad").filter(has_text="busy.bin is being uploaded elsewhere").wait_for()
        row.filter(has_text="uploaded elsewhere").wait_for()
        # Other failures of the node are shown, too.
        page.route("**/api/v1/uploads/*", lambda route: route.fulfill(status=500) if route.request.method == "DELETE" else route.continue_())
        self.cancel(row)
        page.locator(".toast.bad").filter(has_text="Could not cancel busy.bin").wait_for()
        row.filter(has_text="uploaded elsewhere").wait_for()
        page.unroute("**/api/v1/uploads/*")
        stop.set()
        sender.join()
        self.cancel(row)
        window.wait("the node forgets it", lambda: self.node.uploads("busy.bin") == [])

    def test_an_upload_cancelled_while_it_is_created_leaves_nothing_behind(self):
        window = self.window()
        page = window.page
        window.go("files")
        held = []
        page.route("**/api/v1/uploads", lambda route: held.append(route) if route.request.method == "POST" else route.continue_())
        window.drop([("regret.txt", "text/plain", b"x" * 100)])
        row = page.locator(".upload").filter(has_text="regret.txt")
        window.wait("it is being created", lambda: held)
        row.get_by_role("button", name="Cancel upload").click()
        with page.expect_request(lambda request: request.method == "DELETE"):
            held[0].continue_()
        window.wait("the node forgets it", lambda: self.node.uploads("regret.txt") == [])
        page.reload()
        window.settle()
        window.wait("the browser forgets it", lambda: page.evaluate("import('/ui/upload-store.js').then(store => store.loadAll('node'))") == [])
        self.assertEqual(row.count(), 0)

    def test_an_upload_that_the_node_is_writing_can_be_paused(self):
        node = self.new_node("asleep")
        window = self.window(node)
        page = window.page
        window.go("files")
        window.throttle(MIB // 16)
        window.drop([("nap.bin", BINARY, pattern(MIB // 4))])
        row = self.wait_for_progress(window, "nap.bin")
        # The node stops reading; the rest fits into the buffers of the system.
        node.process.send_signal(signal.SIGSTOP)
        try:
            window.throttle(None)
            row.filter(has_text="Writing to disk").wait_for()
            self.assertEqual(row.get_by_role("button", name="Cancel upload").count(), 1)
            row.get_by_role("button", name="Pause").click()
            row.filter(has_text="Paused").wait_for()
        finally:
            node.process.send_signal(signal.SIGCONT)
        row.get_by_role("button", name="Resume").click()
        self.stored(window, "nap.bin")

    def test_an_upload_resumes_after_a_reload_without_the_list_of_uploads(self):
        window = self.window(expected=["503"])
        page = window.page
        window.go("files")
        window.throttle(2 * MIB)
        created = created_uploads(page)
        window.drop([("patient.bin", BINARY, pattern(8 * MIB))])
        self.wait_for_progress(window, "patient.bin")
        page.route("**/api/v1/uploads", lambda route: route.fulfill(status=503) if route.request.method == "GET" else route.continue_())
        page.reload()
        window.throttle(None)
        self.stored(window, "patient.bin")
        self.assertEqual(len(created), 1, "it started over")

    def test_an_upload_resumes_after_the_node_was_restarted(self):
        path = self.write("enduring.bin", distinct(LARGE, "enduring"))
        node = self.new_node("restarted")
        window = self.window(node, expected=["ERR_"])
        page = window.page
        window.go("files")
        window.throttle(8 * MIB)
        page.locator("#choose-files").set_input_files(path)
        self.wait_for_progress(window, "enduring.bin")
        node.kill()
        page.get_by_text("The node does not answer").first.wait_for()
        parts = []
        page.on("request", lambda request: request.method == "PATCH" and parts.append(request.headers))
        node.start()
        window.throttle(None)
        cid = self.stored(window, "enduring.bin")
        self.assertGreater(min(int(part["upload-offset"]) for part in parts), 0, "it started over")
        node.run("get", cid, "-o", str(self.work / "enduring again.bin"))
        self.assertEqual((self.work / "enduring again.bin").read_bytes(), path.read_bytes())

    def test_an_upload_waits_for_its_user_to_sign_in_again(self):
        path = self.write("patient.bin", distinct(LARGE, "patient"))
        window = self.window(expected=["401"])
        page = window.page
        window.go("files")
        window.throttle(8 * MIB)
        page.locator("#choose-files").set_input_files(path)
        self.wait_for_progress(window, "patient.bin")
        window.context.clear_cookies()
        page.get_by_role("heading", name="Sign in", level=1).wait_for()
        page.get_by_text("1 upload is waiting in this tab").wait_for()
        self.assertFalse(page.locator("#upload-list").is_visible(), "uploads are shown without a session")
        self.assertEqual(window.axe(), [])
        parts = []
        page.on("request", lambda request: request.method == "PATCH" and parts.append(request.headers))
        self.sign_in(window, self.node.token)
        window.throttle(None)
        self.stored(window, "patient.bin")
        self.assertGreater(int(parts[0]["upload-offset"]), 0, "it started over")

    def test_uploads_waiting_for_one_user_are_not_shown_to_another(self):
        token = self.node.create_token("another", "write")
        window = self.window(expected=["401"])
        page = window.page
        window.go("files")
        window.throttle(MIB)
        window.drop([("diary of one.bin", BINARY, pattern(8 * MIB))])
        self.wait_for_progress(window, "diary of one.bin")
        window.context.clear_cookies()
        page.get_by_text("1 upload is waiting in this tab").wait_for()
        page.get_by_label("Token").fill(token)
        page.keyboard.press("Enter")
        window.settle()
        page.get_by_role("heading", name="Files", level=1).wait_for()
        window.wait("it is not shown as theirs", lambda: page.locator(".upload:not(.needs_file)").count() == 0)
