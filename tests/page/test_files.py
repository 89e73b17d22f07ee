"""The list of files, and previews."""

import re
import subprocess

from base import MIB, PageTest
from browser import pattern
from swarm import wait


def names(page):
    return page.locator("table.files tbody th a").all_inner_texts()


class Files(PageTest):
    def test_the_list_is_searched_sorted_and_shortened(self):
        window = self.window()
        page = window.page
        window.go("files")
        window.drop([(f"note {i}.txt", "text/plain", b"x" * (i + 1)) for i in range(8)])
        for i in range(8):
            self.stored(window, f"note {i}.txt")
        page.get_by_role("button", name="Clear stored files").click()
        page.get_by_label("Search by name").fill("note")
        wait("only these are listed", lambda: len(names(page)) == 8)
        page.get_by_role("button", name="Size").click()
        wait("the largest is first", lambda: names(page)[0] == "note 7.txt")
        page.get_by_role("button", name="Size").click()
        wait("the smallest is first", lambda: names(page)[0] == "note 0.txt")
        self.assertEqual(page.get_by_role("columnheader", name="Size").get_attribute("aria-sort"), "ascending")
        page.get_by_role("button", name="Delete note 0.txt").click()
        dialog = page.get_by_role("dialog")
        self.assertIn("cannot be undone", dialog.inner_text())
        dialog.get_by_role("button", name="Cancel").click()
        page.get_by_role("button", name="Delete note 0.txt").click()
        page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        wait("it is gone", lambda: len(names(page)) == 7 and "note 0.txt" not in names(page))
        focused = lambda: page.evaluate("document.activeElement.getAttribute('aria-label')")
        wait("the next one can be deleted at once", lambda: focused() == "Delete note 1.txt")
        page.reload()
        wait("the search is in the address", lambda: len(names(page)) == 7)
        page.get_by_label("Search by name").fill("no such thing")
        page.get_by_text("No file names match").wait_for()

    def test_a_reload_and_the_back_button_return_to_the_same_page_of_the_list(self):
        paths = [self.write(f"{number:03}.txt", f"{number:03}.txt") for number in range(101)]
        cid = self.node.provide(*paths)["cid"]
        window = self.window()
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
        page.get_by_label("Files per page").select_option("200")
        wait("all are on one page", lambda: page.locator("table.files tbody tr").count() == 101)
        page.reload()
        wait("all are on one page again", lambda: page.locator("table.files tbody tr").count() == 101)
        # A link finds its file, and its key does not get into the address.
        link = self.node.call("GET", f"/files/{cid}")[1]["link"]
        page.get_by_label("Search by name").fill(link)
        wait("only it is listed", lambda: page.locator("table.files tbody tr").count() == 1)
        self.assertIn(cid, page.url)
        self.assertNotIn(link.split("#")[1], page.url)

    def test_deleting_the_last_file_of_a_page_shows_the_page_before(self):
        self.node.provide(*(self.write(f"{number:02}.txt", f"{number:02}.txt") for number in range(51)))
        window = self.window()
        page = window.page
        window.go("files?sort=name&order=asc")
        page.get_by_role("button", name="Next").click()
        page.get_by_text("Page 2 of 2").wait_for()
        page.get_by_role("button", name="Delete 50.txt").click()
        page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        page.get_by_role("link", name="49.txt", exact=True).wait_for()
        self.assertEqual(page.locator("table.files tbody tr").count(), 50)
        self.assertEqual(page.get_by_text("No files yet").count(), 0)

    def test_hidden_characters_in_names_are_shown_everywhere(self):
        window = self.window()
        page = window.page
        window.go("files")
        evil, seen = "photo\u202egpj\u0007.exe", "photo\\u{202e}gpj\\u{7}.exe"
        window.drop([(evil, "application/octet-stream", b"evil"), ("  ", "text/plain", b"nameless")])
        cid = self.stored(window, seen)
        page.get_by_role("link", name=seen, exact=True).wait_for()
        page.get_by_role("link", name="Unnamed", exact=True).first.wait_for()
        page.get_by_role("button", name=f"Delete {seen}").click()
        self.assertIn(seen, page.get_by_role("dialog").inner_text())
        page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
        for view in ("files", f"file/{cid}", "activity", ""):
            window.go(view)
            page.get_by_text(seen).first.wait_for()
            shown = page.evaluate("document.title + document.body.innerText + [...document.querySelectorAll('[title], [aria-label]')].map(e => e.title + e.ariaLabel).join('')")
            self.assertNotRegex(shown, "[\u202e\u0007]", view)

    def test_a_name_that_looks_like_a_cid_is_found(self):
        window = self.window(expected=["400", "404", "422", "502", "504"])
        page = window.page
        window.go("files")
        name = "bananas" * 6
        self.store(window, f"{name}.txt", "text/plain", b"many")
        page.get_by_label("Search by name").fill(name)
        wait("it is found", lambda: names(page) == [f"{name}.txt"])
        window.go("files?page=99999999999&cursor=x")
        page.locator("table.files tbody tr").first.wait_for()
        self.assertNotIn("page=", page.url)

    def test_the_list_follows_changes_and_keeps_the_focus(self):
        cids = {}

        def provide(name):
            cids[name] = self.node.provide(self.write(name, name))["cid"]

        provide("watched 1.txt")
        provide("watched 3.txt")
        window = self.window()
        page = window.page
        window.go("files?sort=name&order=asc")
        focused = lambda: page.evaluate("document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent")
        page.get_by_role("button", name="Delete watched 1.txt").focus()
        provide("watched 0.txt")
        page.get_by_role("link", name="watched 0.txt", exact=True).wait_for()
        self.assertEqual(focused(), "Delete watched 1.txt")
        self.node.run("rm", cids["watched 1.txt"])
        page.get_by_role("link", name="watched 1.txt", exact=True).wait_for(state="detached")
        self.assertEqual(focused(), "watched 3.txt")

    def test_downloading_a_file_that_no_node_has_shows_an_error(self):
        source = self.new_node("source")
        reader = self.new_node("reader", boot=[source.addr])
        link = source.provide(self.write("elsewhere.bin", pattern(3 * MIB)))["link"]
        window = self.window(reader, expected=["404", "502", "504"])
        page = window.page
        self.open_link(window, link)
        page.get_by_role("heading", name="elsewhere.bin").wait_for()
        # A file that was only opened does not count as stored.
        window.go("")
        page.get_by_text("No files are stored on this node").wait_for()
        self.assertEqual(page.locator(".summary.plain").count(), 1)
        self.assertEqual(page.get_by_text("without guaranteed copies").count(), 0)
        window.go("files")
        page.get_by_text("Not stored here").wait_for()
        page.get_by_role("button", name="Remove elsewhere.bin from list").click()
        page.get_by_role("dialog").get_by_role("button", name="Remove from list").click()
        page.get_by_text("No files yet").wait_for()
        self.open_link(window, link)
        page.get_by_role("heading", name="elsewhere.bin").wait_for()
        source.kill()
        window.go("peers")
        page.get_by_text("Recently disconnected").wait_for()
        window.go("files")
        page.get_by_role("link", name="Download elsewhere.bin").click()
        page.locator(".toast.bad").filter(has_text="Could not read elsewhere.bin").wait_for()
        window.go("activity")
        page.locator(".log").get_by_text("Could not read elsewhere.bin").wait_for()
        reader.provide(self.write("own.txt", "own"))
        window.go("")
        page.get_by_text("1 file stored on this node, without guaranteed copies").wait_for()
        self.assertEqual(page.locator(".summary.ok").count(), 0, "the file has no copy")


