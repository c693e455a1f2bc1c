"""Makes the client for threads out of the one for tasks: ``nsbox/client/blocking`` from ``asynchronous``.

    python scripts/blocking_client.py           writes it
    python scripts/blocking_client.py --check   says what is out of date; status 1

What really differs is written by hand for each kind, behind the same names (``BY_HAND``); all else is the
same text but for a few words. ``ruff`` then removes imports that are left over, and folds the lines.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

_CLIENT = Path(__file__).resolve().parent.parent / "nsbox" / "client"
SOURCE, TARGET = _CLIENT / "asynchronous", _CLIENT / "blocking"
#: Sockets, clocks, locks. A body to be sent is read by threads as it is (``nsbox.client.sending``).
BY_HAND = frozenset({"__init__.py", "connections.py", "sending.py", "waiting.py"})

#: In this order. One that finds nothing any more is an error: the sources have moved away from it.
RULES = (
    # No words, and no other way: what has to ask is an attribute where asking needs no await.
    (r"^( *)async def info\(", r"\1@property\n\1def info("),
    (r"\bAsyncGenerator\[(.+?), None\]", r"Generator[\1, None, None]"),
    (r"\b(?:Coroutine\[Any, Any, (\w+)\]|Awaitable\[(\w+)\])", r"\1\2"),
    (r"\b(Stop)?Async([A-Z])", r"\1\2"),
    (r"\bnsbox\.client\.asynchronous\.sending\b", "nsbox.client.sending"),
    (r"\basynchronous\b", "blocking"),
    (r"\b(?:async|await) ", ""),
    (r"\b__a(enter|exit|iter|next)__\b", r"__\1__"),
    (r"\ba(close|closing|next)\b", r"\1"),
    (r"  # noqa: ASYNC\d+[^\n]*", ""),
)


def main(arguments: list[str]) -> int:
    """Write, or compare."""
    names = sorted(one.name for one in SOURCE.glob("*.py") if one.name not in BY_HAND)
    sources = {name: (SOURCE / name).read_text() for name in names}
    for pattern, _ in RULES:
        if not any(re.search(pattern, text, re.MULTILINE) for text in sources.values()):
            print(f"the rule {pattern} finds nothing any more")
            return 1
    stale = []
    for name, text in sources.items():
        made, target = blocking(name, text), TARGET / name
        if target.exists() and target.read_text() == made:
            continue
        stale.append(name)
        if arguments != ["--check"]:
            target.write_text(made)
    if not stale or arguments != ["--check"]:
        return 0
    print(f"nsbox/client/blocking is out of date ({', '.join(stale)}); remedy: python {Path(__file__).name}")
    return 1


def blocking(name: str, text: str) -> str:
    """One module, for threads."""
    for pattern, replacement in RULES:
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    head = f"# Made from asynchronous/{name} by scripts/blocking_client.py: change that one, and run it.\n"
    return _ruff(name, "format", _ruff(name, "check", head + text, "--fix-only", "--unsafe-fixes"))


def _ruff(name: str, verb: str, text: str, *options: str) -> str:
    command = [sys.executable, "-m", "ruff", verb, "--quiet", "--no-cache", *options]
    done = subprocess.run(
        [*command, "--stdin-filename", str(TARGET / name), "-"],
        input=text, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
