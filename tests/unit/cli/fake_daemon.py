"""Stands in for `nsbox serve` in the tests of the commands that start one. A program, not a test.

FAKE_MODE: `good`, `refuses` (ends before it is ready), `wrong` (answers that are not the expected ones),
`broken` (an error for every command). FAKE_LOG: a file that gets one line for every request and for the end.
"""

import base64
import json
import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qs, urlsplit

MODE = os.environ.get("FAKE_MODE", "good")
KEY = os.environ["NSBOX_BOOTSTRAP_KEY"]
FILES: dict[str, str] = {}
RESULT = {"stderr": "", "exitCode": 0, "durationMs": 1, "outcome": "exited", "signal": None}


def note(line: str) -> None:
    with open(os.environ["FAKE_LOG"], "a") as file:
        file.write(line + "\n")


def execute(ask: dict) -> dict:
    if isinstance(ask["command"], list):
        given = base64.b64decode(ask.get("stdinBase64", ""))
        shown = json.dumps([ask["command"], ask["env"], ask["timeoutMs"]]).encode() + b"\xff" + given
        return {
            **RESULT,
            "stdout": base64.b64encode(shown).decode(),
            "stderr": base64.b64encode(b"err").decode(),
            "exitCode": 7,
        }
    text = "Hello from sandbox!\n" if "hello.py" in ask["command"] else "Hello\n4\n"
    return {**RESULT, "stdout": "?" if MODE == "wrong" else text}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def handle_any(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        note(f"{self.command} {self.path}")
        if self.headers["Authorization"] != f"Bearer {KEY}":
            self.answer(401, {"detail": "not the key"})
            return
        parts = urlsplit(self.path)
        self.route(parts.path.removeprefix("/api/v1"), parse_qs(parts.query), body)

    do_GET = do_POST = do_PUT = do_DELETE = handle_any

    def route(self, path: str, query: dict[str, list[str]], body: dict) -> None:
        if path == "/sandboxes":
            self.answer(201, {"id": "sb_fake", "status": "running"})
        elif path.endswith("/exec") and MODE == "broken":
            self.answer(504, {"detail": "no answer", "remedy": "make another"})
        elif path.endswith("/exec"):
            self.answer(200, execute(body))
        elif path.endswith("/files") and self.command == "PUT":
            FILES[query["path"][0]] = body["content"]
            self.answer(200, {"path": query["path"][0], "written": True})
        elif path.endswith("/files") and "list" in query:
            self.answer(200, {"path": "/app", "files": [os.path.basename(name) for name in FILES]})
        elif path.endswith("/files"):
            self.answer(200, {"path": query["path"][0], "content": FILES[query["path"][0]]})
        else:
            self.answer(200, {"id": "sb_fake", "status": "stopped"})

    def answer(self, status: int, document: dict) -> None:
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def stop(number: int, frame: object) -> None:
    note(f"signal {number}")
    os._exit(0)


def main() -> None:
    note(f"start {' '.join(sys.argv[1:])} {os.environ['NSBOX_STATE_DIR']}")
    if MODE == "refuses":
        sys.exit("this host has no luck")
    signal.signal(signal.SIGTERM, stop)
    server = HTTPServer(("127.0.0.1", 0), Handler)
    print("some other line")
    print(f"nsbox ready: http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


main()
