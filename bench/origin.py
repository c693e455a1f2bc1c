"""The server behind the proxies, in a sandbox and on the host alike: `python3 origin.py PORT`.

As little as will do, so that what is measured is the way to it: a short answer at /, SIZE zero bytes at /SIZE.
Connections are kept and served by one thread each.
"""

import socket
import sys
import threading

_PIECE = bytes(1 << 20)


def _serve(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection:
        buffer = b""
        while True:
            while b"\r\n\r\n" not in buffer:
                data = connection.recv(65536)
                if not data:
                    return
                buffer += data
            head, _, buffer = buffer.partition(b"\r\n\r\n")
            size = int(head.split(b" ", 2)[1].strip(b"/") or b"2")
            connection.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + _PIECE[: min(size, 2)]
            )
            left = size - 2
            while left > 0:
                left -= connection.send(_PIECE[: min(left, len(_PIECE))])


def main() -> None:
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=1024)
    threading.stack_size(256 * 1024)
    print("ready", flush=True)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_serve, args=[connection], daemon=True).start()


if __name__ == "__main__":
    main()
