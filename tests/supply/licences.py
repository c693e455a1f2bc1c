"""The licences of what a release is installed with, by what each package says of itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import metadata
from typing import Final

from packaging.utils import canonicalize_name

from tests.supply import locked

PAGE: Final = locked.TOP / "THIRD_PARTY.md"

_HEAD: Final = """\
# Licences of what nsbox is installed with

nsbox itself is GPL-3.0-or-later ([LICENSE](LICENSE)); what of others is part of its own files is in
[NOTICE](NOTICE). The packages below are not part of it: pip installs them beside it, each with its own
licence. Made by `sh scripts/lock` from what they say of themselves; a test holds that each is known and
goes together with nsbox's.

| package | version | licence |
|---|---|---|
"""

#: By the classifiers of older packages.
_CLASSIFIED: Final = {
    "MIT License": "MIT",
    "BSD License": "BSD-3-Clause",
    "Apache Software License": "Apache-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "GNU General Public License v3 or later (GPLv3+)": "GPL-3.0-or-later",
    "GNU General Public License v2 or later (GPLv2+)": "GPL-2.0-or-later",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}
#: In the words of packages that have neither an expression nor a classifier.
_WORDED: Final = {
    "gplv3+": "GPL-3.0-or-later",
    "new bsd": "BSD-3-Clause",
    "mit": "MIT",
    "bsd": "BSD-3-Clause",
}

#: Where the metadata leaves a question open, what the files of the package say.
_READ: Final = {"python-prctl": "GPL-3.0-or-later"}  # its sources; its metadata says "GPL"

#: What may be combined with GPL-3.0-or-later. GPL-2.0-only and the proprietary may not.
COMPATIBLE: Final = frozenset(
    {
        "MIT", "MIT-0", "BSD-2-Clause", "BSD-3-Clause", "Apache-2.0", "PSF-2.0", "ISC", "0BSD", "Zlib",
        "Unlicense", "MPL-2.0", "LGPL-2.1-or-later", "LGPL-3.0-or-later", "GPL-2.0-or-later",
        "GPL-3.0-or-later",
    }
)  # fmt: skip


def licence_of(name: str) -> str:
    """An SPDX expression; empty when the package says nothing that is known. Of an installed package."""
    if name in _READ:
        return _READ[name]
    told = metadata.metadata(name)
    if told.get("License-Expression"):
        return str(told["License-Expression"])
    classified = [
        _CLASSIFIED.get(one.rpartition(" :: ")[2], "")
        for one in told.get_all("Classifier") or []
        if one.startswith("License :: OSI Approved :: ")
    ]
    if classified and all(classified):
        return " OR ".join(dict.fromkeys(classified))
    return _WORDED.get((told.get("License") or "").strip().lower(), "")


def is_compatible(expression: str) -> bool:
    """Of alternatives one is enough; of what holds together, all."""
    alternatives = re.split(r"\s+OR\s+", expression.strip("()"))
    return any(
        all(part.strip("() ") in COMPATIBLE for part in re.split(r"\s+AND\s+", one)) for one in alternatives
    )


def rows(page: str) -> Iterator[tuple[str, str, str]]:
    """Package, version, licence, as a page has them."""
    for found in re.finditer(r"^\| ([\w.-]+) \| ([\w.]+) \| (.+) \|$", page, re.MULTILINE):
        if found[1] != "package":
            yield found[1], found[2], found[3]


def page(lock: str) -> str:
    """From a lock. The versions of one package have one licence: that of what is installed here."""
    lines = [
        f"| {one.name} | {one.version} | {licence_of(one.name) or 'unknown'} |" for one in locked.pins(lock)
    ]
    return _HEAD + "\n".join(sorted(lines, key=lambda one: canonicalize_name(one.split()[1]))) + "\n"
