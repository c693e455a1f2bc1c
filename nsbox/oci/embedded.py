"""The default template: which of the host's own files make a layer that needs no network and no registry.

``images/default.toml`` says what is wanted; ``plan`` finds it, with the libraries it needs; ``embed_worker``
makes the tree. Nothing of the host is executed on the way.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
from collections.abc import Iterator

from nsbox.model.errors import HostProblem
from nsbox.oci import ldcache
from nsbox.oci.elf import MAGIC, Linker
from nsbox.oci.freshfiles import fresh_entries, link, literal
from nsbox.oci.hostfiles import Found, HostFiles, RefusedError
from nsbox.oci.manifest import Entry, Kind, Manifest, in_order
from nsbox.oci.recipe import Matcher, Recipe, Tree, decode, expand, recipe_bytes

#: Part of the fingerprint: raise it when the same host files would make another layer.
TEMPLATE_VERSION = 1

_REMEDY = (
    "install what is missing (Debian, Ubuntu: apt install bash coreutils findutils grep sed tar gzip python3)"
)
_DEFAULT_FOLDERS = ("/lib", "/usr/lib", "/lib64", "/usr/lib64")
#: Links into /usr where that is merged, and everything says /bin/sh.
_TOP_LINKS = ("/bin", "/sbin", "/lib", "/lib64", "/lib32")
_CACHE = "/etc/ld.so.cache"
_PYC_HEADER = 16  # magic, flags, time and size of the source: PEP 552
_MAX_SCRIPT_DEPTH = 4


def plan(root: str = "/") -> Manifest:
    """The layer that this host can give, now.

    Raises ``HostProblem`` where something is missing that the template cannot do without.
    """
    return _Planner(root, decode(recipe_bytes())).plan()


def fingerprint(root: str = "/") -> str:
    """Cheap, for every start: changes when programs, libraries, Python, Node, certificates or the recipe do.

    It does not look at every file, as ``Manifest.digest`` does: what is upgraded comes as a package, and each
    package that the template draws on has at least one of these files.
    """
    text = recipe_bytes()
    wanted = decode(text)
    base = root.rstrip("/")
    programs = wanted.programs
    watched = [
        *(f"{programs.folders[0]}/{name}" for name in (*programs.required, *programs.optional)),
        *(f"{programs.also_in}/{name}" for name in programs.also),
        *(tree.path for tree in wanted.trees if "{" not in tree.path),
        *(f"{tree.path}/npm/package.json" for tree in wanted.trees if "node" in tree.path),
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/os-release",
        # The loader comes with the C library, and any library installed or upgraded gives a new cache: dpkg's
        # triggers run ldconfig.
        "/lib64/ld-linux-x86-64.so.2",
        "/lib/ld-linux-aarch64.so.1",
        _CACHE,
    ]
    digest = hashlib.sha256(b"%d\0" % TEMPLATE_VERSION + text)
    for path in watched:
        try:
            status = os.stat(base + path)
        except OSError:
            digest.update(b"-")
        else:
            digest.update(b"%d,%d;" % (status.st_size, status.st_mtime_ns))
    return digest.hexdigest()


class _Planner:
    """One run of ``plan``."""

    def __init__(self, root: str, wanted: Recipe) -> None:
        self._host = HostFiles(root)
        self._wanted = wanted
        self._rows = self._cache_rows()
        cache: dict[str, tuple[str, ...]] = {}
        for row in self._rows:
            cache[row.name] = (*cache.get(row.name, ()), row.path)
        self._linker = Linker(root, cache, (*self._multiarch(), *_DEFAULT_FOLDERS))

    def plan(self) -> Manifest:
        for path in _TOP_LINKS:
            self._file(path)
        for name in self._wanted.programs.required:
            self._required(name)
        names = self._placeholders()
        for name in self._wanted.programs.optional:
            self._optional(name)
        for name in self._wanted.libraries.optional:
            self._library(name)
        for pattern in self._wanted.files.optional:
            self._file(expand(pattern, names))
        for tree in self._wanted.trees:
            self._tree(expand(tree.path, names), tree)
        self._add_fresh(names)
        return Manifest(
            version=TEMPLATE_VERSION,
            entries=in_order(self._host.entries),
            config=self._wanted.config,
            skipped=tuple(self._host.skipped[path] for path in sorted(self._host.skipped)),
        )

    # what a program is made of

    def _required(self, name: str) -> None:
        try:
            self._program(name)
        except RefusedError as error:
            raise HostProblem(
                f"the default template cannot be made: {name} is missing ({error})", remedy=_REMEDY
            ) from error

    def _optional(self, name: str) -> None:
        path = self._which(name)
        if path is None:
            return  # not installed: not worth a word
        try:
            self._program(name)
        except RefusedError as error:
            self._host.refuse(path, error)

    def _which(self, name: str) -> str | None:
        programs = self._wanted.programs
        folders = (*programs.folders, programs.also_in) if name in programs.also else programs.folders
        return next((f"{folder}/{name}" for folder in folders if self._host.exists(f"{folder}/{name}")), None)

    def _program(self, name: str, depth: int = 0) -> Found:
        path = self._which(name)
        if path is None:
            raise RefusedError(name, "not installed")
        found = self._host.find(path)
        if found.last.kind is not Kind.FILE or not found.last.mode & 0o111:
            raise RefusedError(path, "not a program")
        if not self._is_elf(found):
            self._interpreter_of(found, depth)
        self._take(found)
        return found

    def _interpreter_of(self, script: Found, depth: int) -> None:
        interpreter = interpreter_line(self._host.read(script.real, 256))
        if interpreter is None:
            return
        if depth >= _MAX_SCRIPT_DEPTH:
            raise RefusedError(script.real, "a script for a script for a script")
        self._program(posixpath.basename(interpreter), depth + 1)
        if interpreter.startswith("/"):
            self._host.take(self._host.find(interpreter))

    def _take(self, found: Found) -> None:
        """Put a file and all the libraries it needs into the layer, or refuse it whole."""
        if self._may_be_elf(found.last):
            closure = self._linker.closure(found.real)
            if closure.missing:
                lost = closure.missing[0]
                raise RefusedError(found.real, f"{lost.wanted_by} needs {lost.library}, which the host lacks")
            try:
                libraries = [self._host.find(path) for path in closure.paths]
            except RefusedError as error:
                raise RefusedError(found.real, f"needs {error}") from error
            for library in libraries:
                self._host.take(library)
        self._host.take(found)

    @staticmethod
    def _may_be_elf(entry: Entry) -> bool:
        # Looking into each of thousands of files would take longer than all the rest.
        return bool(entry.mode & 0o111) or ".so" in entry.dest

    def _is_elf(self, found: Found) -> bool:
        return self._host.read(found.real, len(MAGIC)) == MAGIC

    # what is not a program

    def _library(self, name: str) -> None:
        path = self._linker.find(name, like=self._shell())
        if path is not None:
            self._file(path)

    def _file(self, path: str) -> None:
        if not self._host.exists(path):
            return
        try:
            self._take(self._host.find(path))
        except RefusedError as error:
            self._host.refuse(path, error)

    def _tree(self, top: str, tree: Tree) -> None:
        if not self._host.exists(top):
            if tree.required:
                raise HostProblem(f"the default template cannot be made: {top} is missing", remedy=_REMEDY)
            return
        matcher = Matcher(tree)
        folders = [top]
        for folder in folders:
            try:
                self._host.take(self._host.find(folder))
            except RefusedError as error:
                self._host.refuse(folder, error)
                continue
            for item in self._host.names(folder):
                path = f"{folder}/{item.name}"
                if not matcher.wants(path[len(top) :], item.name):
                    continue
                if item.is_dir(follow_symlinks=False):
                    folders.append(path)
                elif not item.name.endswith(".pyc") or self._fresh_bytecode(path):
                    self._file(path)

    def _fresh_bytecode(self, path: str) -> bool:
        """Whether Python would use it. Bytecode that is out of date would be compiled anew at each start."""
        folder, name = posixpath.split(path)
        source = f"{posixpath.dirname(folder)}/{name.split('.')[0]}.py"
        header = self._host.read(path, _PYC_HEADER)
        entry = self._host.entries.get(source[1:])
        if entry is None:
            try:
                entry = self._host.find(source).last
            except RefusedError:
                return False
        if len(header) < _PYC_HEADER or int.from_bytes(header[4:8], "little"):
            return len(header) == _PYC_HEADER  # checked by hash, or not at all
        seconds, size = int.from_bytes(header[8:12], "little"), int.from_bytes(header[12:16], "little")
        return seconds == entry.mtime_ns // 10**9 & 0xFFFF_FFFF and size == entry.size & 0xFFFF_FFFF

    # facts about the host

    def _cache_rows(self) -> tuple[ldcache.Row, ...]:
        try:
            return ldcache.parse(self._host.read(_CACHE, 1 << 24))
        except OSError:
            return ()

    def _multiarch(self) -> list[str]:
        """/lib/x86_64-linux-gnu and its like: compiled into ld.so, so that no file need name them."""
        return [
            f"{folder}/{item.name}"
            for folder in ("/lib", "/usr/lib")
            if self._host.exists(folder)
            for item in self._host.names(folder)
            if item.name.endswith(("-linux-gnu", "-linux-gnueabihf"))
        ]

    def _shell(self) -> str:
        return self._host.find(self._which("sh") or "/bin/sh").real

    def _placeholders(self) -> dict[str, str]:
        python = self._host.find(self._which("python3") or "/usr/bin/python3").real
        folder, name = posixpath.split(python)
        libc = self._linker.find("libc.so.6", like=self._shell())
        return {
            "python": name,
            "prefix": posixpath.dirname(folder),
            "libdir": posixpath.dirname(self._host.find(libc).real) if libc else "/usr/lib",
        }

    # what is written fresh

    def _add_fresh(self, names: dict[str, str]) -> None:
        entries = self._host.entries
        kept = self._kept_rows()
        folders = dict.fromkeys(posixpath.dirname(row.path) for row in kept)
        # For whoever runs ldconfig inside, after having installed a library.
        content = {"etc/ld.so.conf": "".join(f"{folder}\n" for folder in folders).encode()}
        if kept:
            content["etc/ld.so.cache"] = ldcache.render(kept)
        has_bash = bool({"usr/bin/bash", "bin/bash"} & entries.keys())
        for entry in (*fresh_entries(content, bash=has_bash), *self._usual_names(names)):
            entries[entry.dest] = entry

    def _usual_names(self, names: dict[str, str]) -> Iterator[Entry]:
        """``python`` and ``pip``, on hosts that do not have them under these names."""
        entries = self._host.entries
        python = f"{names['prefix']}/bin/{names['python']}"
        if not {"usr/bin/python", "usr/local/bin/python"} & entries.keys():
            yield link("usr/local/bin/python", python)
        wheel = next((dest for dest in entries if re.search(r"/pip-[^/]*\.whl$", dest)), None)
        if wheel is None:
            return
        # pip can be run from its wheel, which Debian has wherever venv works, with or without pip itself.
        script = f'#!/bin/sh\nexec {python} /{wheel}/pip "$@"\n'.encode()
        for name in ("pip", "pip3"):
            if not {f"usr/bin/{name}", f"usr/local/bin/{name}"} & entries.keys():
                yield literal(f"usr/local/bin/{name}", script, 0o755)

    def _kept_rows(self) -> list[ldcache.Row]:
        kept = []
        for row in self._rows:
            folder, name = posixpath.split(row.path)
            try:
                real = self._host.find(folder).real
            except RefusedError:
                continue
            if f"{real}/{name}"[1:] in self._host.entries:
                kept.append(row)
        return kept


def interpreter_line(head: bytes) -> str | None:
    """What ``#!`` names; for ``/usr/bin/env NAME`` it is NAME. None where there is no such line."""
    if not head.startswith(b"#!"):
        return None
    words = head[2:].partition(b"\n")[0].decode("ascii", "replace").split()
    if words and posixpath.basename(words[0]) == "env":
        words = [word for word in words[1:] if not word.startswith("-") and "=" not in word]
    return words[0] if words else None