class Previews(PageTest):
    def test_seeking_in_a_video_does_not_load_all_of_it(self):
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
        # The browser must not have loaded all of it before it seeks.
        window.throttle(None, download=MIB)
        window.go(f"file/{cid}")
        video = page.locator("video")
        wait("the video is there", lambda: video.evaluate("video => video.readyState >= 1"))
        video.evaluate("video => new Promise((done, failed) => { video.onseeked = done; video.onerror = failed; video.currentTime = 25; })")
        wait("the picture is there", lambda: video.evaluate("video => video.readyState >= 2 && Math.abs(video.currentTime - 25) < 0.5"))
        far = [first for status, first in ranges if status == 206 and int(re.match(r"bytes (\d+)-", first)[1]) > path.stat().st_size // 2]
        self.assertTrue(far, f"no range in the second half was requested: {ranges}")

    def test_pictures_text_and_pdf_are_shown_and_scripts_do_not_run(self):
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
            with self.subTest(file=name):
                cid = self.store(window, name, kind, data)
                window.go(f"file/{cid}")
                page.get_by_role("heading", name=name, exact=True).wait_for()
                element = page.locator(f".preview {shown}")
                element.wait_for()
                if shown == "pre":
                    self.assertEqual(element.text_content(), data.decode())
                if shown == "iframe":
                    window.wait("the browser's own viewer shows it", lambda: any(frame.url.startswith("chrome-extension://") for frame in page.frames))
                if shown.startswith("img"):
                    wait("the picture is drawn", lambda: element.evaluate("img => img.naturalWidth") == 1)
