"""A small web server that says who runs it: the child of `make demo`, and of the example image.

It knows nothing of elections; what it says it was told in its environment. Two of it on one port
are impossible, which is what makes it a witness.
"""

# ruff: noqa: INP001 - examples are scripts, not a package

from __future__ import annotations

import argparse
import json
import os
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer


class _Hello(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """Answer every path with the same small object."""
        words = {
            "name": os.environ.get("LEADER_IDENTITY", ""),
            "fencing_token": os.environ.get("LEADER_FENCING_TOKEN", ""),
            "pid": os.getpid(),
        }
        body = json.dumps(words).encode() + b"\n"
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing on standard error."""


class _Server(TCPServer):
    # Not HTTPServer, which would ask a name server what this host is called.
    allow_reuse_address = True


def main() -> None:
    """Serve until a signal ends the process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen", default="127.0.0.1:8080", metavar="HOST:PORT")
    host, _, port = parser.parse_args().listen.rpartition(":")
    with _Server((host, int(port)), _Hello) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
