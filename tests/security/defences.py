"""Takes one defence after another out of a copy of the sources and runs the tests that must notice.

    sh scripts/defences                  all of them, about ten seconds each
    sh scripts/defences conntrack names  those whose names contain one of these words

Each is a piece of the product's text, and what stands there instead. The product has no switch for any of
this. A test of the units sees to it that the pieces are still there (``tests/unit/test_defences.py``).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from typing import Final, NamedTuple

_RETRIES: Final = "nsbox/client/retries.py"
_UNPACKING: Final = "nsbox/cli/unpacking.py"
_CUTS: Final = "tests/unit/client/test_cuts.py"
_UNPACKED: Final = "tests/unit/cli/test_unpacking.py"
_REACH: Final = "tests/security/test_reach.py"
_RULESET: Final = "nsbox/host/network/ruleset.py"
_POLICY: Final = "nsbox/host/network/policy.py"
_RESOLVER: Final = "nsbox/host/network/resolver.py"
_PORTS: Final = "nsbox/host/network/ports.py"
_MAIN: Final = "nsbox/host/network/main.py"
_PLANS: Final = "tests/unit/service/test_plans.py"
_LEDGER: Final = "tests/unit/store/test_ledger.py"
_NAMED: Final = "nsbox/host/network/named.py"
_ACCOUNTS: Final = "nsbox/service/accounts.py"
_ADMISSION: Final = "nsbox/api/admission.py"
_TENANTS: Final = "tests/security/test_tenants.py"
_KEYS: Final = "tests/unit/store/test_keys.py"
_REST: Final = "tests/unit/api/test_accounts.py"
_SCOPES: Final = "tests/unit/api/test_scopes.py"
_BUDGETS: Final = "tests/security/test_budgets.py::test_one_does_not_take_it_all"
_LEAKS: Final = "tests/security/test_leaks.py"
_DENIED: Final = "tests/security/test_denied.py"
_EVERY_KEY: Final = f"{_SCOPES}::test_every_route_with_every_kind_of_key[read-only-user]"


class Defence(NamedTuple):
    """``tests`` fail, each of them, when ``text`` in ``file`` is replaced by ``without``."""

    name: str
    file: str
    text: str
    without: str
    tests: tuple[str, ...]


DEFENCES: Final = (
    Defence(
        "client: what may have arrived is not sent again", _RETRIES,
        "if error.sent and not safe:", "if False:",
        (
            f"{_CUTS}::test_what_is_not_safe_is_asked_for_once[snapshot]",
            f"{_CUTS}::test_what_is_not_safe_is_asked_for_once[fork]",
        ),
    ),
    Defence(
        "client: one call has one Idempotency-Key", _RETRIES,
        "outcome = yield request\n", "outcome = yield request_of(call)\n",
        (
            f"{_CUTS}::test_a_command_is_run_once_wherever_its_answer_is_cut",
            "tests/e2e/test_client.py::test_waiting_calls_survive_an_api_that_is_killed",
        ),
    ),
    Defence(
        "client: output goes on behind its last byte", "nsbox/client/following.py",
        "if self.offset:", "if False:",
        (f"{_CUTS}::test_output_starts_nothing_and_asks_for_nothing_twice",),
    ),
    Defence(
        "client: output that is known does not come twice", "nsbox/client/following.py",
        "data[self.offset - offset :]", "data",
        (f"{_CUTS}::test_output_that_comes_again_is_cut_off",),
    ),
    Defence(
        "client: an answer without its length is lost", "nsbox/client/blocking/connections.py",
        "if response.length is None and not response.chunked and request.method",
        "if False and request.method",
        (f"{_CUTS}::test_a_file_is_gone_on_with_where_it_was_cut",),
    ),
    Defence(
        "client: a file that may be another is not mixed", "nsbox/client/fetching.py",
        "if _is_strong(headers) else", "if True else",
        (f"{_CUTS}::test_a_file_that_changed_within_a_second_is_not_mixed",),
    ),
    Defence(
        "client: no error has the key in it", "nsbox/client/blocking/driver.py",
        "raise error.without(self._secret) from None", "raise",
        ("tests/unit/client/test_errors.py::test_the_key_is_in_no_error_even_if_it_is_sent_back",),
    ),
    Defence(
        "client: contexts that others can read", "nsbox/cli/contexts.py",
        "if found.st_mode & 0o077:", "if False:",
        (
            "tests/unit/cli/test_contexts.py::test_a_file_that_others_can_get_at_is_refused",
            "tests/e2e/test_cli_verbs.py::test_a_context_for_life",
        ),
    ),
    Defence(
        "client: names in archives of sandboxes", _UNPACKING, '".." in parts', "False",
        (
            f"{_UNPACKED}::test_names_that_lead_elsewhere[../x]",
            f"{_UNPACKED}::test_no_archive_reaches_outside",
        ),
    ),
    Defence(
        "client: folders are not reached through symlinks", _UNPACKING,
        "os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC",
        "os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC",
        (f"{_UNPACKED}::test_nothing_is_written_through_a_symlink",),
    ),
    Defence(
        "client: symlinks of sandboxes stay inside", _UNPACKING, "_stays(parts, member.linkname)", "True",
        (f"{_UNPACKED}::test_symlinks_that_lead_elsewhere_are_left_out[../x]",),
    ),
    Defence(
        "client: sparse files of sandboxes", _UNPACKING, "member.issparse()", "False",
        (f"{_UNPACKED}::test_a_few_bytes_do_not_fill_the_disk",),
    ),
    Defence(
        "ranges that are inside", _MAIN, "*ruleset.never(never)", "*ruleset.never([])",
        (
            f"{_REACH}::test_nothing_inside_is_reached",
            f"{_REACH}::test_names_that_point_inside",
            f"{_REACH}::test_a_name_that_is_bound_anew",
        ),
    ),
    Defence(
        "what is inside is refused before names are looked at", _POLICY,
        'made.append(nft.rule(name, nft.then(Verdict.JUMP, "never")))', "pass",
        (
            f"{_REACH}::test_a_name_that_is_bound_anew",
            f"{_REACH}::test_a_list_of_names_opens_their_addresses_and_no_others",
        ),
    ),
    Defence(
        "the operator's list, and the host's own addresses", _MAIN, "*ruleset.own(own)", "*ruleset.own([])",
        ("tests/e2e/test_network.py::test_what_the_operator_opened_and_shut",),
    ),
    Defence(
        "connections at once", _RULESET, 'nft.connections_over("connected", limits.connections)',
        'nft.connections_over("connected", 65_000)',
        (f"{_REACH}::test_a_flood_of_connections_harms_itself_alone",),
    ),
    Defence(
        "the rate of new connections", _RULESET, "(100, 2_000)", "(1_000_000, 1_000_000)",
        (f"{_REACH}::test_short_connections_are_bounded_by_their_rate",),
    ),
    Defence(
        "closed connections leave the table soon", _MAIN,
        "_write(_TIME_WAIT, str(_CLOSED), needed=False)", "pass",
        (f"{_REACH}::test_the_connection_table_is_not_filled_by_one",),
    ),
    Defence(
        "the rate of questions", _RULESET, "(200, 400), (100", "(1_000_000, 1_000_000), (100",
        (f"{_REACH}::test_a_flood_of_questions_harms_itself_alone[internet.example]",),
    ),
    Defence(
        "questions of one sandbox that wait", _RESOLVER,
        "_WAITING_EACH = 1_024, 64", "_WAITING_EACH = 1_024, 65_536",
        (f"{_REACH}::test_a_flood_of_questions_harms_itself_alone[silent.example]",),
    ),
    Defence(
        "source addresses belong to their link", _RULESET,
        'nft.rule("raw", nft.wrong_way(), nft.then(Verdict.DROP)),', "",
        (f"{_REACH}::test_a_packet_under_anothers_address_is_dropped",),
    ),
    Defence(
        "what names have opened is shut with the policy", _NAMED,
        "return self._shut(self._open)", "return []",
        (f"{_REACH}::test_a_list_of_names_opens_their_addresses_and_no_others",),
    ),
    Defence(
        "connections are forgotten when the policy changes", _PORTS,
        "conntrack.forget(self._tracker, links.index(slot))", "pass",
        (f"{_REACH}::test_a_policy_changes_for_connections_that_are_there[wish1-stuck]",),
    ),
    Defence(
        "names are asked for by policy", _RESOLVER, "not self._who.may_resolve(slot, asked.name)", "False",
        (
            "tests/e2e/test_network.py::test_off_is_off_from_the_first_moment",
            "tests/e2e/test_network.py::test_names_that_are_denied",
        ),
    ),
    Defence(
        "plans: caps", "nsbox/service/plans.py", "if most is not None and value > most:", "if False:",
        (
            f"{_PLANS}::test_more_than_the_plan_allows_is_refused",
            f"{_PLANS}::test_time_is_capped_later_too",
        ),
    ),
    Defence(
        "plans: sandboxes at once", "nsbox/service/plans.py", "if wanted > most:", "if False:",
        (
            f"{_PLANS}::test_so_many_at_once_and_paused_ones_count",
            f"{_PLANS}::test_a_smaller_plan_lets_only_so_many_be_resumed",
        ),
    ),
    Defence(
        "plans: those that are being made count", "nsbox/service/sandboxes.py",
        "self._plans.check_count(owner, self._wanted[owner] + count)",
        "self._plans.check_count(owner, count)",
        (f"{_PLANS}::test_many_who_ask_at_once_get_so_many",),
    ),
    Defence(
        "plans: compute seconds", "nsbox/service/plans.py", "if budget.is_spent:", "if False:",
        (
            f"{_PLANS}::test_who_runs_out_is_paused_and_refused_until_the_month_is_over",
            f"{_PLANS}::test_nothing_may_be_made_with_no_seconds_at_all",
        ),
    ),
    Defence(
        "plans: a resume is asked for too", "nsbox/service/pauses.py",
        "await self._plans.may_run(live.record)", "pass",
        (
            f"{_PLANS}::test_who_is_woken_by_a_request_is_not_for_nothing",
            f"{_PLANS}::test_a_smaller_plan_lets_only_so_many_be_resumed",
        ),
    ),
    Defence(
        "plans: who runs out is paused", "nsbox/service/quotas.py",
        "return known.budget.out_at - _EARLY <= self._now().ticks", "return False",
        (f"{_PLANS}::test_another_plan_lets_it_go_on",),
    ),
    Defence(
        "ledger: it is not replaced", "nsbox/store/schema.py",
        "WHEN EXISTS (SELECT 1 FROM ledger WHERE seq = NEW.seq)", "WHEN false",
        (f"{_LEDGER}::test_nothing_in_it_is_changed_or_removed[REPLACE INTO ledger SELECT * FROM ledger]",),
    ),
    Defence(
        "ledger: it is not shortened", "nsbox/store/schema.py", "BEFORE DELETE ON ledger\n    BEGIN",
        "BEFORE DELETE ON ledger WHEN false\n    BEGIN",
        (f"{_LEDGER}::test_nothing_in_it_is_changed_or_removed[DELETE FROM ledger]",),
    ),
    Defence(
        "ledger: it is not changed", "nsbox/store/schema.py", "BEFORE UPDATE ON ledger\n    BEGIN",
        "BEFORE UPDATE ON ledger WHEN false\n    BEGIN",
        (f"{_LEDGER}::test_nothing_in_it_is_changed_or_removed[UPDATE ledger SET wall = 0]",),
    ),
    Defence(
        "ledger: what is lost is billed until the last pulse", "nsbox/store/ledger.py",
        "if sandbox.state is State.LOST:", "if False:",
        (
            f"{_LEDGER}::test_what_is_lost_before_the_first_pulse_costs_nothing",
            f"{_PLANS}::test_keeper_dies_and_the_bill_ends_at_the_last_pulse",
        ),
    ),
    Defence(
        "ledger: a clock that is set is noticed", "nsbox/service/pulse.py",
        "elif abs(now.wall - now.ticks - self._offset) >= _STEP:", "elif False:",
        (f"{_PLANS}::test_a_clock_that_is_set_is_noticed_also_while_api_is_away",),
    ),
    Defence(
        "a sandbox is its user's", "nsbox/service/registry.py", "found is None or found.owner != owner",
        "found is None",
        (
            f"{_TENANTS}::test_every_route_with_her_ids",
            f"{_TENANTS}::test_his_own_sandbox_does_not_lead_to_her_things",
            f"{_TENANTS}::test_the_administrator_is_a_tenant_too_until_told_otherwise",
            f"{_TENANTS}::test_the_websocket",
        ),
    ),
    Defence(
        "a snapshot is its user's", "nsbox/service/snapshots.py",
        "record is None or record.owner != owner or not _is_whole(record)",
        "record is None or not _is_whole(record)",
        (
            f"{_TENANTS}::test_every_route_with_her_ids",
            f"{_TENANTS}::test_his_own_sandbox_does_not_lead_to_her_things",
        ),
    ),
    Defence(
        "a key is its user's", _ACCOUNTS, "not (caller.administers or record.owner == caller.owner)", "False",
        (f"{_TENANTS}::test_every_route_with_her_ids", f"{_REST}::test_keys_of_others_are_an_administrators"),
    ),
    Defence(
        "scopes of what streams", "nsbox/api/middleware.py",
        "scopes.check(caller, method, self.rule)", "pass",
        (f"{_SCOPES}::test_a_stream_that_was_forgotten_is_refused", _EVERY_KEY),
    ),
    Defence(
        "scopes of all else", "nsbox/api/app.py",
        "scopes.check(asking.caller, request.method, request.url_rule.rule)", "pass",
        (f"{_SCOPES}::test_a_route_that_was_forgotten_is_refused", _EVERY_KEY),
    ),
    Defence(
        "scopes of WebSockets", "nsbox/api/attach.py", 'scopes.check(caller, "GET", RULE)', "pass",
        (f"{_SCOPES}::test_a_websocket_is_not_safe[kind1-403]",),
    ),
    Defence(
        "who acts for others", _ADMISSION, "if not caller.may_act_for_others:", "if False:",
        (
            f"{_TENANTS}::test_the_administrator_is_a_tenant_too_until_told_otherwise",
            "tests/unit/api/test_admission.py::test_who_may_not_act_for_others",
        ),
    ),
    Defence(
        "keys expire", "nsbox/model/account.py",
        "self.revoked_at is None and (self.expires_at is None or now < self.expires_at)",
        "self.revoked_at is None",
        (f"{_KEYS}::test_an_expired_key_is_refused_at_once",),
    ),
    Defence(
        "disabled users are out", "nsbox/store/keyring.py", "user is not None and user.disabled_at is None",
        "user is not None", (f"{_KEYS}::test_keys_of_a_disabled_user_are_refused_at_once",),
    ),
    Defence(
        "a revoked key ends its terminals", "nsbox/api/attach.py",
        "if self._keys.caller(self._key_id) is None:", "if False:",
        ("tests/e2e/test_accounts.py::test_a_revoked_key_ends_its_terminal",),
    ),
    Defence(
        "guesses are bounded", _ADMISSION,
        "if self._failures and can_be_guessed(", "if False and can_be_guessed(",
        ("tests/unit/api/test_admission.py::test_a_guesser_is_told_no_more",),
    ),
    Defence(
        "requests are bounded", _ADMISSION, "if found.wait:", "if False:",
        ("tests/unit/api/test_admission.py::test_a_key_makes_so_many_requests",),
    ),
    Defence(
        "no key makes one that may more", _ACCOUNTS,
        "if not grants(scopes) <= grants(own.scopes):", "if False:",
        (f"{_REST}::test_nobody_makes_a_key_that_may_more",),
    ),
    Defence(
        "the last administrator stays", _ACCOUNTS,
        "if before and not keys.administrators(connection):", "if False:",
        (f"{_REST}::test_the_last_administrator_stays",),
    ),
    Defence(
        "budgets: each sandbox is made by an id of its own", "nsbox/kernel/namespaces.py",
        "return OUTER_OFFSET + number % SANDBOX_IDS", "return OUTER_OFFSET",
        (f"{_BUDGETS}[inotify]", f"{_BUDGETS}[queue]", f"{_BUDGETS}[pending]"),
    ),
    Defence(
        "budgets: inotify", "nsbox/keeper/main.py", "file.write(str(part))", "pass",
        (f"{_BUDGETS}[inotify]",),
    ),
    Defence(
        "budgets: queues and signals", "nsbox/keeper/zygote.py",
        "privileges.divide(mould.divided, baseline.SHARE)", "pass",
        (f"{_BUDGETS}[queue]", f"{_BUDGETS}[pending]"),
    ),
    Defence(
        "what a command sees: masks", "nsbox/inside/rootfs.py",
        'mounts.mask(STAGING + path, f"{STAGING}/dev/null", f"{STAGING}/empty")', "pass",
        (
            f"{_LEAKS}::test_nothing_that_is_the_hosts_is_seen",
            f"{_LEAKS}::test_what_a_command_is_given_is_its_own",
        ),
    ),
    Defence(
        "what a command sees: descriptors", "nsbox/inside/spawner.py",
        "libc.close_range(3, flags=libc.CLOSE_RANGE_CLOEXEC)",
        "[os.set_inheritable(one, True) for one in (*streams, 3)]",
        (f"{_LEAKS}::test_what_a_command_is_given_is_its_own",),
    ),
    Defence(
        "what a command sees: its own cgroup is the root", "nsbox/inside/init.py",
        "child = init.come_in(cgroup, libc.CLONE_NEWCGROUP,", "child = init.come_in(cgroup, 0,",
        (f"{_LEAKS}::test_all_namespaces_are_its_own",),
    ),
    Defence(
        "denied: the filter", "nsbox/inside/privileges.py", "libc.seccomp_filter(program)", "pass",
        (
            f"{_DENIED}::test_all_that_is_refused_is_refused[root]",
            f"{_DENIED}::test_all_that_is_refused_is_refused[1000:1000]",
        ),
    ),
    Defence(
        "denied: other architectures", "nsbox/kernel/seccomp.py",
        "refusal = _rule(Verdict.KILL)", "refusal = _rule(Verdict.ALLOW)",
        (f"{_DENIED}::test_the_other_architecture_is_death[root]",),
    ),
    Defence(
        "nsbox's processes inside stay hidden: init", "nsbox/kernel/namespaces.py", "libc.stay_hidden()",
        "pass", ("tests/kernel/test_hidden.py::test_ids_are_changed_and_nobody_may_look[init]",),
    ),
    Defence(
        "nsbox's processes inside stay hidden: commands", "nsbox/inside/privileges.py", "libc.stay_hidden()",
        "pass", ("tests/kernel/test_hidden.py::test_ids_are_changed_and_nobody_may_look[commands]",),
    ),
)  # fmt: skip


class Verdict(NamedTuple):
    """What the tests said without a defence."""

    failed: int
    passed: int
    said: str


def _weaken(copy: str, defence: Defence) -> None:
    path = os.path.join(copy, defence.file)
    with open(path, encoding="utf-8") as file:
        text = file.read()
    if text.count(defence.text) != 1:
        raise SystemExit(f"{defence.name}: {defence.file} has not once {defence.text!r}")
    with open(path, "w", encoding="utf-8") as file:
        file.write(text.replace(defence.text, defence.without))


def _copy(to: str) -> str:
    """The sources and their environment, which finds itself in the new place."""
    here = os.getcwd()
    copy = os.path.join(to, "src")
    shutil.copytree(here, copy, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", ".*_cache"))
    for folder, _, names in os.walk(os.path.join(copy, ".venv")):
        for name in names:
            if name.endswith(".pth"):
                path = os.path.join(folder, name)
                with open(path, encoding="utf-8") as file:
                    lines = file.read().replace(here, copy)
                with open(path, "w", encoding="utf-8") as file:
                    file.write(lines)
    return copy


def _run(copy: str, tests: tuple[str, ...]) -> Verdict:
    python = os.path.join(copy, ".venv", "bin", "python")
    done = subprocess.run(
        [python, "-m", "pytest", "-q", "-rfE", "-p", "no:cacheprovider", *tests],
        cwd=copy, env={**os.environ, "NSBOX_TEST_PYTHON": python},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = {kind: int(count) for count, kind in re.findall(r"(\d+) (failed|passed|error)", done.stdout)}
    # An error is no verdict: something else broke.
    said = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    failed = 0 if "error" in found else found.get("failed", 0)
    told = "\n".join(said) or (done.stdout + done.stderr)[-2_000:]
    return Verdict(failed, found.get("passed", 0), told)


def main(words: list[str]) -> int:
    """1 when a test did not notice."""
    if os.geteuid() != 0:
        raise SystemExit("the tests' hosts are made by root")
    chosen = [one for one in DEFENCES if not words or any(word in one.name for word in words)]
    unnoticed = 0
    for defence in chosen:
        begun = time.monotonic()
        # In /var/tmp every account can walk to it.
        with tempfile.TemporaryDirectory(prefix="nsbox-defence-", dir="/var/tmp") as work:
            os.chmod(work, 0o755)
            copy = _copy(work)
            _weaken(copy, defence)
            verdict = _run(copy, defence.tests)
        bites = verdict.failed >= len(defence.tests) and not verdict.passed
        unnoticed += not bites
        took = time.monotonic() - begun
        print(f"{'noticed ' if bites else 'UNNOTICED'} {defence.name}: {verdict.failed} failed, "
              f"{verdict.passed} passed, {took:.0f} s", flush=True)  # fmt: skip
        for line in verdict.said.splitlines():
            print(f"    {line[:200]}", flush=True)
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
