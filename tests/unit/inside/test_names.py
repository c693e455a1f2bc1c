"""/etc/hosts and its like: replaced, never written through."""

from __future__ import annotations

import os
from pathlib import Path

from nsbox.inside import names
from nsbox.wire.messages import Launch

LAUNCH = Launch("sb_1", "sb-1", ("10.209.0.9", "fd00::9"), "10.209.0.1")


def test_what_is_written(tmp_path: Path) -> None:
    names.write(LAUNCH, str(tmp_path))
    assert (tmp_path / "hostname").read_text() == "sb-1\n"
    assert (tmp_path / "resolv.conf").read_text().splitlines()[0] == "nameserver 10.209.0.1"
    lines = (tmp_path / "hosts").read_text().splitlines()
    assert "127.0.0.1\tlocalhost" in lines
    assert "10.209.0.9\tsb-1" in lines
    assert "fd00::9\tsb-1" in lines
    assert (tmp_path / "hosts").stat().st_mode & 0o777 == 0o644 & ~os.umask(os.umask(0o022))


def test_a_link_of_the_image_is_replaced_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    """Debian's resolv.conf leads to systemd's; an evil one leads anywhere."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("canary")
    etc = tmp_path / "etc"
    etc.mkdir()
    for name in ("hosts", "resolv.conf", "hostname"):
        (etc / name).symlink_to(elsewhere)
    names.write(LAUNCH, str(etc))
    assert elsewhere.read_text() == "canary"
    assert not (etc / "resolv.conf").is_symlink()
    assert "10.209.0.1" in (etc / "resolv.conf").read_text()


def test_without_a_link_the_images_resolver_stays(tmp_path: Path) -> None:
    (tmp_path / "resolv.conf").write_text("nameserver 1.2.3.4\n")
    names.write(Launch("sb_1", "sb-1", (), ""), str(tmp_path))
    assert (tmp_path / "resolv.conf").read_text() == "nameserver 1.2.3.4\n"
    assert "127.0.1.1\tsb-1" in (tmp_path / "hosts").read_text()


def test_folders_and_links_in_the_way_are_no_failure(tmp_path: Path) -> None:
    (tmp_path / "hosts").mkdir()
    names.write(LAUNCH, str(tmp_path))
    assert (tmp_path / "hosts").is_dir()
    assert (tmp_path / "hostname").exists()
    names.write(LAUNCH, str(tmp_path / "none"))
    (tmp_path / "link").symlink_to(tmp_path)
    names.write(LAUNCH, str(tmp_path / "link"))
