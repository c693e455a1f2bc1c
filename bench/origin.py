"""The server behind the proxies, in a sandbox and on the host alike: `python3 origin.py PORT`.

As little as will do, so that what is measured is the way to it: a short answer at /, SIZE bytes at /SIZE. One
thread, since a sandbox may have few processes and the crowd is larger: a large body keeps the others waiting.
"""

import select
import socket
import sys

_PIECE = bytes(1 << 20)


def _answer(connection: socket.socket, head: bytes) -> None:
    size = int(head.split(b" ", 2)[1].strip(b"/") or b"2")
    first = min(size, 2)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + _PIECE[:first])
    left = size - first
    while left > 0:
        left -= connection.send(memoryview(_PIECE)[: min(left, len(_PIECE))])


def main() -> None:
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=1024)
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    connections: dict[int, socket.socket] = {}
    print("ready", flush=True)
    while True:
        for descriptor, _ in poll.poll():
            if descriptor == listener.fileno():
                connection, _address = listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connections[connection.fileno()] = connection
                poll.register(connection, select.EPOLLIN)
                continue
            connection = connections[descriptor]
            try:
                head = connection.recv(65536)  # a whole request: those who ask send short ones
                if head:
                    _answer(connection, head)
            except OSError:
                head = b""
            if not head:
                poll.unregister(descriptor)
                connections.pop(descriptor).close()


if __name__ == "__main__":
    main()
