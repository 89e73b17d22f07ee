"""A browser, and what a page in it must not do: complain on its console."""

import os
import pathlib
import re
import urllib.parse

import axe_playwright_python
from playwright.sync_api import sync_playwright

#: The page's source, to try changes without building: see `run`.
UI = pathlib.Path(os.environ["PAGE_UI"]) if os.environ.get("PAGE_UI") else None

AXE = (pathlib.Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()


class Browser:
    def __init__(self):
        self.driver = sync_playwright().start()
        # Root may not use the sandbox; the pages here are our own.
        args = ["--no-sandbox"] if os.geteuid() == 0 else []
        self.chromium = self.driver.chromium.launch(
            executable_path=os.environ["PAGE_CHROMIUM"],
            args=args,
            # The viewer for PDF is one.
            ignore_default_args=["--disable-extensions", "--disable-component-extensions-with-background-pages"],
        )

    def stop(self):
        self.chromium.close()
        self.driver.stop()

    def window(self, node, sign_in=True, width=1280, height=860, scheme="light"):
        return Window(self.chromium, node, sign_in, width, height, scheme)


class Window:
    """One window with cookies of its own."""

    def __init__(self, chromium, node, sign_in, width, height, scheme):
        self.node = node
        self.context = chromium.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce", accept_downloads=True
        )
        if UI:
            self.context.route(re.compile(r"/ui/|/api/docs\.(js|css)"), self._from_source)
        self.page = self.context.new_page()
        self.page.set_default_timeout(60_000)
        self.complaints = []
        #: Patterns of console messages that the test provokes.
        self.expected = []
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.complaints.append(f"uncaught: {error}"))
        if sign_in:
            self.page.goto(node.sign_in_link())
            self.page.locator("nav a[aria-current]").wait_for()
        else:
            self.page.goto(node.url)

    def _from_source(self, route):
        """Answers with the file of the source in place of what is in the binary."""
        path = urllib.parse.urlparse(route.request.url).path
        name = path.removeprefix("/ui/")
        file = UI / "ui" / name if name != path else UI / "docs_page" / path.replace("/api/docs", "page")
        route.fulfill(path=file, content_type={".js": "text/javascript", ".css": "text/css"}.get(file.suffix, "image/svg+xml"))

    def tab(self):
        """Another tab of the same browser, on the same view."""
        page = self.context.new_page()
        page.set_default_timeout(60_000)
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.complaints.append(f"uncaught: {error}"))
        page.goto(self.page.url)
        return page

    def _console(self, message):
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.type}: {message.text} ({message.location.get('url', '')})")

    def go(self, view):
        """Goes to a view and waits until it has loaded."""
        self.page.evaluate("view => { location.hash = view }", f"#/{view}")
        self.page.wait_for_timeout(50)
        self.settle()

    def settle(self):
        self.page.locator("main .loading").first.wait_for(state="detached")

    def drop(self, files):
        """Drops files on the page: [(name, media type, bytes)]."""
        given = [{"name": name, "type": kind, "fill": list(data) if len(data) < 4096 else None, "len": len(data)} for name, kind, data in files]
        transfer = self.page.evaluate_handle(
            """files => {
                const transfer = new DataTransfer();
                for (const {name, type, fill, len} of files) {
                    // Large ones are made here, as `pattern` makes them there.
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

    def throttle(self, bytes_per_s):
        """Limits what this page sends; None ends it."""
        session = self.context.new_cdp_session(self.page)
        session.send("Network.enable")
        rate = -1 if bytes_per_s is None else bytes_per_s
        session.send("Network.emulateNetworkConditions", {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": rate})

    def axe(self):
        """What axe-core finds wrong, as lines."""
        self.page.evaluate(AXE)
        found = self.page.evaluate("async () => (await axe.run(document)).violations")
        return [f"{v['impact']}: {v['id']}: {v['help']}: {node['target']}" for v in found for node in v["nodes"]]

    def overflow(self):
        """Pixels by which the page is wider than the window."""
        return self.page.evaluate("document.documentElement.scrollWidth - innerWidth")

    def close(self):
        """Closes the window; answers the complaints that were not expected."""
        self.context.close()
        return [text for text in self.complaints if not any(re.search(pattern, text) for pattern in self.expected)]


def pattern(size):
    """Bytes that no two places share; the same as `drop` makes."""
    out = bytearray(size)
    x = size % 2147483647
    for i in range(size):
        x = (x * 48271) % 2147483647
        out[i] = x & 255
    return bytes(out)
