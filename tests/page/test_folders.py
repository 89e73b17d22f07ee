"""Uploading folders."""

import base64
import os
import re
import tarfile

from base import MIB, PageTest, created_uploads


class Folders(PageTest):
    def test_a_folder_becomes_one_folder_with_one_link(self):
        long_name = "ü" + "x" * 120 + ".txt"
        self.write("album/first.txt", "one")
        self.write(f"album/inner/{long_name}", "two")
        window = self.window()
        page = window.page
        window.go("files")
        page.locator("#choose-folder").set_input_files(self.work / "album")
        cid = self.stored(window, "album")
        window.go(f"file/{cid}")
        page.get_by_role("heading", name="album", exact=True).wait_for()
        page.get_by_role("link", name="first.txt").wait_for()
        with page.expect_download() as download:
            page.get_by_role("link", name="Download as tar").click()
        with tarfile.open(download.value.path()) as tar:
            files = {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}
        self.assertEqual(sorted(files.values()), [b"one", b"two"])
        self.assertTrue(any(name.endswith(f"inner/{long_name}") for name in files), files.keys())
        page.get_by_role("link", name="first.txt").click()
        page.get_by_role("heading", name="first.txt").wait_for()

    def test_entries_are_links_that_leave_the_list_as_it_is(self):
        self.write("album/12.txt", "twelve")
        self.write("album/2.txt", "two")
        self.write("album/day 1?/50% & more.txt", "inside")
        cid = self.node.provide(self.work / "album")["cid"]
        token = self.node.create_token("reader", "read")
        # The first may read only.
        for signed_in in (token, None):
            with self.subTest(scope="read" if signed_in else "admin"):
                window = self.window(sign_in=not signed_in, expected=["401"] if signed_in else [])
                page = window.page
                if signed_in:
                    self.sign_in(window, signed_in)
                window.go(f"file/{cid}")
                entries = page.get_by_role("list", name="Entries").get_by_role("link")
                entries.first.wait_for()
                self.assertEqual(entries.all_inner_texts(), ["2.txt", "12.txt", "day 1?"])
                # A real address: it opens in a new tab and can be copied.
                with window.context.expect_page() as opened:
                    entries.nth(0).click(modifiers=["ControlOrMeta"])
                opened.value.get_by_role("heading", name="2.txt", level=1).wait_for()
                opened.value.close()
                entries.nth(2).click()
                page.get_by_role("heading", name="day 1?", level=1).wait_for()
                page.get_by_role("link", name="50% & more.txt").click()
                page.get_by_role("heading", name="50% & more.txt", level=1).wait_for()
                # Kept with its folder: it is shown without a click, and cannot be deleted by itself.
                self.assertEqual(page.get_by_label("Text of 50% & more.txt").inner_text(), "inside")
                self.assertEqual(page.get_by_text("Not on this node").count(), 0)
                self.assertEqual(page.get_by_role("button", name=re.compile("Delete|Remove")).count(), 0)
                page.get_by_text("Only this node has it").wait_for()
                self.assertEqual(window.axe(), [])
                with page.expect_download() as download:
                    page.get_by_role("link", name="Download").click()
                self.assertEqual(download.value.suggested_filename, "50% & more.txt")
                self.assertEqual(download.value.path().read_bytes(), b"inside")
                page.reload()
                crumbs = page.get_by_role("navigation", name="Breadcrumbs").get_by_role("link")
                crumbs.nth(2).wait_for()
                self.assertEqual(crumbs.all_inner_texts(), ["Files", "album", "day 1?"])
                crumbs.nth(1).click()
                page.get_by_role("heading", name="album", level=1).wait_for()
                self.assertIn(f"#/file/{cid}", page.url)
                crumbs.nth(0).click()
                page.get_by_role("heading", name="Files", level=1).wait_for()
                window.settle()
                self.assertEqual(page.locator("table.files tbody th a").all_inner_texts(), ["album"])
        self.assertEqual(self.node.call("GET", "/files")[1]["total"], 1)

    def test_an_address_of_no_entry_leads_back_to_the_folder(self):
        self.write("album/first.txt", "one")
        cid = self.node.provide(self.work / "album")["cid"]
        window = self.window(expected=["404"])
        window.go(f"file/{cid}/second.txt")
        window.page.get_by_role("alert").get_by_text("The folder has no entry of this name").wait_for()
        window.page.get_by_role("link", name="Folder").click()
        window.page.get_by_role("heading", name="album", level=1).wait_for()

    def test_a_large_folder_is_shown_page_by_page(self):
        for number in range(3):
            self.write(f"large album/picture {number}.txt", "x")
        cid = self.node.provide(self.work / "large album")["cid"]
        entries = self.node.call("GET", f"/files/{cid}")[1]["entries"]
        window = self.window()
        page = window.page

        def info(route):
            route.fulfill(json=route.fetch().json() | {"entries": entries[:1], "entries_next": "one"})

        page.route(f"**/api/v1/files/{cid}", info)
        rest = {"one": {"entries": entries[1:2], "next": "two"}, "two": {"entries": entries[2:], "next": None}}
        page.route(f"**/api/v1/files/{cid}/entries?*", lambda route: route.fulfill(json=rest[re.search(r"cursor=(\w+)", route.request.url)[1]]))
        window.go(f"file/{cid}")
        page.get_by_text("First 1 entry").wait_for()
        more = page.get_by_role("button", name="Show more", exact=True)
        more.focus()
        page.keyboard.press("Enter")
        page.get_by_role("link", name="picture 1.txt").wait_for()
        self.assertEqual(page.evaluate("document.activeElement.textContent"), "Show more")
        page.keyboard.press("Enter")
        page.get_by_text("3 entries").wait_for()
        self.assertFalse(more.is_visible())
        self.assertIn("picture 2.txt", page.evaluate("document.activeElement.textContent"), "the focus is lost")

    def test_an_unchanged_folder_resumes_and_a_changed_one_starts_over(self):
        # More than the browser stores.
        for name, letter in [("first.txt", b"a"), ("second.txt", b"b"), ("third.txt", b"c")]:
            self.write(f"diary/{name}", letter * (23 * MIB))
        top = self.work / "diary"
        window = self.window()
        page = window.page
        created = created_uploads(page)
        window.go("files")
        window.throttle(8 * MIB)
        page.locator("#choose-folder").set_input_files(top)
        row = self.wait_for_progress(window, "diary")
        page.reload()
        row.get_by_role("button", name="Choose folder").wait_for()
        row.locator("input[type=file]").set_input_files(top)
        row.filter(has_text="left").wait_for()
        self.assertEqual(len(created), 1, "the same folder resumes")
        page.reload()
        row.get_by_role("button", name="Choose folder").wait_for()
        changed = self.write("diary/second.txt", b"d" * (23 * MIB))
        later = (top / "first.txt").stat().st_mtime + 5
        os.utime(changed, (later, later))
        window.throttle(None)
        row.locator("input[type=file]").set_input_files(top)
        page.get_by_text("The upload starts over").wait_for()
        cid = self.stored(window, "diary")
        self.assertEqual(len(created), 2)
        self.node.run("get", cid, "-o", str(self.work / "diary again"))
        for name, letter in [("first.txt", b"a"), ("second.txt", b"d"), ("third.txt", b"c")]:
            self.assertEqual(set((self.work / "diary again" / name).read_bytes()), set(letter), name)
        window.wait("the node forgets both uploads", lambda: self.node.uploads("diary") == [])

    def test_a_folder_handle_that_changed_starts_over(self):
        window = self.window(expected=["ERR_UPLOAD_FILE_CHANGED"])
        page = window.page
        # A handle as of a dropped folder, but in the browser's own file system, which needs no permission.
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
            const [{ sourceFromHandle }, { uploads }] = await Promise.all([import('/ui/file-source.js'), import('/ui/uploads.js')]);
            uploads.add([await sourceFromHandle(top)]);
        }""")
        row = self.wait_for_progress(window, "workbook")
        row.get_by_role("button", name="Pause").click()
        # It changes while the page has it open.
        page.evaluate(write, {"two.txt": "c"})
        row.get_by_role("button", name="Resume").click()
        row.filter(has_text="to upload its current content").wait_for()
        before = [upload["id"] for upload in self.node.uploads()]
        row.get_by_role("button", name="Resume").click()
        page.get_by_text("The upload starts over").wait_for()
        # The progress bar may still show the first upload, so ask the node.
        window.wait("some of the second upload is on the node", lambda: [one for one in self.node.uploads() if one["offset"] and one["id"] not in before])
        row.get_by_role("button", name="Pause").click()
        # It changes before the page is loaded again.
        page.evaluate(write, {"one.txt": "d"})
        page.reload()
        page.get_by_text("The upload starts over").wait_for()
        window.throttle(None)
        row.get_by_role("button", name="Resume").click()
        cid = self.stored(window, "workbook")
        self.node.run("get", cid, "-o", str(self.work / "workbook"))
        for name, letter in [("one.txt", b"d"), ("two.txt", b"c")]:
            self.assertEqual(set((self.work / "workbook" / name).read_bytes()), set(letter), name)

    def test_a_folder_started_elsewhere_is_chosen_again_as_a_folder(self):
        self.write("letters/one.txt", "one")
        self.write("other letters/one.txt", "one")
        fields = {"filename": b"letters", "tree": b"true"}
        metadata = ",".join(f"{key} {base64.b64encode(value).decode()}" for key, value in fields.items())
        # The length of the tar that the page makes. The page knows nothing else of this upload.
        self.node.call("POST", "/uploads", {"upload-length": str(2560), "upload-metadata": metadata})
        window = self.window()
        window.go("files")
        # The list is closed if it holds only uploads from elsewhere.
        window.page.get_by_text("1 started elsewhere").click()
        row = window.page.locator(".upload").filter(has_text="letters")
        self.assertIn("uploaded elsewhere. Choose the same folder", row.inner_text())
        row.locator("input[type=file]").set_input_files(self.work / "other letters")
        row.get_by_text("other letters is a different folder").wait_for()
        row.locator("input[type=file]").set_input_files(self.work / "letters")
        cid = self.stored(window, "letters")
        self.node.run("get", cid, "-o", str(self.work / "letters again"))
        self.assertEqual((self.work / "letters again" / "one.txt").read_text(), "one")
