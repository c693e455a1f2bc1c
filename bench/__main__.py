"""`python -m bench`: measure nsbox as a client sees it, and what one could have used instead."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from bench import (
    account,
    daemon,
    latency,
    load,
    memory,
    network,
    previews,
    proc,
    pulled,
    recovery,
    report,
    rivals,
    snapshots,
    stages,
    streams,
    unpack,
    walls,
)  # fmt: skip
from bench.account import Who
from bench.client import RefusedError
from bench.daemon import Daemon
from bench.figures import Figure
from bench.probe import Effort
from nsbox import __version__
from nsbox.model.errors import HostProblem

#: nsbox's own default stock of blanks.
POOL = 8
_STATES = "/var/tmp"

_Measure = Callable[[Daemon, Effort], list[Figure]]

#: What is done with a stock of blanks, and what without: name, title, how. In this order: stages are the end
#: of a daemon. --only takes what stands before the underscore of a name.
_WARM: dict[str, tuple[str, _Measure]] = {
    "latency": ("One client, one connection", latency.warm),
    "burst": ("All at once", load.burst),
    "throughput": (f"{load.CLIENTS} clients without a pause", load.throughput),
    "proxy": ("Previews: the proxy, beside a direct connection and nginx", previews.measure),
    "streams": ("Output, to a client that follows it", streams.measure),
    "pulled": ("From an image that is here, and from the default template", pulled.measure),
    "snapshots": ("Snapshots, forks and differences", snapshots.measure),
    "network": ("The network: what it adds, and what goes through it", network.measure),
    "memory": ("Memory", memory.idle),
    "recovery": ("The API process is killed", recovery.measure),
    "rivals": ("Instead of nsbox: `true` in a fresh container", rivals.measure),
    "unpack": ("Images, from a layout to a tree on disk", unpack.measure),
    "stages": ("Where the time goes", stages.measure),
    "walls": ("What each wall costs: with it less without it, in pairs", walls.measure),
}
_EMPTY: dict[str, tuple[str, _Measure]] = {
    "empty": ("One client, and no blanks in stock", latency.empty),
    "stages_empty": ("Where the time of a create goes with no blanks in stock", stages.measure_creates),
}
NAMES = tuple(dict.fromkeys(name.partition("_")[0] for name in (*_WARM, *_EMPTY)))
#: What is done only if it is named: it starts a daemon for each wall.
_ASKED_FOR = ("walls",)
#: What --quick leaves out, and why.
_SLOW = {
    "network": "--quick leaves it out: it needs two daemons more",
    "recovery": "--quick leaves it out: making 500 sandboxes takes its time",
    "memory": "--quick leaves it out: sandboxes have to settle for half a minute",
    "unpack": "--quick leaves it out: making the images takes half a minute",
}

Sections = list[tuple[str, str, list[Figure]]]


def main() -> int:
    """The exit status: 1 when nothing could be run, 2 when a target was missed and --strict was given."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the daemon is ended, too
    wanted = options.only or tuple(name for name in NAMES if name not in _ASKED_FOR)
    effort = Effort.quick() if options.quick else Effort.full()
    try:
        who = account.choose(options.account)
        load_before, begun = proc.load(), time.monotonic()
        enforced, sections = _measured(who, wanted, effort, quick=options.quick and not options.only)
    except HostProblem as problem:
        print(f"bench: {problem}", file=sys.stderr)
        return 1
    document = {
        "version": __version__,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "quick": options.quick,
        "seconds": round(time.monotonic() - begun, 1),
        "machine": proc.machine(_STATES),
        "load": {"start": load_before, "end": proc.load()},
        "account": who.name + (" (started by root)" if who.by_root else ""),
        "enforced": enforced,
        "sections": [
            {"name": name, "title": title, "figures": [figure.to_json() for figure in figures]}
            for name, title, figures in sections
        ],
    }
    _tell(document, sections, options.json)
    missed = any(figure.verdict not in ("", "ok") for _, _, figures in sections for figure in figures)
    return 2 if options.strict and missed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="about 20 seconds instead of 4 minutes")
    parser.add_argument(
        "--only", action="append", choices=NAMES, metavar="NAME", help=f"one of {', '.join(NAMES)}"
    )
    parser.add_argument("--json", metavar="FILE", help="where to write the document; - is standard output")
    parser.add_argument("--account", metavar="NAME", help="as root: the ordinary account to run as")
    parser.add_argument("--strict", action="store_true", help="status 2 when a target is missed")
    return parser.parse_args()


def _tell(document: dict[str, Any], sections: Sections, path: str | None) -> None:
    """The table goes to standard output, unless the document is there."""
    text = json.dumps(document, indent=1)
    table = (
        report.heading(document) + "\n" + report.table([(title, figures) for _, title, figures in sections])
    )
    if path == "-":
        print(text)
        print(table, file=sys.stderr)
        return
    print(table)
    if path:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text + "\n")


def _measured(who: Who, wanted: Sequence[str], effort: Effort, *, quick: bool) -> tuple[list[str], Sections]:
    """A daemon with a stock of blanks and one without, each only if something wants it."""
    sections: Sections = []
    enforced: list[str] = []
    for pool, parts in ((POOL, _WARM), (0, _EMPTY)):
        chosen = {name: part for name, part in parts.items() if name.partition("_")[0] in wanted}
        if not chosen:
            continue
        with daemon.running(who, pool) as one:
            enforced = enforced or _enforced(one)
            for name, (title, measure) in chosen.items():
                left_out = _SLOW.get(name, "") if quick else ""
                work = partial(measure, one, effort)
                sections.append((name, title, _tried(name, work, left_out)))
    return enforced, sections


def _enforced(one: Daemon) -> list[str]:
    client = one.client()
    sandbox = client.create()
    found = client.get(sandbox)["limits"]["enforced"]
    client.kill(sandbox)
    client.close()
    return list(found)


def _tried(name: str, measure: Callable[[], list[Figure]], left_out: str) -> list[Figure]:
    """What was measured; or one figure that says why nothing was."""
    print(f"bench: {name}", file=sys.stderr, flush=True)
    failed = Figure(name, name)
    failed.missing = left_out
    if left_out:
        return [failed]
    try:
        return measure()
    except (HostProblem, RefusedError, OSError, stages.StrangeAnswerError) as error:
        failed.missing = f"{type(error).__name__}: {error}"
        return [failed]


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(main())
