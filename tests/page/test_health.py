"""The health of files: missing and damaged blocks, repair, verification."""

import re
import tarfile

from base import MIB, PageTest
from browser import pattern
from swarm import wait

#: Chunks of the same length on all nodes. By default, they depend on a secret of the node.
FIXED_CHUNKS = ["--public", "--chunker", "fixed:256KiB"]
NOT_FOUND = re.compile("^1 block not found on any reachable node.*Connect a node that has the file")


def a_data_block(node):
    """The path of a stored block that holds data."""
    return next(file for file in (node.folder / "blocks").rglob("*") if file.is_file() and file.stat().st_size > 100_000)


class Health(PageTest):
    def test_an_empty_node_is_not_praised(self):
        window = self.window()
        page = window.page
        page.locator(".summary.plain").get_by_text("No files yet").wait_for()
        self.assertEqual(page.locator(".card").filter(has_text="At risk").locator("p").all_inner_texts(), ["No files are stored on this node"])

    def test_a_missing_block_is_shown_and_repaired_from_a_peer(self):
        path = self.write("shared.bin", pattern(3 * MIB))
        node = self.new_node("damaged")
        copy = self.new_node("copy", boot=[node.addr])
        cids = {one.provide(path, more=FIXED_CHUNKS)["cid"] for one in (node, copy)}
        self.assertEqual(len(cids), 1, "both nodes have the same file")
        cid = cids.pop()
        window = self.window(node)
        page = window.page
        window.go(f"file/{cid}")
        page.get_by_text("Survives the loss of any node").wait_for()
        page.locator("summary").filter(has_text="Blocks").click()
        page.get_by_text(re.compile(r"Other nodes have \d+ of them, checked just now")).wait_for()
        self.assertEqual(page.locator(".grid i:not(.shared)").count(), 0)
        a_data_block(node).unlink()
        window.go("")
        page.get_by_text("1 file lacks blocks on this node").wait_for()
        page.get_by_role("link", name="shared.bin").first.wait_for()
        self.assertEqual(window.axe(), [])
        window.go(f"file/{cid}")
        page.get_by_text("1 block is missing on this node").wait_for()
        self.assertEqual(window.axe(), [])
        page.get_by_role("button", name="Repair").click()
        page.get_by_text("Survives the loss of any node").wait_for()

    def test_a_damaged_block_that_no_node_has_is_reported_with_a_next_step(self):
        node = self.new_node("damaged")
        cid = node.provide(self.write("torn.bin", pattern(MIB)), more=FIXED_CHUNKS)["cid"]
        window = self.window(node)
        page = window.page
        page.get_by_text("1 file stored on this node, without guaranteed copies").wait_for()
        block = a_data_block(node)
        data = bytearray(block.read_bytes())
        data[1000] ^= 1
        block.write_bytes(data)
        page.get_by_role("button", name="Verify all blocks").click()
        dialog = page.get_by_role("dialog", name="Problems found")
        dialog.get_by_text("1 file lacks blocks:").wait_for()
        self.assertEqual(window.axe(), [])
        # The overview behind the dialog shows the result at once.
        page.locator(".summary").get_by_text("1 file lacks blocks on this node").wait_for()
        page.locator(".card").get_by_text("1 file lacks blocks:").wait_for()
        dialog.get_by_role("button", name="Close").click()
        page.get_by_role("button", name="Repair").click()
        page.locator(".toast.bad").filter(has_text=NOT_FOUND).wait_for()
        page.get_by_role("button", name="Verify all blocks").click()
        dialog.get_by_role("link", name="torn.bin").click()
        page.get_by_role("heading", name="torn.bin").wait_for()
        self.assertEqual(dialog.count(), 0)
        page.get_by_role("button", name="Repair").click()
        page.locator(".toast.bad").filter(has_text=NOT_FOUND).first.wait_for()
        self.assertIn(cid, page.url)

    def test_a_damaged_folder_names_its_damaged_entries_and_sends_the_rest(self):
        node = self.new_node("damaged")
        self.write("album/torn.bin", pattern(MIB))
        self.write("album/whole.txt", "whole")
        cid = node.provide(self.work / "album", more=FIXED_CHUNKS)["cid"]
        window = self.window(node)
        page = window.page
        window.go(f"file/{cid}")
        page.get_by_text("2 entries").wait_for()
        self.assertEqual(page.get_by_text("Lacks blocks").count(), 0)
        a_data_block(node).unlink()
        node.run("verify", check=False)
        page.reload()
        page.get_by_text("1 entry lacks blocks on this node").wait_for()
        entries = page.get_by_role("list", name="Entries").get_by_role("listitem")
        self.assertEqual([("Lacks blocks" in text) for text in entries.all_inner_texts()], [True, False])
        self.assertEqual(window.axe(), [])
        with page.expect_download() as download:
            page.get_by_role("link", name="Download as tar").click()
        with tarfile.open(download.value.path()) as tar:
            names = [member.name for member in tar if member.isfile()]
        self.assertTrue(any(name.endswith("whole.txt") for name in names), names)
        self.assertFalse(any(name.endswith("torn.bin") for name in names), names)
        page.locator(".toast.bad").filter(has_text="1 file could not be read and is missing in the download").wait_for()
        window.go("activity")
        page.locator(".log").get_by_text("torn.bin").first.wait_for()

    def test_a_silent_announcer_is_not_called_a_loss(self):
        cid = self.node.provide(self.write("far.txt", "far"))["cid"]
        window = self.window()
        page = window.page
        silent = {"peer": "12D3KooWsilent", "connected": False, "announces": True, "blocks": None, "whole": False}
        report = self.node.call("GET", f"/files/{cid}/health")[1]
        report |= {"state": "unknown", "here": 0, "lost": 2, "blocks": 2, "copies": 0, "only_here": 0, "holders": [silent]}
        page.route("**/health", lambda route: route.fulfill(json=report))
        window.go(f"file/{cid}")
        page.get_by_text("2 blocks are on no node that answered").wait_for()
        page.get_by_text("A node that announces the file did not answer, and may have them.").wait_for()

    def test_a_file_that_was_only_read_can_be_kept(self):
        source = self.new_node("source")
        link = source.provide(self.write("borrowed.txt", b"Flour, water, salt, time.\n" * 40_000))["link"]
        reader = self.new_node("reader", boot=[source.addr])
        window = self.window(reader)
        page = window.page
        self.open_link(window, link)
        page.get_by_role("heading", name="borrowed.txt").wait_for()
        reader.run("get", link, "-o", str(self.work / "copy.txt"))
        source.kill()
        page.get_by_text("It can be read here, but no node keeps all of it").wait_for()
        self.assertEqual(window.axe(), [])
        page.get_by_role("button", name="Keep").click()
        page.locator(".toast").get_by_text("This node keeps borrowed.txt now.").wait_for()
        page.get_by_text("Only this node has it").wait_for()
        self.assertEqual(page.get_by_role("button", name="Keep").count(), 0)
        # The buttons are those of a kept file.
        page.get_by_role("button", name="Delete").wait_for()
        page.get_by_role("button", name="Verify").wait_for()

    def test_the_health_of_an_opened_file_follows_what_was_read_of_it(self):
        path = self.write("borrowed.txt", b"Flour, water, salt, time.\n" * 40_000)
        link = self.node.provide(path, more=["--chunker", "fixed:256KiB"])["link"]
        reader = self.new_node("reader", boot=[self.node.addr])
        window = self.window(reader)
        page = window.page
        # Time goes on as usual until the test moves it.
        page.clock.install()
        page.reload()
        self.open_link(window, link)
        page.get_by_role("heading", name="borrowed.txt").wait_for()
        # A file that is not stored here need not be complete.
        self.assertEqual(page.get_by_role("button", name="Verify").count(), 0)
        here = page.locator(".health dl dd").first
        known = re.compile(r"^(\d+) of (\d+) block")
        count = lambda: known.match(here.inner_text()).groups()
        here.wait_for()
        self.assertNotEqual(*count())
        before = int(count()[0])
        page.get_by_role("button", name="Show preview").click()
        page.get_by_label("Text of borrowed.txt").wait_for()
        wait("the blocks that were read are here", lambda: int(count()[0]) > before)
        # No event tells of blocks that another program reads, but they are noticed, too.
        reader.run("get", link, "-o", str(self.work / "borrowed again.txt"))
        page.clock.fast_forward(25_000)
        wait("all blocks are here", lambda: len(set(count())) == 1)

        # From now on, reading the preview does not ask other nodes again.
        is_health = lambda request: "/health" in request.url
        with page.expect_request_finished(is_health):
            page.evaluate("""import('/ui/events.js').then(({ events }) =>
                events.dispatchEvent(new CustomEvent('event', { detail: { type: 'skipped' } })))""")
            page.clock.fast_forward(6_000)
        asked = []
        page.on("request", lambda request: is_health(request) and asked.append(request.url))
        page.evaluate("document.querySelector('section[aria-label=Preview] .preview').dispatchEvent(new Event('load'))")
        page.clock.fast_forward(6_000)
        # A request that was made before this one would be known when this one has finished.
        page.evaluate("fetch('/livez')")
        self.assertEqual(asked, [])

    def test_many_blocks_are_shown_page_by_page(self):
        path = self.write("many blocks.bin", pattern(9 * MIB))
        cid = self.node.provide(path, more=["--public", "--chunker", "fixed:4KiB"])["cid"]
        window = self.window()
        page = window.page
        asked = []
        page.on("request", lambda request: "cursor=1000" in request.url and "holders" not in request.url and asked.append(1))
        window.go(f"file/{cid}")
        page.locator("summary").filter(has_text="Blocks").click()
        more = page.get_by_role("button", name="Show more blocks")
        more.focus()
        page.keyboard.press("Enter")
        squares = page.locator(".grid i")
        wait("two pages are shown", lambda: squares.count() == 2000)
        self.assertEqual(page.evaluate("document.activeElement.textContent"), "Show more blocks")
        # A new peer makes the view load all pages that are shown again.
        self.new_node("peer", boot=[self.node.addr])
        window.wait("the second page is loaded again", lambda: len(asked) > 1)
        page.get_by_text("No other reachable node has any of them").wait_for()
        self.assertEqual(squares.count(), 2000)
        page.keyboard.press("Enter")
        more.wait_for(state="hidden")
        self.assertGreater(squares.count(), 2000)
        self.assertIn("on this node", page.evaluate("document.activeElement.textContent"), "the focus is lost")
