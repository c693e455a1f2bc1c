"""What a daemon claims before it starts anything: room on a disk, a state folder, an address. Each is refused
with its remedy, and then nothing has been started."""

from __future__ import annotations

import fcntl
import os
import socket

from nsbox.host import facts
from nsbox.model.errors import HostProblem
from nsbox.settings import ADDRESS_FILE


def state_folder(state_dir: str) -> None:
    """Before anything is written: a daemon that meets a full disk halfway leaves halves."""
    free = facts.state_disk(state_dir).free_bytes
    if free < facts.FREE_NEEDED:
        raise HostProblem(
            f"there is no space for {state_dir}: {free >> 20} MiB are free on its disk",
            remedy="free some, or give a --state-dir on another disk",
        )
    try:
        os.makedirs(state_dir, 0o700, exist_ok=True)
    except OSError as error:
        raise HostProblem(
            f"the state folder {state_dir} cannot be made: {error.strerror}",
            remedy="give a --state-dir that you can write to",
        ) from error


def lock(state_dir: str) -> int:
    """One daemon for one state folder. The lock goes with the process, however it ends."""
    path = os.path.join(state_dir, "lock")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise HostProblem(
            f"{path} cannot be opened: {error.strerror}", remedy="give a --state-dir that is yours"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise HostProblem(
            f"another nsbox uses {state_dir}", remedy="stop it, or give another --state-dir"
        ) from error
    return descriptor


def forget_address(state_dir: str) -> None:
    """Where an earlier daemon listened. Commands would ask there, and tell of a refused connection, while
    this one is not ready yet; without the file they say that it is to be waited for."""
    try:
        os.unlink(os.path.join(state_dir, ADDRESS_FILE))
    except FileNotFoundError:
        pass


def listen(host: str, port: int, option: str) -> socket.socket:
    """``option`` is the name of the one on the command line that moves it."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1024)
    except OSError as error:
        raise HostProblem(
            f"cannot listen on {host}:{port}: {error}",
            remedy=f"choose another with --{option}; --{option} 0 picks one",
        ) from error
    return listener
