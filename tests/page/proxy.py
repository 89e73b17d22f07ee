"""A reverse proxy that serves a node below a path prefix, as many people run one."""

import http.client
import http.server
import threading

#: Headers of one connection.
HOP = {"connection", "keep-alive", "transfer-encoding", "te", "upgrade"}


class PrefixProxy:
    """Forwards `http://127.0.0.1:PORT/PREFIX/…` to `…` of a node. Other paths are not found."""

    def __init__(self, node, prefix):
        class Handler(http.server.BaseHTTPRequestHandler):
            def forward(self):
                if not self.path.startswith(prefix):
                    return self.send_error(404)
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                upstream = http.client.HTTPConnection(node.http)
                headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP}
                upstream.request(self.command, "/" + self.path.removeprefix(prefix), body, headers)
                answer = upstream.getresponse()
                self.send_response_only(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in HOP:
                        self.send_header(name, value)
                self.send_header("connection", "close")
                self.end_headers()
                try:
                    # Event streams do not end.
                    while piece := answer.read1(65536):
                        self.wfile.write(piece)
                except (OSError, ValueError, http.client.HTTPException):
                    """One of the two sides has closed its connection."""
                finally:
                    upstream.close()

            do_GET = do_HEAD = do_POST = do_PATCH = do_DELETE = forward

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}{prefix}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
