"""Takes the screenshots of docs/page.md: a small swarm with some files and a running transfer."""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading

from browser import Browser
from swarm import Node, wait

MIB = 1 << 20


def make_files(folder):
    """Makes a video, a picture, a folder of pictures and some texts."""
    video, picture = folder / "flight over the valley.webm", folder / "valley.png"
    source = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "mandelbrot=size=960x540:rate=24:end_scale=0.03:maxiter=400"]
    subprocess.run([*source, "-t", "8", "-c:v", "libvpx", "-b:v", "3M", "-deadline", "realtime", "-cpu-used", "8", video], check=True)
    subprocess.run([*source, "-frames:v", "1", picture], check=True)
    album = folder / "summer by the lake"
    album.mkdir()
    subprocess.run([*source, "-frames:v", "6", album / "lake %d.png"], check=True)
    texts = {"recipe for bread.txt": "Flour, water, salt, time.\n", "minutes of the meeting.md": "# Minutes\n\nAll agreed.\n", "accounts 2026.csv": "month,sum\n1,20\n"}
    for name, text in texts.items():
        (folder / name).write_text(text * 40)
    return [album, *(folder / name for name in texts), picture, video]


def main(into):
    into = pathlib.Path(into)
    work = pathlib.Path(tempfile.mkdtemp(prefix="storgo-pictures-"))
    nodes, browser = [], Browser()
    try:
        home = Node(work / "home")
        nodes.append(home)
        for name in ("attic", "office", "friend"):
            nodes.append(Node(work / name, boot=[home.addr]))
        (work / "things").mkdir()
        things = make_files(work / "things")
        # Large, so that the transfer still runs when the pictures are taken.
        backup = work / "things" / "backup of the laptop.tar"
        backup.write_bytes(os.urandom(320 * MIB))
        cids = {}
        window = browser.window(home)
        page = window.page
        for thing in [*things, backup]:
            link = home.run("provide", str(thing)).stdout.strip()
            cids[thing.name] = link.removeprefix("storgo://").split("#")[0]
        for reader in nodes[1:]:
            threading.Thread(target=lambda to=reader: to.run("get", link, "-o", "/dev/null", check=False)).start()
            page.wait_for_timeout(3500)

        def shots(window, look, views):
            for name, view in views.items():
                window.go(view)
                window.page.wait_for_timeout(5000 if name == "overview" else 1200)
                window.page.screenshot(path=into / f"{name}-{look}.png")

        video = f"file/{cids['flight over the valley.webm']}"
        shots(window, "wide", {"overview": "overview", "folder": f"file/{cids['summer by the lake']}", "peers": "peers", "activity": "activity", "settings": "settings"})
        window.go(video)
        element = page.locator("video")
        wait("the video is there", lambda: element.evaluate("video => video.readyState >= 1"))
        element.evaluate("video => new Promise(done => { video.onseeked = done; video.currentTime = 3.5; })")
        page.wait_for_timeout(800)
        page.screenshot(path=into / "video-wide.png")
        window.go("files")
        window.throttle(6 * MIB)
        window.drop([("concert in the church.wav", "audio/wav", b"x" * (40 * MIB)), ("postcard.txt", "text/plain", b"Hello!")])
        page.wait_for_timeout(3500)
        page.screenshot(path=into / "upload-wide.png")
        window.throttle(None)
        page.locator(".upload.stored").nth(1).wait_for()
        views = {"overview": "overview", "files": "files"}
        for look, how, more in [
            ("dark", {"scheme": "dark"}, {}),
            ("narrow", {"width": 360, "height": 740}, {"file": f"file/{cids['valley.png']}"}),
        ]:
            other = browser.window(home, **how)
            shots(other, look, views | more)
            other.close()
    finally:
        browser.stop()
        for node in nodes:
            node.kill()
        shutil.rmtree(work)


if __name__ == "__main__":
    main(sys.argv[1])
