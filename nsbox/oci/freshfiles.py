"""The part of the embedded layer that does not come from the host: accounts, name resolution, empty folders.

Copies would tell every sandbox who has an account on the host and how its network is set up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from nsbox.oci.manifest import Entry, Kind

#: All fresh files bear one date, so that a manifest depends on the host alone; after 1980, for zip's sake.
_DATE_NS = 1_577_836_800 * 10**9

USER_ID = 1000

_ACCOUNTS = """\
root:x:0:0:root:/root:{shell}
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
bin:x:2:2:bin:/bin:/usr/sbin/nologin
www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin
user:x:1000:1000:user:/home/user:{shell}
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
"""
_GROUP = """\
root:x:0:
daemon:x:1:
bin:x:2:
adm:x:4:
tty:x:5:
www-data:x:33:
utmp:x:43:
staff:x:50:
users:x:100:
user:x:1000:
nogroup:x:65534:
"""
# No password opens any of these accounts.
_LOCKS = "".join(
    f"{name}:*:18262:0:99999:7:::\n" for name in ("root", "daemon", "bin", "www-data", "user", "nobody")
)
_NSSWITCH = """\
passwd:    files
group:     files
shadow:    files
hosts:     files dns
networks:  files
protocols: files
services:  files
ethers:    files
rpc:       files
"""
_HOSTS = """\
127.0.0.1 localhost
::1       localhost ip6-localhost ip6-loopback
"""
_PROFILE = """\
# Read by login shells.
export PATH="${PATH:-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}"
umask 022
if [ -n "${BASH_VERSION-}" ]; then
    [ -r /etc/bash.bashrc ] && . /etc/bash.bashrc
elif [ "$(id -u)" = 0 ]; then
    PS1='# '
else
    PS1='$ '
fi
"""
_BASHRC = r"""# Read by interactive shells.
[ -n "${PS1-}" ] || return 0
PS1='\u@\h:\w\$ '
shopt -s checkwinsize
alias ls='ls --color=auto'
alias grep='grep --color=auto'
"""

_FILES: dict[str, tuple[str, int]] = {
    "etc/group": (_GROUP, 0o644),
    "etc/shadow": (_LOCKS, 0o600),
    "etc/nsswitch.conf": (_NSSWITCH, 0o644),
    "etc/hosts": (_HOSTS, 0o644),
    "etc/hostname": ("sandbox\n", 0o644),
    # Each sandbox's network decides; it is put over this one.
    "etc/resolv.conf": ("# no name servers\n", 0o644),
    "etc/host.conf": ("multi on\n", 0o644),
    "etc/profile": (_PROFILE, 0o644),
    "etc/bash.bashrc": (_BASHRC, 0o644),
    "etc/timezone": ("Etc/UTC\n", 0o644),
    "etc/machine-id": ("", 0o444),
}
_LINKS = {
    "etc/mtab": "../proc/self/mounts",
    "etc/localtime": "/usr/share/zoneinfo/Etc/UTC",
    "var/run": "/run",
    "var/lock": "/run/lock",
}
_FOLDERS: dict[str, int] = {
    # /app: where examples put their code, and what they give as a command's folder before there is any.
    **dict.fromkeys(("app", "boot", "etc", "home", "media", "mnt", "opt", "run", "srv", "usr", "var"), 0o755),
    **dict.fromkeys(("dev", "proc", "sys"), 0o755),  # mount points
    **dict.fromkeys(("tmp", "var/tmp", "run/lock"), 0o1777),
    **dict.fromkeys(("var/cache", "var/lib", "var/log", "var/spool", "var/www", "etc/profile.d"), 0o755),
    **dict.fromkeys(
        (f"usr/local/{n}" for n in ("bin", "etc", "include", "lib", "sbin", "share", "src")), 0o755
    ),
    **dict.fromkeys(("usr", "usr/local", "usr/src", "usr/share", "usr/lib", "usr/bin", "usr/sbin"), 0o755),
    "root": 0o700,
}


def fresh_entries(content: Mapping[str, bytes], *, bash: bool) -> Iterator[Entry]:
    """All of it. ``content`` are further files, by destination; ``bash`` whether the layer has one."""
    shell = "/bin/bash" if bash else "/bin/sh"
    for dest, mode in _FOLDERS.items():
        yield Entry(dest=dest, kind=Kind.DIRECTORY, mode=mode, mtime_ns=_DATE_NS)
    home = Entry(
        dest="home/user", kind=Kind.DIRECTORY, mode=0o755, mtime_ns=_DATE_NS, uid=USER_ID, gid=USER_ID
    )
    yield home
    yield literal("etc/passwd", _ACCOUNTS.format(shell=shell).encode())
    shells = ["/bin/sh", *(["/bin/bash", "/usr/bin/bash"] if bash else [])]
    yield literal("etc/shells", "".join(f"{name}\n" for name in shells).encode())
    for dest, (text, mode) in _FILES.items():
        yield literal(dest, text.encode(), mode)
    for dest, data in content.items():
        yield literal(dest, data)
    for dest, target in _LINKS.items():
        yield link(dest, target)


def literal(dest: str, content: bytes, mode: int = 0o644) -> Entry:
    """A file of ours."""
    return Entry(dest=dest, kind=Kind.LITERAL, mode=mode, mtime_ns=_DATE_NS, content=content)


def link(dest: str, target: str) -> Entry:
    """A symbolic link of ours."""
    return Entry(dest=dest, kind=Kind.SYMLINK, mode=0o777, mtime_ns=_DATE_NS, target=target)
