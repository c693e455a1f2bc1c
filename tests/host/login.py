"""Commands in the machine and files to and from it, over ssh."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from tests.host.words import RigError

#: The status of a command that ran out of time, as coreutils' timeout has it.
TIMED_OUT = 124


class Login:
    """One account of one machine. A first connection is kept open, and the others go through it."""

    def __init__(self, user: str, port: int, key: Path, folder: Path) -> None:
        self.user = user
        options = {
            "User": user,
            "Port": str(port),
            "IdentityFile": str(key),
            "IdentitiesOnly": "yes",
            "BatchMode": "yes",
            # A machine lives for minutes on this host's loopback, and its key lies beside its disk.
            "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": "/dev/null",
            "LogLevel": "ERROR",
            "ConnectTimeout": "30",
            "ServerAliveInterval": "30",
            "ServerAliveCountMax": "10",
            "ControlMaster": "auto",
            "ControlPersist": "yes",
            "ControlPath": str(folder / f"ssh-{user}"),
            "Ciphers": "aes128-gcm@openssh.com",
        }
        self._words = ["ssh", "-F", "none"]
        for name, value in options.items():
            self._words += ["-o", f"{name}={value}"]

    def words(self, line: str, *, terminal: bool = False) -> list[str]:
        # The `exit` keeps the shell from replacing itself by the command: a death by signal then comes back
        # as 128 and the signal's number, and not as ssh's own 255.
        return [*self._words, "-tt" if terminal else "-T", "127.0.0.1", f"{line}\nexit $?"]

    def shell(self) -> list[str]:
        return [*self._words, "127.0.0.1"]

    def answers(self) -> bool:
        return subprocess.run(
            self.words("true"), stdin=subprocess.DEVNULL, capture_output=True, check=False
        ).returncode == 0  # fmt: skip

    def run(self, line: str, *, limit: float | None = None, output: IO[bytes] | None = None) -> int:
        """Run a shell line; its exit status. The time limit ends what it started in the machine, too."""
        bounded = line
        if limit is not None:
            bounded = f"timeout --kill-after=20 {limit:.0f} bash -c {shlex.quote(line)}"
        client = subprocess.Popen(
            self.words(bounded),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT if output else None,
        )
        try:
            return client.wait(None if limit is None else limit + 60)
        except subprocess.TimeoutExpired:
            return TIMED_OUT
        finally:
            client.kill()
            client.wait()

    def check(self, line: str, *, limit: float = 600) -> str:
        """What a command that must succeed printed. Raises ``RigError`` with it when it does not."""
        try:
            done = subprocess.run(
                self.words(line),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=limit,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise RigError(f"in the machine, as {self.user}, not done after {limit:.0f} s: {line}") from error
        if done.returncode:
            raise RigError(
                f"in the machine, as {self.user}, status {done.returncode}: {line}\n{done.stdout[-4000:]}"
            )
        return done.stdout

    def put(self, source: Path, target: str, *, exclude: Sequence[str] = ()) -> None:
        """Copy a folder's contents, or one file, into a folder of the machine."""
        where, what = (source, ".") if source.is_dir() else (source.parent, source.name)
        left_out = [f"--exclude={pattern}" for pattern in exclude]
        pack = subprocess.Popen(
            ["tar", "-C", str(where), *left_out, "-cf", "-", what], stdout=subprocess.PIPE
        )
        folder = shlex.quote(target)
        unpack = self.words(f"mkdir -p {folder} && tar -C {folder} --no-same-owner -xf -")
        done = subprocess.run(unpack, stdin=pack.stdout, check=False)
        assert pack.stdout is not None
        pack.stdout.close()
        if pack.wait() or done.returncode:
            raise RigError(f"{source} could not be copied into the machine")

    def get(self, source: str, target: Path) -> None:
        """Copy a folder's contents out of the machine."""
        target.mkdir(parents=True, exist_ok=True)
        pack = subprocess.Popen(
            self.words(f"tar -C {shlex.quote(source)} -cf - ."),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        unpack = ["tar", "-C", str(target), "--no-same-owner", "--no-same-permissions", "-xf", "-"]
        done = subprocess.run(unpack, stdin=pack.stdout, check=False)
        assert pack.stdout is not None
        pack.stdout.close()
        if pack.wait() or done.returncode:
            raise RigError(f"{source} could not be copied out of the machine")

    def hang_up(self) -> None:
        """End the connection that is kept open, which is a process of its own."""
        leave = [*self._words, "-O", "exit", "127.0.0.1"]
        subprocess.run(leave, stdin=subprocess.DEVNULL, capture_output=True, check=False)
