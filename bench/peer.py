"""Both ends of a measured transfer: `peer.py serve ADDRESS PORT`, and `peer.py down|up ADDRESS PORT BYTES`,
which prints MiB a second, from the connection to the last byte's arrival at the other end."""

import socket
import sys
import time

_PIECE = bytes(1 << 20)


def serve(address: str, port: int) -> None:
    """One after the other: a letter and a length in 16 digits, then the bytes that way."""
    listener = socket.create_server((address, port))
    print("ready", flush=True)
    while True:
        connection, _ = listener.accept()
        try:
            order = connection.recv(17, socket.MSG_WAITALL)
            size = int(order[1:])
            if order[:1] == b"d":
                send(connection, size)
            else:
                receive(connection, size)
                connection.sendall(b"!")
        except (OSError, ValueError):
            pass
        connection.close()


def send(connection: socket.socket, size: int) -> None:
    while size > 0:
        size -= connection.send(memoryview(_PIECE)[: min(size, len(_PIECE))])


def receive(connection: socket.socket, size: int) -> None:
    buffer = bytearray(1 << 20)
    while size > 0:
        came = connection.recv_into(buffer, min(size, len(buffer)))
        if not came:
            raise OSError("closed early")
        size -= came


def ask(way: str, address: str, port: int, size: int) -> float:
    begun = time.perf_counter()
    connection = socket.create_connection((address, port), 30)
    connection.sendall(b"%s%016d" % (way[:1].encode(), size))
    if way == "down":
        receive(connection, size)
    else:
        send(connection, size)
        connection.recv(1)
    connection.close()
    return size / (1 << 20) / (time.perf_counter() - begun)


if __name__ == "__main__":
    _, verb, where, number, *rest = sys.argv
    if verb == "serve":
        serve(where, int(number))
    else:
        print(ask(verb, where, int(number), int(rest[0])))
