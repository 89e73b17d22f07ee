"""All views: keyboard, accessibility, narrow and dark windows; peers and nodes that come and go; the API documentation."""

import signal

from base import PageTest
from proxy import PrefixProxy

LOOKS = {"wide": {}, "narrow": {"width": 360, "height": 740}, "dark": {"scheme": "dark"}}


class Views(PageTest):
    def test_everything_can_be_reached_by_keyboard(self):
        window = self.window()
        page = window.page
        page.reload()
        page.locator("nav a[aria-current]").wait_for()
        page.keyboard.press("Tab")
        self.assertEqual(page.evaluate("document.activeElement.textContent"), "Skip to content")
        reached = set()
        for _ in range(40):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("document.activeElement.textContent.trim()"))
        for name in ("Overview", "Files", "Peers", "Activity", "Settings", "Verify all blocks"):
            self.assertIn(name, reached)
        page.get_by_role("link", name="Peers", exact=True).focus()
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="Peers", level=1).wait_for()
        self.assertEqual(page.evaluate("document.activeElement.tagName"), "H1", "the new view is not read out")
        self.store(window, "reached.txt", "text/plain", b"by keyboard")
        window.go("files")
        page.get_by_role("link", name="reached.txt", exact=True).focus()
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="reached.txt").wait_for()
        self.assertEqual(page.evaluate("document.activeElement.tagName"), "H1", "the file is not read out")

    def test_a_dialog_takes_the_focus_and_returns_it(self):
        window = self.window()
        page = window.page
        window.go("peers")
        page.get_by_role("button", name="Add peer").focus()
        page.keyboard.press("Enter")
        self.assertTrue(page.evaluate("document.querySelector('dialog').contains(document.activeElement)"))
        page.keyboard.press("Escape")
        self.assertEqual(page.evaluate("document.activeElement.textContent"), "Add peer", "the focus is lost")

    def test_toasts_cover_nothing(self):
        window = self.window()
        page = window.page
        cid = self.store(window, "copied.txt", "text/plain", b"copied")
        window.go(f"file/{cid}")
        page.get_by_role("button", name="Copy link to copied.txt").wait_for()
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
                    return ['#main', '#upload-list', '#nav', '.brand'].filter((name) => meets(document.querySelector(name).getBoundingClientRect()));
                }"""
            )
            self.assertEqual(covered, [], f"covered at {width} pixels")

    def test_a_file_that_is_deleted_elsewhere_says_so(self):
        window = self.window()
        cid = self.store(window, "short-lived.txt", "text/plain", b"soon gone")
        window.go(f"file/{cid}")
        self.node.call("DELETE", f"/files/{cid}")
        window.page.get_by_text("This file was deleted").wait_for()

    def test_every_view_is_accessible_wide_narrow_and_dark(self):
        cid = self.store(self.window(), "an example.txt", "text/plain", b"Hello.\n" * 40)
        self.write("a folder/inside.txt", "Hello.")
        folder = self.node.provide(self.work / "a folder")["cid"]
        views = {"overview": "", "files": "files", "file": f"file/{cid}", "folder": f"file/{folder}", "entry": f"file/{folder}/inside.txt", "peers": "peers", "activity": "activity", "settings": "settings", "not found": "what/is/this"}
        for look, options in LOOKS.items():
            window = self.window(**options)
            for name, view in views.items():
                with self.subTest(view=name, look=look):
                    window.go(view)
                    if name == "overview":
                        window.page.get_by_text("stored on this node").first.wait_for()
                    self.assertEqual(window.axe(), [])
                    self.assertLessEqual(window.overflow(), 0, "the page is wider than the window")
            for view, button in [("files", "Open link"), ("peers", "Add peer"), ("settings", "New token"), (f"file/{cid}", "Delete")]:
                with self.subTest(dialog=button, look=look):
                    window.go(view)
                    window.page.get_by_role("button", name=button, exact=True).click()
                    self.assertEqual(window.axe(), [])
                    window.page.keyboard.press("Escape")

    def test_a_peer_that_dies_leaves_the_list(self):
        third = self.new_node("third", boot=[self.node.addr])
        window = self.window()
        window.go("peers")
        row = window.page.locator(f"table.peers tr[data-key='{third.peer}']")
        row.wait_for()
        self.assertIn("Direct", row.inner_text())
        third.kill()
        row.wait_for(state="detached")
        window.page.locator(f"table.peers tr[data-key='{self.other_node.peer}']").wait_for()

    def test_a_node_that_stopped_is_shown_as_offline_until_it_is_back(self):
        node = self.new_node("restarted")
        window = self.window(node, expected=["ERR_"])
        window.go("files")
        window.page.get_by_text("No files yet").wait_for()
        node.kill()
        window.page.get_by_text("The node does not answer").first.wait_for()
        node.start()
        window.page.locator("#banner").wait_for(state="hidden")
        # Nobody has to sign in again.
        node.provide(self.write("later.txt", "after the restart"))
        window.page.get_by_role("link", name="later.txt", exact=True).wait_for()

    def test_the_page_works_below_a_path_prefix(self):
        # A proxy that cuts the prefix off, and a node whose settings name it.
        proxy = PrefixProxy(self.node, "/cellar/")
        self.addCleanup(proxy.stop)
        self._use_below_a_prefix(self.node, proxy.url)
        node = self.new_node("cellar", more=["--http-base-path", "/cellar"])
        self._use_below_a_prefix(node, f"{node.url}cellar/")

    def _use_below_a_prefix(self, node, url):
        window = self.window(node, sign_in=False, expected=["401"])
        page = window.page
        page.goto(url)
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        self.sign_in(window, node.token)
        window.go("files")
        picture = bytes.fromhex("89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c4944415408d763f8cfc0000003010100c9fe92ef0000000049454e44ae426082")
        cid = self.store(window, "pixel.png", "image/png", picture)
        window.go(f"file/{cid}")
        window.wait("the picture is drawn", lambda: page.locator(".preview img").evaluate("img => img.naturalWidth") == 1)
        with page.expect_download() as download:
            page.get_by_role("link", name="Download").click()
        self.assertEqual(download.value.path().read_bytes(), picture)
        window.go("settings")
        with window.context.expect_page() as opened:
            page.get_by_role("link", name="API documentation").click()
        opened.value.get_by_role("heading", name="uploads", exact=True).wait_for()
        self.assertEqual([other for other in asked if not other.startswith((url, "blob:"))], [])

    def test_a_node_that_hangs_is_shown_as_offline(self):
        node = self.new_node("hanging")
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
        window.wait("the events are requested", lambda: len(asked) == 1)
        window.settle()
        page.clock.fast_forward(41_000)
        window.wait("a silent event stream is opened again", lambda: len(asked) == 2)

    def test_the_api_documentation_shows_every_call(self):
        for look, options in LOOKS.items():
            with self.subTest(look=look):
                window = self.window(sign_in=False, expected=["401"], **options)
                page = window.page
                page.goto(f"{self.node.url}api/docs")
                page.get_by_role("heading", name="uploads", exact=True).wait_for()
                page.get_by_label("Find").fill("health")
                call = page.locator("details:visible").filter(has_text="/health")
                call.locator("summary").click()
                call.get_by_text("may_lose").wait_for()
                self.assertEqual(window.axe(), [])
                page.get_by_label("Find").fill("")
                page.evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
                self.assertLessEqual(window.overflow(), 0, "the page is wider than the window")
                self.assertEqual(page.locator("main").inner_text().count("`"), 0, "Markdown is shown raw")
