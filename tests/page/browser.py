"""Chromium windows on the page of a node. Each window records console errors, and tests fail if there are any."""

import os
import pathlib
import re
import urllib.parse

import axe_playwright_python
from playwright.sync_api import sync_playwright

from swarm import DEADLINE_S, wait

#: The source of the page, to try changes without a build: see `run --source`.
SOURCE = pathlib.Path(os.environ["PAGE_UI"]) if os.environ.get("PAGE_UI") else None

AXE = (pathlib.Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()


class Browser:
    def __init__(self):
        self.driver = sync_playwright().start()
        # Chromium refuses its sandbox to root.
        args = ["--no-sandbox"] if os.geteuid() == 0 else []
        self.chromium = self.driver.chromium.launch(
            executable_path=os.environ["PAGE_CHROMIUM"],
            args=args,
            timeout=DEADLINE_S * 1000,
            # The PDF viewer is an extension.
            ignore_default_args=["--disable-extensions", "--disable-component-extensions-with-background-pages"],
        )

    def stop(self):
        self.chromium.close()
        self.driver.stop()

    def window(self, node, sign_in=True, width=1280, height=860, scheme="light"):
        return Window(self.chromium, node, sign_in, width, height, scheme)


class Window:
    """A window with its own cookies and storage."""

    def __init__(self, chromium, node, sign_in, width, height, scheme):
        self.node = node
        self.context = chromium.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce", accept_downloads=True
        )
        if SOURCE:
            self.context.route(re.compile(r"^http://[^/]+/(.+/)?(ui/|api/docs\.(js|css))"), self._from_source)
            self.context.route(re.compile(r"^http://[^/]+/([^/]+/)?$"), self._index_from_source)
        # Also of tabs that the page opens.
        self.context.set_default_timeout(DEADLINE_S * 1000)
        self.page = self.context.new_page()
        self.errors = []
        #: Patterns of console messages that the test provokes on purpose.
        self.expected = []
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.errors.append(f"uncaught: {error}"))
        if sign_in:
            self.page.goto(node.sign_in_link())
            self.page.locator("nav a[aria-current]").wait_for()
        else:
            self.page.goto(node.url)

    def _from_source(self, route):
        """Answers with the file in the source tree instead of the one in the binary."""
        path = re.search(r"/(ui|api)/.*", urllib.parse.urlparse(route.request.url).path)[0]
        name = path.removeprefix("/ui/")
        file = SOURCE / "ui" / name if name != path else SOURCE / "docs_page" / path.replace("/api/docs", "page")
        route.fulfill(path=file, content_type={".js": "text/javascript", ".css": "text/css"}.get(file.suffix, "image/svg+xml"))

    def _index_from_source(self, route):
        """The same for the page itself, with the headers of the node."""
        route.fulfill(response=route.fetch(), body=(SOURCE / "ui" / "index.html").read_text())

    def tab(self):
        """Opens another tab of the same browser, on the same view."""
        page = self.context.new_page()
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.errors.append(f"uncaught: {error}"))
        page.goto(self.page.url)
        return page

    def _console(self, message):
        if message.type in ("error", "warning"):
            self.errors.append(f"{message.type}: {message.text} ({message.location.get('url', '')})")

    def go(self, view):
        """Goes to a view and waits until it has loaded."""
        self.page.evaluate(
            """view => new Promise((done) => {
                if (location.hash === view) return done();
                // The page's own listener was added first, so it has drawn the view by then.
                addEventListener('hashchange', () => done(), { once: true });
                location.hash = view;
            })""",
            f"#/{view}",
        )
        self.settle()

    def settle(self):
        """Waits until nothing is loading any more."""
        self.page.locator("main .loading").first.wait_for(state="detached")

    def drop(self, files):
        """Drops files on the page: [(name, media type, bytes)]. Large contents must come from `pattern`."""
        given = [{"name": name, "type": kind, "fill": list(data) if len(data) < 4096 else None, "len": len(data)} for name, kind, data in files]
        transfer = self.page.evaluate_handle(
            """files => {
                const transfer = new DataTransfer();
                for (const {name, type, fill, len} of files) {
                    // Large contents are generated here, by the same rule as `pattern`.
                    const bytes = fill ? new Uint8Array(fill) : new Uint8Array(len);
                    if (!fill) for (let i = 0, x = len % 2147483647; i < len; i++) {
                        x = (x * 48271) % 2147483647;
                        bytes[i] = x & 255;
                    }
                    transfer.items.add(new File([bytes], name, {type}));
                }
                return transfer;
            }""",
            given,
        )
        for event in ("dragenter", "dragover", "drop"):
            self.page.dispatch_event("main", event, {"dataTransfer": transfer})

    def throttle(self, bytes_per_s, download=None):
        """Limits the upload speed of this tab, and its download speed; None removes a limit."""
        session = self.context.new_cdp_session(self.page)
        session.send("Network.enable")
        up, down = (-1 if rate is None else rate for rate in (bytes_per_s, download))
        session.send("Network.emulateNetworkConditions", {"offline": False, "latency": 0, "downloadThroughput": down, "uploadThroughput": up})

    def wait(self, what, ask, deadline_s=DEADLINE_S):
        """Waits until `ask` returns something true, and handles browser events meanwhile."""
        return wait(what, lambda: self.page.title() and ask(), deadline_s)

    def axe(self):
        """Returns the accessibility violations that axe-core finds, as lines."""
        self.page.evaluate(AXE)
        found = self.page.evaluate("async () => (await axe.run(document)).violations")
        return [f"{v['impact']}: {v['id']}: {v['help']}: {node['target']}" for v in found for node in v["nodes"]]

    def overflow(self):
        """Returns by how many pixels the page is wider than the window."""
        return self.page.evaluate("document.documentElement.scrollWidth - innerWidth")

    def close(self):
        """Closes the window and returns the console errors that the test did not expect."""
        self.context.close()
        return [text for text in self.errors if not any(re.search(pattern, text) for pattern in self.expected)]


def pattern(size):
    """Bytes without repetition, so that misplaced parts are detected. `Window.drop` makes the same."""
    out = bytearray(size)
    x = size % 2147483647
    for i in range(size):
        x = (x * 48271) % 2147483647
        out[i] = x & 255
    return bytes(out)
