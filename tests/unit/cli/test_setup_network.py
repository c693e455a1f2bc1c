from __future__ import annotations

import pytest

from nsbox.cli import setup_steps
from nsbox.cli.setup import execute, plan, revert
from nsbox.cli.setup_network import InstallPasta, MakeTun
from nsbox.cli.setup_steps import Dispensable, Undoable
from nsbox.model.errors import HostProblem


class Host:
    """Programs that are there, and what was run."""

    def __init__(self, *programs, broken=()):
        self.programs, self.broken, self.ran = set(programs), list(broken), []

    def find(self, name):
        return f"/usr/bin/{name}" if name in self.programs else None

    def run(self, argv, environment=None):
        self.ran.append(list(argv))
        if self.broken and self.broken.pop(0):
            raise HostProblem("it failed")
        if argv[1] == "install":
            assert environment == {"DEBIAN_FRONTEND": "noninteractive"}
            self.programs.add("pasta")


@pytest.fixture
def host(monkeypatch):
    made = Host("apt-get")
    monkeypatch.setattr(setup_steps, "run", made.run)
    return made


def test_pasta_is_installed_where_it_lacks_and_said_before(host, capsys):
    step = InstallPasta(host.find)
    execute([step], dry_run=True)
    assert host.ran == []
    assert "would do pasta" in (said := capsys.readouterr().out)
    assert "apt-get install --yes --no-install-recommends passt" in said
    execute([step], dry_run=False)
    assert host.ran == [["apt-get", "install", "--yes", "--no-install-recommends", "passt"]]
    assert "change  pasta" in capsys.readouterr().out
    execute([step], dry_run=False)
    assert len(host.ran) == 1
    assert capsys.readouterr().out.startswith("ok ")


def test_old_lists_are_fetched_anew(host):
    host.broken = [True, False, False]
    InstallPasta(host.find).apply()
    assert [argv[1] for argv in host.ran] == ["install", "update", "install"]


@pytest.mark.parametrize("programs", [{"apt-get"}, set()])
def test_setup_goes_on_without_it_and_says_what_that_means(host, capsys, programs):
    """A host without a network, or one of another family."""
    host.programs, host.broken = programs, [True, True]
    rest = MakeTun("/dev/null")
    execute([InstallPasta(host.find), rest], dry_run=False)
    said = capsys.readouterr().out
    assert "failed  pasta" in said
    assert "reach nothing" in said
    assert "the device /dev/null" in said


def test_other_steps_do_not_fail_quietly(host):
    class Needed:
        title = "the thing"

        def is_done(self):
            return False

        def commands(self):
            return []

        def apply(self):
            raise HostProblem("it failed")

    with pytest.raises(HostProblem, match="it failed"):
        execute([Needed()], dry_run=False)


def test_a_device_that_is_there_is_left_as_it_is(tmp_path, host):
    assert MakeTun("/dev/null").is_done()
    step = MakeTun(str(tmp_path / "tun"))
    assert not step.is_done()
    assert list(step.commands()) == ["modprobe tun", f"chmod 0666 {tmp_path}/tun"]
    (tmp_path / "tun").touch()  # what modprobe did not do
    with pytest.raises(HostProblem, match="is no device"):
        step.apply()
    assert host.ran == [["modprobe", "tun"], ["chmod", "0666", f"{tmp_path}/tun"]]


def test_the_plan_has_both_unless_there_is_to_be_no_network():
    wishes = {"ids_only": False, "profile_only": False, "service": False, "restricted": False}
    found = plan("nsbox", "/var/lib/nsbox", network=True, **wishes)
    assert [type(one) for one in found[-2:]] == [InstallPasta, MakeTun]
    assert not any(isinstance(one, InstallPasta) for one in plan("nsbox", "/var/lib/nsbox", **wishes))


def test_packages_are_not_taken_back(capsys):
    for step in (InstallPasta(), MakeTun()):
        assert isinstance(step, Dispensable)
        assert not isinstance(step, Undoable)
    revert([], dry_run=True)
    assert capsys.readouterr().out == ""
