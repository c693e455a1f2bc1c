"""Servers that run inside sandboxes."""

from __future__ import annotations

from pathlib import Path

import bench

#: One thread, any number of connections: N zero bytes at /N.
ORIGIN = (Path(bench.__file__).parent / "origin.py").read_text()

#: Echoes bodies, tells what it was sent, sends events, polls long.
NODE = """
const http = require('http');
http.createServer((request, response) => {
  const url = request.url;
  if (url === '/echo') {
    request.pipe(response);
  } else if (url === '/hash') {
    const hash = require('crypto').createHash('sha256');
    request.on('data', (chunk) => hash.update(chunk));
    request.on('end', () => response.end(hash.digest('hex')));
  } else if (url === '/head') {
    response.setHeader('Content-Type', 'application/json');
    response.end(JSON.stringify({ url, headers: request.rawHeaders }));
  } else if (url === '/events') {
    response.writeHead(200, { 'Content-Type': 'text/event-stream' });
    let count = 0;
    const timer = setInterval(() => response.write(`data: ${count++}\\n\\n`), 50);
    response.on('close', () => { clearInterval(timer); require('fs').writeFileSync('/tmp/closed', 'yes'); });
  } else if (url === '/late') {
    setTimeout(() => response.end('late'), 1000);
  } else {
    response.end('hello from node');
  }
}).listen(3000);
"""

#: A WebSocket echo (RFC 6455) of one page: text and binary frames of up to 64 KiB come back as they are.
WEBSOCKET = '''
import base64, hashlib, os, socketserver, struct

PAGE = b"""<!doctype html><title>preview</title><script>
const said = {};
const show = () => {
  if (Object.keys(said).length === 5) fetch('/said', { method: 'POST', body: JSON.stringify(said) });
};
said.origin = location.origin;
fetch('/data').then((r) => r.text()).then((t) => { said.fetched = t; show(); });
const ws = new WebSocket(location.origin.replace('http', 'ws') + '/ws');
ws.onopen = () => ws.send('ping');
ws.onmessage = (m) => { said.echoed = m.data; show(); };
const attack = (name, url) => fetch(url).then(
  () => { said[name] = 'reached'; show(); }, () => { said[name] = 'kept out'; show(); });
attack('api', 'API/api/v1/sandboxes');
attack('health', 'API/healthz');
</script>"""

class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        while True:
            line = self.rfile.readline()
            if not line:
                return
            path, fields = line.split()[1], {}
            while (line := self.rfile.readline().strip()):
                name, _, value = line.partition(b":")
                fields[name.strip().lower()] = value.strip()
            if fields.get(b"upgrade", b"").lower() == b"websocket":
                return self.talk(fields)
            if path == b"/said":
                said = self.rfile.read(int(fields[b"content-length"]))
                with open("/tmp/said.new", "wb") as file:
                    file.write(said)
                os.rename("/tmp/said.new", "/tmp/said")
            body = PAGE if path == b"/" else b"some data"
            head = b"HTTP/1.1 200 OK\\r\\nContent-Type: text/html\\r\\n"
            self.wfile.write(head + b"Content-Length: %d\\r\\n\\r\\n%s" % (len(body), body))

    def talk(self, fields):
        key = fields[b"sec-websocket-key"] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        accept = base64.b64encode(hashlib.sha1(key).digest())
        head = b"HTTP/1.1 101 Switching Protocols\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\n"
        self.wfile.write(head + b"Sec-WebSocket-Accept: " + accept + b"\\r\\n\\r\\n")
        while True:
            head = self.rfile.read(2)
            if len(head) < 2:
                return
            size = head[1] & 127
            if size == 126:
                size, = struct.unpack("!H", self.rfile.read(2))
            mask, data = self.rfile.read(4), self.rfile.read(size)
            data = bytes(b ^ mask[i % 4] for i, b in enumerate(data))
            length = bytes([size]) if size < 126 else b"\\x7e" + struct.pack("!H", size)
            self.wfile.write(head[:1] + length + data)
            if head[0] & 15 == 8:
                return

class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True

Server(("127.0.0.1", 4000), Handler).serve_forever()
'''
