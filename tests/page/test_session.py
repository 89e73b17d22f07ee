"""Signing in and out, scopes, tokens, and what one user sees of another."""

import re

from base import PageTest


class Session(PageTest):
    def test_sign_in_by_token_or_one_time_link_and_sign_out(self):
        window = self.window(sign_in=False, expected=["401"])
        page = window.page
        page.get_by_role("heading", name="Sign in", level=1).wait_for()
        self.assertEqual(window.axe(), [])
        page.get_by_label("Token").fill("not a token")
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("alert").filter(has_text="This token is not valid").wait_for()
        page.get_by_label("Token").fill(self.node.token)
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="Overview", level=1).wait_for()
        window.go("settings")
        page.get_by_role("button", name="Sign out").click()
        page.get_by_role("heading", name="Sign in", level=1).wait_for()
        link = self.node.sign_in_link()
        page.goto(link)
        page.locator("nav a[aria-current]").wait_for()
        self.assertNotIn("signin", page.url, "the code is still in the address")
        other = self.window(sign_in=False, expected=["401"])
        other.page.goto(link)
        other.page.get_by_role("alert").filter(has_text="This sign-in link is not valid").wait_for()

    def test_scope_read_offers_nothing_but_reading(self):
        token = self.node.create_token("reader", "read")
        window = self.window(sign_in=False, expected=["401"])
        page = window.page
        page.get_by_label("Token").fill(token)
        page.keyboard.press("Enter")
        page.get_by_text("No files yet").wait_for()
        window.go("files")
        page.get_by_text("Files that others store on this node").wait_for()
        self.assertEqual(page.get_by_text(re.compile("Drop|open by a link")).filter(visible=True).count(), 0)
        self.write("library/book.txt", "Once upon a time")
        cid = self.node.provide(self.work / "library")["cid"]
        window.go(f"file/{cid}")
        page.get_by_role("link", name="book.txt").wait_for()
        self.assertEqual(page.get_by_role("button", name=re.compile("Verify|Delete")).count(), 0)

    def test_a_token_is_created_and_revoked_and_its_user_is_signed_out(self):
        window = self.window()
        page = window.page
        window.go("settings")
        page.get_by_role("button", name="New token").click()
        page.get_by_label("Name", exact=True).fill("a reader")
        page.get_by_role("button", name="Create token").click()
        token = page.get_by_label("Token", exact=True).input_value()
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

    def test_a_new_token_is_not_closed_by_escape_or_a_click_outside(self):
        window = self.window()
        page = window.page
        window.go("settings")
        dialog = page.locator("dialog")
        page.get_by_role("button", name="New token").click()
        name = page.get_by_label("Name", exact=True)
        name.fill("shown once")
        box = dialog.bounding_box()
        page.mouse.click(box["x"] + 4, box["y"] + 4)
        # Selecting text may end outside the dialog.
        name.hover()
        page.mouse.down()
        page.mouse.move(5, 5)
        page.mouse.up()
        self.assertEqual(dialog.count(), 1)
        # While the node creates the token, nothing closes the dialog.
        held = []
        page.route("**/api/v1/tokens", lambda route: held.append(route) if route.request.method == "POST" else route.continue_())
        page.get_by_role("button", name="Create token").click()
        window.wait("the token is requested", lambda: held)
        for _ in range(2):
            page.keyboard.press("Escape")
        page.mouse.click(5, 5)
        self.assertEqual(dialog.count(), 1)
        held[0].continue_()
        token = page.get_by_label("Token", exact=True)
        token.wait_for()
        box = dialog.bounding_box()
        page.mouse.click(box["x"] + 4, box["y"] + 4)
        page.mouse.click(5, 5)
        for _ in range(3):
            page.keyboard.press("Escape")
        self.assertTrue(token.is_visible())
        page.get_by_role("button", name="Close").click()
        # Other dialogs close by a click outside.
        page.get_by_role("button", name="Revoke shown once").click()
        dialog.wait_for()
        page.mouse.click(5, 5)
        dialog.wait_for(state="detached")

    def test_dialogs_and_activity_end_with_the_session(self):
        token = self.node.create_token("for a while", "admin")
        window = self.window(sign_in=False, expected=["401"])
        page = window.page
        self.sign_in(window, token)
        window.go("activity")
        seen = page.locator(".log li").filter(has_text="Stored")
        self.node.call("POST", "/uploads", {"upload-length": "0"})
        seen.first.wait_for()
        window.go("settings")
        page.get_by_role("button", name="New token").click()
        page.get_by_label("Name", exact=True).fill("seen by one")
        page.get_by_role("button", name="Create token").click()
        page.get_by_label("Token", exact=True).wait_for()
        ids = {token["name"]: token["id"] for token in self.node.call("GET", "/tokens")[1]}
        self.node.call("DELETE", f"/tokens/{ids['for a while']}")
        page.get_by_role("heading", name="Sign in", level=1).wait_for()
        self.assertEqual(page.locator("dialog").count(), 0)
        page.reload()
        self.sign_in(window, self.node.token)
        window.go("activity")
        self.assertEqual(seen.count(), 0, "the activity of another user is shown")

    def test_messages_to_one_user_are_not_shown_to_the_next(self):
        token = self.node.create_token("next", "write")
        window = self.window(expected=["401"])
        page = window.page
        window.go("files")
        self.store(window, "my secret.txt", "text/plain", b"mine")
        page.get_by_role("button", name="Copy link to my secret.txt").wait_for()
        page.evaluate("import('/ui/toasts.js').then(({ showToast }) => showToast('my secret.txt is well'))")
        toast = page.locator(".toast").filter(has_text="my secret.txt")
        toast.wait_for()
        self.assertIn("my secret.txt", page.locator("#announcer").text_content())
        # A session that expired still belongs to its user.
        window.context.clear_cookies()
        page.get_by_role("heading", name="Sign in", level=1).wait_for()
        self.assertEqual(toast.count(), 1)
        self.sign_in(window, self.node.token)
        window.go("settings")
        page.get_by_role("button", name="Sign out").click()
        page.get_by_role("heading", name="Sign in", level=1).wait_for()
        window.wait("none of it can be read", lambda: page.get_by_text("my secret.txt").count() == 0)
        self.assertEqual(page.locator("#announcer").text_content(), "")
        # After an expired session, another user may sign in.
        self.sign_in(window, self.node.token)
        window.settle()
        page.evaluate("""import('/ui/toasts.js').then(({ showToast, announce }) => {
            showToast('my secret.txt is well');
            announce('my secret.txt');
        })""")
        toast.wait_for()
        window.context.clear_cookies()
        page.get_by_role("heading", name="Sign in", level=1).wait_for()
        self.sign_in(window, token)
        self.assertEqual(toast.count(), 0)
        self.assertEqual(page.locator("#announcer").text_content(), "")
