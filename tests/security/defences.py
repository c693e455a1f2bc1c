"""Takes one defence after another out of a copy of the sources and runs the tests that must notice.

    sh scripts/defences                  all of them, about ten seconds each
    sh scripts/defences conntrack names  those whose names contain one of these words
    sh scripts/defences row:8            those of a row of the acceptance list
    sh scripts/defences --list           rows, their defences, and the tests that notice

Each is a piece of the product's text, and what stands there instead. The product has no switch for any of
this. A test of the units sees to it that the pieces are still there (``tests/unit/test_defences.py``).
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Final, NamedTuple

from tests.acceptance.rows import ROWS
from tests.host import defences as machine

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
_REMOVALS: Final = "nsbox/host/network/removals.py"
_PLANS: Final = "tests/unit/service/test_plans.py"
_LEDGER: Final = "tests/unit/store/test_ledger.py"
_NAMED: Final = "nsbox/host/network/named.py"
_ACCOUNTS: Final = "nsbox/service/accounts.py"
_WEBSOCKET: Final = "nsbox/api/websocket.py"
_FRAMES: Final = "tests/unit/api/test_frames.py"
_HEADS_FILE: Final = "nsbox/api/heads.py"
_HEADS: Final = "tests/unit/api/test_heads.py"
_ADMISSION: Final = "nsbox/api/admission.py"
_TENANTS: Final = "tests/security/test_tenants.py"
_API_WALLS: Final = "tests/security/test_api_walls.py"
_LARGE_ANSWERS: Final = "tests/security/test_large_answers.py"
_LARGE_INPUTS: Final = "tests/security/test_large_inputs.py"
_PEERS: Final = "tests/fuzz/test_hostile_peers.py"
_CLOSING: Final = "tests/unit/host/test_closing.py"
_BOX: Final = "nsbox/host/box.py"
_FILES: Final = "nsbox/service/files.py"
_AGENTS: Final = "tests/fuzz/test_hostile_agents.py"
_KEYS: Final = "tests/unit/store/test_keys.py"
_REST: Final = "tests/unit/api/test_accounts.py"
_SCOPES: Final = "tests/unit/api/test_scopes.py"
_LAYERS: Final = "tests/security/test_hostile_layers.py"
_WALLS: Final = "tests/security/test_walls.py"
_TIME: Final = "tests/unit/service/test_time_is_kept.py"
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
        "api: its walls", "nsbox/daemon.py", "    _put_up_walls(orders)\n", "    pass\n",
        (f"{_API_WALLS}::test_the_real_api_stands_behind_them",),
    ),
    Defence(
        "api: its files", "nsbox/host/walls.py", "    if found.landlock:\n", "    if False:\n",
        (f"{_API_WALLS}::test_behind_the_walls",),
    ),
    Defence(
        "api: its system calls", "nsbox/host/walls.py",
        "    libc.seccomp_filter(apicalls.program(os.uname().machine, os.getpid()))\n", "    pass\n",
        (f"{_API_WALLS}::test_behind_the_walls", f"{_API_WALLS}::test_the_real_api_stands_behind_them"),
    ),
    Defence(
        "api: its memory", "nsbox/host/walls.py", "    _bound_memory(found.memory_mb)\n", "    pass\n",
        (f"{_API_WALLS}::test_behind_the_walls", f"{_API_WALLS}::test_the_real_api_stands_behind_them"),
    ),
    Defence(
        "api: input that waits is on disk", "nsbox/api/inputs.py", "if len(data) <= _PIECE:", "if True:",
        (
            f"{_LARGE_INPUTS}::test_stdin_that_no_command_reads_is_not_in_memory",
            f"{_LARGE_INPUTS}::test_what_is_written_to_a_stdin_and_waits_is_not_in_memory",
        ),
    ),
    Defence(
        "api: input ends with its request", "nsbox/api/inputs.py", "data.release()", "pass",
        (
            "tests/unit/api/test_inputs.py::test_it_ends_with_its_request_unless_a_command_took_it",
            "tests/e2e/test_hostile_sandboxes.py::test_others_do_not_notice",
        ),
    ),
    Defence(
        "api: input, and the memory of large requests goes back", "nsbox/host/walls.py",
        "    libc.map_large_blocks(_LARGE_BLOCK)\n", "    pass\n",
        (f"{_LARGE_INPUTS}::test_stdin_that_no_command_reads_is_not_in_memory",),
    ),
    Defence(
        "api: large output is sent as it is read", "nsbox/service/jobs.py",
        "if end - log.start > CHUNK:", "if end - log.start > 1 << 60:",
        (f"{_LARGE_ANSWERS}::test_who_does_not_read_has_no_answer_in_memory[exec]",),
    ),
    Defence(
        "api: large files are sent as they are read", "nsbox/api/contents.py",
        "_SMALL = 64 * 1024\n", "_SMALL = 1 << 30\n",
        (f"{_LARGE_ANSWERS}::test_who_does_not_read_has_no_answer_in_memory[file]",),
    ),
    Defence(
        "api: pages of logs are sent as they are read", "nsbox/api/gradual.py",
        "        if len(self._waiting) < _PIECE:\n", "        if True:\n",
        (f"{_LARGE_ANSWERS}::test_who_does_not_read_has_no_answer_in_memory[log]",),
    ),
    Defence(
        "http: large bodies come in on disk", "nsbox/api/bodies.py",
        "            if len(body) > _LARGE:\n", "            if False:\n",
        ("tests/unit/api/test_turns.py::test_slow_large_bodies_of_many_users_keep_nobody_waiting",
         "tests/security/test_slow_clients.py::test_large_bodies_that_come_slowly"),
    ),
    Defence(
        "keeper: answers that do not fit", "nsbox/keeper/main.py",
        "except (OSError, PacketTooLarge):", "except OSError:",
        (f"{_PEERS}::test_an_answer_that_is_too_long_costs_api_its_connection_only",),
    ),
    Defence(
        "hostile: nobody waits when what a sandbox sent is closed", "nsbox/host/closing.py",
        "signal.setitimer(signal.ITIMER_REAL, _AT_MOST, _AT_MOST)", "pass",
        (f"{_CLOSING}::test_a_socket_that_lingers", f"{_CLOSING}::test_it_is_never_read"),
    ),
    Defence(
        "hostile: nothing lies in keeper's sockets", "nsbox/keeper/boxes.py",
        "self.control.shutdown(socket.SHUT_RD)", "pass",
        ("tests/unit/keeper/test_core.py::test_a_running_sandbox_cannot_say_anything",),
    ),
    Defence(
        "hostile: a backlog is not waited for", "nsbox/host/endpoint.py",
        "            sock.setblocking(False)\n            sock.connect(", "            sock.connect(",
        (f"{_CLOSING}::test_a_backlog_that_is_full_is_not_waited_for",),
    ),
    Defence(
        "hostile: descriptors that nobody asked for are the last", _BOX,
        "if descriptors and not self._was_asked(message):", "if False:",
        ("tests/unit/host/test_box.py::test_an_agent_that_comes_late_is_let_go_and_ends_nothing",),
    ),
    Defence(
        "hostile: a flood ends", _BOX, "while self._may_say > 0:", "while True:",
        ("tests/fuzz/test_hostile_init.py::test_a_flood_costs_no_memory_and_leaves_the_others_their_turn",),
    ),
    Defence(
        "hostile: the words of a command are text", _BOX,
        'word[:left].encode("utf-8", "replace").decode()', "word[:left]",
        ("tests/fuzz/test_hostile_commands.py::test_whatever_init_says_was_begun",),
    ),
    Defence(
        "hostile: a listing has a size", _FILES, "if size > _LONGEST_LISTING:", "if False:",
        (f"{_AGENTS}::test_a_listing_is_bounded[long rows]",),
    ),
    Defence(
        "hostile: a listing has an end", _FILES, "if not answer.rows:", "if False:",
        (f"{_AGENTS}::test_a_listing_is_bounded[nothing]",),
    ),
    Defence(
        "hostile: what is written to is of a mount", "nsbox/host/agents.py",
        "if plain and not (mounted and told.st_dev == _of_no_mount()):", "if plain:",
        ("tests/unit/host/test_agents.py::test_what_is_written_to_is_of_a_mount",),
    ),
    Defence(
        "hostile: a mode has twelve bits", "nsbox/inside/files.py", "mode & 0o7777", "mode",
        (f"{_AGENTS}::test_whatever_an_agent_is_asked",),
    ),
    Defence(
        "http: a message that was too large ends its connection", _WEBSOCKET,
        "                    await self._send_wsproto_event(CloseConnection(code=code))\n"
        "                    await self._leave()\n",
        "                    await self._send_wsproto_event(CloseConnection(code=code))\n",
        (f"{_FRAMES}::test_a_message_that_was_too_large_is_not_collected",),
    ),
    Defence(
        "http: messages are bounded", _WEBSOCKET, "> MAX_MESSAGE:", "> 1 << 62:",
        (f"{_FRAMES}::test_a_violation_ends_the_connection_with_its_code[too large]",),
    ),
    Defence(
        "http: empty frames are counted", _WEBSOCKET, "elif self._frames >= MAX_FRAMES:", "elif False:",
        (f"{_FRAMES}::test_a_violation_ends_the_connection_with_its_code[endless empty pieces]",),
    ),
    Defence(
        "http: what is no frame is told with its code", _WEBSOCKET,
        "                await self._send_wsproto_event(event.response())\n"
        "                await self._leave()\n",
        "                await self._leave()\n",
        (f"{_FRAMES}::test_a_violation_ends_the_connection_with_its_code[not masked]",),
    ),
    Defence(
        "http: no compression of WebSockets", _WEBSOCKET,
        'if pair[0] != b"sec-websocket-extensions"', "if True",
        (f"{_FRAMES}::test_compression_is_not_taken_up",),
    ),
    Defence(
        "http: a refused upgrade ends the connection", _WEBSOCKET,
        "if isinstance(event, Request) and self.closed:", "if False:",
        (f"{_FRAMES}::test_a_refused_upgrade_ends_the_connection[version]",),
    ),
    Defence(
        "http: a WebSocket ends when its client leaves", _WEBSOCKET,
        "            self._over.set()\n", "            pass\n",
        (f"{_FRAMES}::test_a_client_that_leaves_without_a_word_leaves_nothing_behind",),
    ),
    Defence(
        "http: a head has so many fields", _HEADS_FILE, "if lines > MAX_FIELDS:", "if False:",
        (f"{_HEADS}::test_a_flood_of_fields_is_not_parsed",),
    ),
    Defence(
        "http: lines end with CRLF", _HEADS_FILE, 'if head.count(b"\\n") != lines:', "if False:",
        (f"{_HEADS}::test_what_is_read_in_two_ways_is_refused[bare LF]",),
    ),
    Defence(
        "http: one length", _HEADS_FILE, 'if b"transfer-encoding" in names and', "if False and",
        (f"{_HEADS}::test_what_is_read_in_two_ways_is_refused[length and chunks]",),
    ),
    Defence(
        "http: methods as they are written", _HEADS_FILE, "if not request.method.isupper():", "if False:",
        (f"{_HEADS}::test_what_is_read_in_two_ways_is_refused[a method in lower case]",),
    ),
    Defence(
        "http: the share of an address", "nsbox/api/server.py", "if self._shares.full(share):", "if False:",
        ("tests/unit/api/test_server.py::test_a_client_has_its_share_of_the_places",),
    ),
    Defence(
        "http: the share of a visitor", "nsbox/proxy/server.py", "if shares.full(share):", "if False:",
        ("tests/unit/proxy/test_server.py::test_a_visitor_has_a_share_of_the_places",),
    ),
    Defence(
        "http: who was refused is idle", "nsbox/api/connection.py", "if self._refuses(event):", "if False:",
        ("tests/unit/api/test_server.py::test_who_was_refused_has_no_claim_to_a_place",),
    ),
    Defence(
        "http: requests of a user", _ADMISSION, "if self._working[user] >= self._most_at_once:", "if False:",
        (
            "tests/unit/api/test_admission.py::test_a_user_has_so_many_requests_at_once",
            "tests/security/test_slow_clients.py::test_a_slow_tenant_has_so_many_requests_and_no_more",
        ),
    ),
    Defence(
        "http: turns of a user", "nsbox/api/turns.py",
        "async with one.turn:", "if True:",
        ("tests/unit/api/test_turns.py::test_one_user_leaves_turns_for_others",),
    ),
    Defence(
        "http: bodies by operation", "nsbox/api/bodies.py", "self._limits.get(operation, caps.SMALL)",
        "max(self._limits.values())",
        ("tests/unit/api/test_turns.py::test_a_route_takes_no_more_than_it_has_a_use_for[True]",),
    ),
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
        "client: output that is known does not come twice", "nsbox/client/outputs.py",
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
        "closed connections leave the table soon", _MAIN, "_CLOSED: Final = 10\n", "_CLOSED: Final = 120\n",
        (f"{_REACH}::test_the_connection_table_is_not_filled_by_one",),
    ),
    Defence(
        "connections that are half closed keep their ports", _MAIN,
        "_HALF_CLOSED, _CLOSING = 7_300, 70", "_HALF_CLOSED, _CLOSING = 120, 30",
        (f"{_REACH}::test_the_connection_table_is_not_filled_by_one",),
    ),
    Defence(
        "connections end with their sandbox", _REMOVALS,
        "connections.end(one.connection for one in connections.known(self._tracker, link))", "pass",
        (
            f"{_REACH}::test_connections_of_a_killed_sandbox_are_in_nobodys_way[11.22.33.44]",
            f"{_REACH}::test_connections_of_a_killed_sandbox_are_in_nobodys_way[2a0a:1234::44]",
        ),
    ),
    Defence(
        "connections that go on under a new policy stay known", _PORTS,
        "connections.drop(self._tracker, over)", "connections.drop(self._tracker, there)",
        (f"{_REACH}::test_connections_of_a_killed_sandbox_are_in_nobodys_way[11.22.33.44]",),
    ),
    Defence(
        "connections that a new policy refuses are not held", _PORTS,
        "connections.end(one.connection for one in over)", "pass",
        (
            f"{_REACH}::test_connections_that_a_new_policy_refuses_are_not_held[wish0-0]",
            f"{_REACH}::test_connections_that_a_new_policy_refuses_are_not_held[wish3-0]",
            f"{_REACH}::test_connections_that_a_new_policy_refuses_are_not_held[wish4-0]",
        ),
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
        "connections meet a policy that changes", _PORTS,
        "self._look_again(port.slot, earlier, wanted)", "pass",
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
        "scopes of all else", "nsbox/api/middleware.py",
        'scopes.check(caller, method, self._rule_of(method, exchange.scope["path"]))', "pass",
        (f"{_SCOPES}::test_a_route_that_was_forgotten_is_refused", _EVERY_KEY),
    ),
    Defence(
        "scopes before bodies", "nsbox/api/middleware.py",
        '        scopes.check(caller, method, self._rule_of(method, exchange.scope["path"]))\n'
        "        body = await self._bodies",
        "        body = await self._bodies",
        (f"{_SCOPES}::test_who_may_not_is_told_so_whatever_the_body_is",),
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
        "what is under way ends with its key", "nsbox/api/ongoing.py",
        "return now is not None and (", "return True or (",
        (
            "tests/unit/api/test_ongoing.py::test_only_what_the_key_has_begun_ends",
            "tests/e2e/test_accounts.py::test_a_revoked_key_ends_its_terminal",
        ),
    ),
    Defence(
        "what is answered is in the audit log", "nsbox/service/audit.py",
        "self._in_file(lambda: self._tail.add(event))", "pass",
        ("tests/unit/service/test_audit.py::test_what_was_noted_outlives_a_crash_and_is_written_once",),
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
        "layers: names that lead out of their folder", "nsbox/oci/unpacking/tree.py",
        'if not name or b".." in parts:', "if not name:",
        (
            f"{_LAYERS}::test_nothing_outside_changes[dot-dot-that-stays-inside]",
            f"{_LAYERS}::test_nothing_outside_changes[dot-dot]",
        ),
    ),
    Defence(
        "layers: what comes out of a blob is bounded by what went in", "nsbox/oci/unpacking/stream.py",
        "if total > RATIO_FLOOR and total >", "if False and total >",
        ("tests/security/test_unpack_bombs.py::test_within_the_caps[gzip:-4-GiB-of-zeros]",),
    ),
    # As a rename by the path that was asked for would do, which somebody may have changed since.
    Defence(
        "files: an upload lands in the folder that it began in", "nsbox/inside/files.py",
        "os.rename(replacement.temporary, replacement.name, src_dir_fd=where, dst_dir_fd=where)",
        'os.rename(replacement.temporary, f"/up/{replacement.name}", src_dir_fd=where)',
        ("tests/security/test_file_races.py::test_a_parent_that_is_swapped_while_an_upload_runs",),
    ),
    # Of row 3 the one wall that no other stands behind: descriptors are also closed one by one as they are
    # made, and what init shows of itself is also kept by the ids of its namespace.
    Defence(
        "the host's name stays outside", "nsbox/inside/init.py",
        "socket.sethostname(launch.hostname)", "pass",
        (f"{_WALLS}::test_nothing_of_the_host_is_there",),
    ),
    Defence(
        "sandboxes are adopted by the next api", "nsbox/service/sandboxes.py",
        "elif record.state is State.CREATING or not await self._reattach(live):", "else:",
        ("tests/e2e/test_life.py::test_sandboxes_outlive_api[SIGKILL]",),
    ),
    Defence(
        "keeper ends with its lifeline", "nsbox/keeper/main.py",
        "self.add(self._config.lifeline, self._end)", "pass",
        ("tests/kernel/test_keeper.py::test_when_keeper_ends_everything_ends[lifeline]",),
    ),
    Defence(
        "seccomp: pairs of sockets of other families", "nsbox/kernel/seccomp.py",
        '"socketpair": Switch(0, {_AF_UNIX: Verdict.ALLOW}, Verdict.EAFNOSUPPORT)',
        '"socketpair": Verdict.ALLOW',
        ("tests/kernel/test_seccomp.py::test_socket_families",),
    ),
    Defence(
        "logs go with their sandbox", "nsbox/service/commands.py",
        "self._nursery.start_soon(trio.to_thread.run_sync, jobs.shelf.clear)", "pass",
        ("tests/e2e/test_soak.py::test_nothing_is_left_of_many",),
    ),
    Defence(
        "slow heads are cut", "nsbox/api/server.py",
        "self._settings.header_timeout_s,\n            self._settings.keep_alive_s,",
        "60.0,\n            self._settings.keep_alive_s,",
        ("tests/unit/api/test_server.py::test_slow_heads_are_cut",),
    ),
    Defence(
        "previews: a body has one length", "nsbox/proxy/head.py",
        'raise MalformedError("Content-Length and Transfer-Encoding together")\n    host =',
        "pass\n    host =",
        ("tests/unit/proxy/test_head.py::test_what_could_be_read_in_two_ways_is_refused[both]",),
    ),
    Defence(
        "a flag is true or false", "nsbox/api/query.py",
        'if value not in (b"true", b"false"):', "if False:",
        (
            "tests/e2e/test_schemathesis.py"
            "::test_no_question_that_the_document_allows_or_forbids_is_answered_otherwise",
        ),
    ),
    Defence(
        "sandboxes that ended leave the list", "nsbox/service/sandboxes.py",
        "return await self._registry.records(owner, states)",
        "return await self._registry.records(owner, frozenset(State))",
        ("tests/e2e/test_model.py::test_a_daemon_and_its_model",),
    ),
    Defence(
        "a host that runs short is told as such", "nsbox/api/problems.py",
        "*{errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN},\n"
        "        *{errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS},", "0,",
        ("tests/e2e/test_injected_errors.py::test_a_call_that_fails[Create-api]",),
    ),
    Defence(
        "one Idempotency-Key makes one sandbox", "nsbox/service/creations.py",
        "return await self._once.do(owner, request, earlier, work)", "return await work()",
        (
            "tests/e2e/test_duplicates.py::test_one_idempotency_key_many_times_at_once",
            "tests/unit/service/test_creations.py::test_asked_for_twice_at_once_and_later",
        ),
    ),
    Defence(
        "time: deadlines are looked at after sleep", "nsbox/service/sandboxes.py",
        "trio.move_on_after(min([1.0, *(deadline - now for deadline in later)]))",
        "trio.move_on_after(min([3600.0, *(deadline - now for deadline in later)]))",
        (f"{_TIME}::test_sleep_counts",),
    ),
    Defence(
        "time: deadlines are of a clock that nobody sets", "nsbox/service/sandboxes.py",
        "live.record.deadline <= now\n", "live.record.expires_at <= clock.wall()\n",
        (
            f"{_TIME}::test_a_clock_that_is_set_ends_nothing_early_or_late[86400.0]",
            f"{_TIME}::test_another_boot",
        ),
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
        "what a command sees: its own environment", "nsbox/plan/launch.py",
        "{**template, **sandbox, **command}",
        '{**__import__("os").environ, **template, **sandbox, **command}',
        (f"{_WALLS}::test_the_environment_is_what_it_should_be",),
    ),
    Defence(
        "what a command sees: its own /proc", "nsbox/inside/rootfs.py",
        'mounts.mount_new("proc", f"{STAGING}/proc", attributes=_QUIET)',
        'libc.mount(b"/proc", f"{STAGING}/proc".encode(), None, libc.MS_BIND)',
        (f"{_LEAKS}::test_nothing_that_is_the_hosts_is_seen",),
    ),
    Defence(
        "what a command sees: its own /sys", "nsbox/inside/rootfs.py",
        'mounts.mount_new("sysfs", f"{STAGING}/sys", attributes=_QUIET | libc.MOUNT_ATTR_RDONLY)',
        'libc.mount(b"/sys", f"{STAGING}/sys".encode(), None, libc.MS_BIND | 16384)',
        (f"{_LEAKS}::test_what_a_command_is_given_is_its_own",),
    ),
    Defence(
        "what a command sees: the old root is let go of", "nsbox/kernel/mounts.py",
        '    libc.umount(b".")\n', "    pass\n",
        (f"{_LEAKS}::test_what_a_command_is_given_is_its_own",),
    ),
    Defence(
        "what a command sees: nothing of process 1", "nsbox/kernel/namespaces.py", "    libc.stay_hidden()\n",
        "    libc._prctl(4, libc._word(1), libc._ZERO, libc._ZERO, libc._ZERO)\n",
        (
            f"{_WALLS}::test_process_1_shows_nothing",
            f"{_LEAKS}::test_processes_of_nsbox_show_and_take_nothing",
        ),
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
    # The last line alone: a test that failed may have shown somebody else's counts.
    last = done.stdout.rstrip().rpartition("\n")[2]
    found = {kind: int(count) for count, kind in re.findall(r"(\d+) (failed|passed|error)", last)}
    # An error is no verdict: something else broke.
    said = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    failed = 0 if "error" in found else found.get("failed", 0)
    told = "\n".join(said) or (done.stdout + done.stderr)[-2_000:]
    return Verdict(failed, found.get("passed", 0), told)


def listed() -> Iterator[str]:
    """Row, defence, tests; and at the end the defences that belong to no row."""
    named = {one.name: one for one in DEFENCES}
    on_machine = {f"host:{one.name}": one for one in machine.DEFENCES}
    for row in ROWS:
        yield f"row {row.number}: {row.name}"
        for name in row.defences:
            known = named.get(name) or on_machine[name]
            where = "sh scripts/test-host --defence-off" if name in on_machine else "sh scripts/defences"
            yield f"    {where} {shlex.quote(name.removeprefix('host:'))}"
            yield from (f"        {test}" for test in known.tests)
    yield "of no row:"
    of_rows = {name for row in ROWS for name in row.defences}
    yield from (f"    {one.name}" for one in DEFENCES if one.name not in of_rows)


def _is_meant(defence: Defence, words: list[str]) -> bool:
    of_rows = {f"row:{row.number}" for row in ROWS if defence.name in row.defences}
    return not words or any(word in of_rows or word in defence.name for word in words)


def main(words: list[str]) -> int:
    """1 when a test did not notice."""
    if words == ["--list"]:
        print("\n".join(listed()))
        return 0
    if os.geteuid() != 0:
        raise SystemExit("the tests' hosts are made by root")
    chosen = [one for one in DEFENCES if _is_meant(one, words)]
    if not chosen:
        raise SystemExit(f"no defence is called so: {words}; --list has them")
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
