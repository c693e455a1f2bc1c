"""Times a command, run again and again: `python -I spawn_timer.py`, its orders as JSON on standard input.

A program of its own, with the standard library alone, because it runs as the account that the command shall
run as, and because a small process that uses posix_spawn adds less of its own than a large one that forks.
"""

import json
import os
import sys
import tempfile
import time


def main() -> None:
    """Orders: ``argv``, ``environ``, ``runs``; ``{n}`` in argv becomes a number, ``first`` and onwards."""
    orders = json.load(sys.stdin)
    os.environ.clear()
    os.environ.update(orders["environ"])
    times = []
    with tempfile.TemporaryFile() as said:
        for number in range(orders["first"], orders["first"] + orders["runs"]):
            argv = [part.replace("{n}", str(number)) for part in orders["argv"]]
            begun = time.perf_counter()
            status = _run(argv, said.fileno())
            times.append((time.perf_counter() - begun) * 1000)
            if status:
                said.seek(0)
                tail = said.read().decode(errors="replace").strip()[-300:]
                json.dump({"error": f"status {status}: {' '.join(tail.split())}"}, sys.stdout)
                return
    json.dump({"times": times}, sys.stdout)


def _run(argv: list[str], said: int) -> int:
    null = os.open("/dev/null", os.O_RDWR)
    try:
        pid = os.posix_spawnp(
            argv[0],
            argv,
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, null, 0),
                *((os.POSIX_SPAWN_DUP2, said, to) for to in (1, 2)),
            ],
        )
    except OSError as error:
        os.write(said, f"{argv[0]}: {error}".encode())
        return 127
    finally:
        os.close(null)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    main()
