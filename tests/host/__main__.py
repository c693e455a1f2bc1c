"""``run`` for one whole run; ``up``, ``exec``, ``put``, ``get``, ``shell``, ``down`` for one that stays."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

from tests.host import defences, image, off, places, recipe, session, suites
from tests.host.login import Login
from tests.host.machine import Machine
from tests.host.words import RigError, say

#: The rig itself failed: neither pytest's statuses nor a shell's.
_RIG_FAILED = 125


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.host", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    named = argparse.ArgumentParser(add_help=False)
    named.add_argument("--name", default="default", help="which machine, where there are several")
    account = argparse.ArgumentParser(add_help=False, parents=[named])
    account.add_argument("--root", action="store_true", help="as root and not as the ordinary user")

    one = verbs.add_parser("run", help="boot, install, test, bring the results back, end")
    _kernel(one)
    one.add_argument("--short", action="store_true", help="what CI runs: without the slowest tests")
    one.add_argument(
        "--acceptance", action="store_true", help="the tests of the acceptance list, and no others"
    )
    one.add_argument("--limit", type=float, default=180, metavar="MINUTES", help="for everything  [180]")
    one.add_argument("--results", type=Path, metavar="FOLDER", help="[a folder in the cache]")
    one.add_argument(
        "--suite",
        action="append",
        default=[],
        choices=[suite.name for suite in (*suites.SUITES, *suites.ACCEPTANCE)],
        help="only this one",
    )
    one.add_argument("--retry", action="store_true", help="try tests that failed once more, and tell so")
    one.add_argument(
        "--defence-off",
        action="append",
        default=[],
        choices=[off.ALL, *(defence.name for defence in defences.DEFENCES)],
        metavar="NAME",
        help="instead of the suites: take this out of the installed nsbox, and demand that its tests fail",
    )
    one.add_argument("pytest", nargs="*", metavar="PYTEST-ARGUMENT", help="after --, with one --suite")

    _kernel(verbs.add_parser("image", help="build the disk if it is not there"))
    up = verbs.add_parser("up", parents=[named], help="boot and install, and leave it running")
    _kernel(up)
    up.add_argument("--bare", action="store_true", help="boot only")
    run = verbs.add_parser("exec", parents=[account], help="run a shell line")
    run.add_argument("line", nargs="+")
    put = verbs.add_parser(
        "put", parents=[account], help="copy a folder's contents, or a file, into a folder"
    )
    put.add_argument("source", type=Path)
    put.add_argument("folder")
    get = verbs.add_parser("get", parents=[account], help="copy a folder's contents out")
    get.add_argument("source")
    get.add_argument("folder", type=Path)
    verbs.add_parser("shell", parents=[account], help="a shell")
    verbs.add_parser("console", parents=[named], help="what its serial console said")
    verbs.add_parser("down", parents=[named], help="end it; nothing of it is kept")
    return parser


def _kernel(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--kernel",
        choices=list(recipe.Kernel),
        type=recipe.Kernel,
        default=recipe.Kernel.STABLE,
        help="Debian 12's own, or the newer one of its backports  [stable]",
    )


def main(argv: list[str]) -> int:
    wish = _arguments().parse_args(argv)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    if wish.verb == "run":
        if wish.pytest and len(wish.suite) != 1:
            raise RigError("pytest's arguments belong to one --suite")
        results = wish.results or places.cache() / "results"
        return session.run(
            session.Wishes(
                only=tuple(wish.suite),
                listed=wish.acceptance,
                options=tuple(wish.pytest),
                short=wish.short,
                retry=wish.retry,
                off=tuple(wish.defence_off),
                kernel=wish.kernel,
                limit_s=wish.limit * 60,
                results=results.absolute(),
            )
        )
    if wish.verb == "image":
        places.need_tools()
        print(image.get(wish.kernel).disk)
        return 0
    machine = Machine(wish.name)
    match wish.verb:
        case "up":
            return _up(machine, wish.kernel, bare=wish.bare)
        case "down":
            machine.remove()
            return 0
        case "console":
            print(machine.console(), end="")
            return 0
    return _inside(machine.root if wish.root else machine.user, wish)


def _inside(login: Login, wish: argparse.Namespace) -> int:
    match wish.verb:
        case "exec":
            return login.run(" ".join(wish.line))
        case "put":
            login.put(wish.source, wish.folder)
        case "get":
            login.get(wish.source, wish.folder)
        case "shell":
            return subprocess.run(login.shell(), check=False).returncode
    return 0


def _up(machine: Machine, kernel: recipe.Kernel, *, bare: bool) -> int:
    places.need_tools()
    try:
        if bare:
            machine.boot(image.get(kernel), dies_with_us=False)
        else:
            session.furnish(machine, kernel, dies_with_us=False)
    except RigError:
        if machine.pid:
            say("the machine is left up, to look into it")
        raise
    except BaseException:
        machine.remove()
        raise
    return 0


def _stop(number: int, frame: FrameType | None) -> None:
    """SIGTERM runs the ``finally`` clauses, as Ctrl-C does; once, lest they are interrupted in turn."""
    for one in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(one, signal.SIG_IGN)
    raise SystemExit(128 + number)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except RigError as error:
        say(str(error))
        sys.exit(_RIG_FAILED)
    except KeyboardInterrupt:
        os.write(2, b"\n")
        sys.exit(130)
