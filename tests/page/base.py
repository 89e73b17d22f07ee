"""What the tests share: one browser, and two connected nodes that are cleared before each test."""

import atexit
import hashlib
import pathlib
import shutil
import tempfile
import unittest

from browser import Browser
from swarm import Node, wait

MIB = 1 << 20


class Shared:
    """Started with the first test and stopped with the process."""

    instance = None

    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="storgo-page-"))
        atexit.register(shutil.rmtree, self.folder)
        self.first = self._node("first")
        self.second = self._node("second", boot=[self.first.addr])
        self.browser = Browser()
        atexit.register(self.browser.stop)

    def _node(self, name, boot=()):
        node = Node(self.folder / name, boot)
        atexit.register(node.kill)
        return node


class PageTest(unittest.TestCase):
    """A test with empty nodes `self.node` and `self.other_node`, and a folder `self.work`, which belong to it alone."""

    def setUp(self):
        Shared.instance = Shared.instance or Shared()
        self.browser, self.node, self.other_node = Shared.instance.browser, Shared.instance.first, Shared.instance.second
        self.work = pathlib.Path(tempfile.mkdtemp(prefix="storgo-page-"))
        self.addCleanup(shutil.rmtree, self.work)
        self.node.clear()
        self.other_node.clear()

    def new_node(self, name, boot=(), more=()):
        """Starts another node, for tests that restart, fill or damage it."""
        node = Node(self.work / name, boot, more)
        self.addCleanup(node.kill)
        return node

    def window(self, node=None, expected=(), **options):
        """Opens a window. The test fails if its console shows errors other than the `expected` patterns."""
        window = self.browser.window(node or self.node, **options)
        window.expected += expected
        self.addCleanup(lambda: self.assertEqual(window.close(), [], "the console shows errors"))
        return window

    def sign_in(self, window, token):
        window.page.get_by_label("Token").fill(token)
        window.page.keyboard.press("Enter")
        window.page.locator("nav a[aria-current]").wait_for()

    def write(self, name, data):
        """Writes a file of this test and returns its path."""
        path = self.work / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return path

    def store(self, window, name, kind, data):
        """Stores a file through the page and returns its CID."""
        window.drop([(name, kind, data)])
        return self.stored(window, name)

    def stored(self, window, name):
        """Waits until an upload is stored and returns the CID of the file."""
        row = window.page.locator(".upload.stored").filter(has_text=name)
        row.wait_for()
        return row.get_by_role("link").get_attribute("href").split("/")[-1]

    def wait_for_progress(self, window, name, part=0.3):
        """Waits until part of an upload is sent, and returns its row in the list."""
        row = window.page.locator(".upload").filter(has_text=name)
        wait("some is sent", lambda: row.get_by_role("progressbar").evaluate("bar => bar.value") > part)
        return row

    def cancel(self, row):
        """Cancels an upload of which some has arrived."""
        row.get_by_role("button", name="Cancel upload").click()
        row.page.get_by_role("dialog").get_by_role("button", name="Cancel upload").click()

    def open_link(self, window, link):
        window.go("files")
        window.page.get_by_role("button", name="Open link").click()
        window.page.get_by_role("textbox", name="Link").fill(link)
        window.page.keyboard.press("Enter")


def created_uploads(page):
    """A list that gets an item for each upload that the page creates on the node."""
    created = []
    page.on("request", lambda request: request.method == "POST" and request.url.endswith("/uploads") and created.append(request))
    return created


def distinct(size, seed):
    """Bytes without repetition, for files that are chosen instead of dropped."""
    return b"".join(hashlib.sha256(f"{seed} {number}".encode()).digest() for number in range(size // 32))
