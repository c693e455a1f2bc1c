"""The acceptance list: what is tried, which tests try it, and which defences they must miss.

Each test that is named here says a figure of its part by the fixture ``figure``; one that says none fails.
What a row's figure counts is named by ``tried`` and ``bad``, and what is bad must be 0. ``defences`` are
names of ``tests/security/defences.py``, and with ``host:`` before them of ``tests/host/defences.py``: each is
taken out by a command, and a test of the row fails then. ``tests/unit/test_acceptance.py`` holds it so.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Part(NamedTuple):
    """Tests of one figure. A row that has one part has no name for it."""

    name: str
    tried: str
    bad: str
    tests: tuple[str, ...]


class Row(NamedTuple):
    number: int
    name: str
    parts: tuple[Part, ...]
    defences: tuple[str, ...]


def _row(number: int, name: str, tried: str, bad: str, tests: tuple[str, ...], *defences: str) -> Row:
    return Row(number, name, (Part("", tried, bad, tests),), defences)


_WALLS: Final = "tests/security/test_walls.py"
_LEAKS: Final = "tests/security/test_leaks.py"
_SECCOMP: Final = "tests/kernel/test_seccomp.py"
_REACH: Final = "tests/security/test_reach.py"
_TENANTS: Final = "tests/security/test_tenants.py"
_LIFE: Final = "tests/e2e/test_life.py"
_EXEC: Final = "tests/e2e/test_exec.py"
_MEMORY: Final = "tests/limits/test_memory.py"
_QUOTA: Final = "tests/limits/test_quota.py"
_WATCHED: Final = "tests/limits/test_watched.py"
_SERVER: Final = "tests/unit/api/test_server.py"
_TIME: Final = "tests/unit/service/test_time_is_kept.py"

ROWS: Final = (
    _row(
        1, "hostile layers", "archives", "escapes",
        (
            "tests/security/test_hostile_layers.py::test_nothing_outside_changes",
            "tests/security/test_hostile_layers.py::test_fuzzed_archives",
        ),
        "layers: names that lead out of their folder",
    ),
    _row(
        2, "file API against a racer", "operations", "hits",
        (
            "tests/security/test_file_races.py::test_a_racer_leads_nobody_out",
            "tests/security/test_file_races.py::test_a_parent_that_is_swapped_while_an_upload_runs",
        ),
        "files: an upload lands in the folder that it began in",
    ),
    _row(
        3, "what a command sees of the host", "places", "leaks",
        (
            f"{_WALLS}::test_three_descriptors", f"{_WALLS}::test_three_descriptors_in_the_background_too",
            f"{_WALLS}::test_the_environment_is_what_it_should_be", f"{_WALLS}::test_process_1_shows_nothing",
            f"{_WALLS}::test_nsboxs_own_processes_show_nothing",
            f"{_WALLS}::test_nothing_of_the_host_is_there",
            f"{_LEAKS}::test_nothing_that_is_the_hosts_is_seen",
            f"{_LEAKS}::test_what_a_command_is_given_is_its_own",
            f"{_LEAKS}::test_all_namespaces_are_its_own",
            f"{_LEAKS}::test_processes_of_nsbox_show_and_take_nothing",
        ),
        "the host's name stays outside", "what a command sees: masks", "what a command sees: descriptors",
        "what a command sees: its own cgroup is the root", "what a command sees: its own environment",
        "what a command sees: its own /proc", "what a command sees: its own /sys",
        "what a command sees: the old root is let go of", "what a command sees: nothing of process 1",
    ),
    Row(
        4, "kill -9 of api",
        (
            Part(
                "at its steps", "kills", "lost, doubled or left",
                ("tests/e2e/test_fault_points.py::test_api_killed_at_every_step",),
            ),
            Part(
                "at any time", "kills", "lost or left",
                (f"{_LIFE}::test_api_killed_at_random_under_load", f"{_LIFE}::test_sandboxes_outlive_api"),
            ),
            Part(
                "beside hostile inits", "hostile sandboxes", "others lost",
                ("tests/e2e/test_hostile_sandboxes.py::test_a_new_api_starts_beside_them",),
            ),
        ),
        ("sandboxes are adopted by the next api",),
    ),
    _row(
        5, "kill -9 of keeper", "processes", "survivors",
        (
            f"{_LIFE}::test_when_keeper_goes_everything_goes",
            "tests/kernel/test_keeper.py::test_when_keeper_ends_everything_ends",
        ),
        "keeper ends with its lifeline",
    ),
    _row(
        6, "another tenant's ids", "pairs of route and id", "crossings",
        (
            f"{_TENANTS}::test_every_route_with_her_ids",
            f"{_TENANTS}::test_his_own_sandbox_does_not_lead_to_her_things",
        ),
        "a sandbox is its user's", "a snapshot is its user's", "a key is its user's",
    ),
    _row(
        7, "system calls, families, architectures", "attempts", "not answered as specified",
        (
            f"{_SECCOMP}::test_every_refused_call_says_eperm", f"{_SECCOMP}::test_calls_that_do_not_exist",
            f"{_SECCOMP}::test_socket_families", f"{_SECCOMP}::test_socket_protocols",
            f"{_SECCOMP}::test_no_new_namespaces", f"{_SECCOMP}::test_the_32_bit_entry_kills_and_bites",
            f"{_SECCOMP}::test_terminal_tricks_are_refused_whatever_the_upper_half_says",
            f"{_WALLS}::test_ways_out_are_refused",
            "tests/security/test_denied.py::test_all_that_is_refused_is_refused",
        ),
        "seccomp: pairs of sockets of other families",
    ),
    _row(
        8, "egress to what is inside", "attempts", "reached",
        (
            f"{_REACH}::test_nothing_inside_is_reached", f"{_REACH}::test_a_name_that_is_bound_anew",
            f"{_REACH}::test_names_that_point_inside",
        ),
        "ranges that are inside", "what is inside is refused before names are looked at",
    ),
    _row(
        9, "create, exec, delete, many times", "rounds", "left over",
        ("tests/e2e/test_soak.py::test_nothing_is_left_of_many",),
        "logs go with their sandbox",
    ),
    Row(
        10, "exhaustion",
        (
            Part(
                "fork bomb", "processes", "left",
                (f"{_EXEC}::test_a_fork_bomb_is_bounded",
                 "tests/limits/test_processes.py::test_processes_end_at_the_limit"),
            ),
            Part(
                "memory bomb", "commands", "beyond its limit",
                (f"{_MEMORY}::test_the_command_that_overran_is_ended",
                 f"{_MEMORY}::test_init_outlives_a_swarm"),
            ),
            Part(
                "disk fill", "sandboxes", "beyond their limit",
                (f"{_QUOTA}::test_bytes_end_at_the_limit_and_df_says_so",
                 f"{_WATCHED}::test_what_writes_beyond_it_is_ended_and_told"),
            ),
            Part(
                "inode fill", "sandboxes", "beyond their limit",
                (f"{_QUOTA}::test_inodes_end_too", f"{_WATCHED}::test_inodes_too"),
            ),
            Part(
                "output flood", "MB", "bytes unaccounted for",
                ("tests/e2e/test_durable.py::test_a_flood_is_bounded_and_every_byte_accounted_for",),
            ),
            Part(
                "neighbours", "spinning sandboxes", "that doubled a p99",
                ("tests/limits/test_neighbours.py::test_another_waits_no_more_than_twice_as_long",),
            ),
        ),
        ("host:memory.max", "host:pids.max", "host:quota", "host:storage-watcher", "host:neighbours"),
    ),
    Row(
        11, "slow heads, bodies and readers",
        (
            Part(
                "cut", "connections", "that were kept",
                (f"{_SERVER}::test_slow_heads_are_cut", f"{_SERVER}::test_slow_bodies_are_cut",
                 f"{_SERVER}::test_readers_that_stall_are_cut"),
            ),
            Part(
                "the others", "slow connections", "errors of others",
                ("tests/security/test_slow_clients.py::test_the_others_are_served",),
            ),
        ),
        ("slow heads are cut",),
    ),
    _row(
        12, "schemathesis on the OpenAPI document", "requests", "faults or untrue answers",
        ("tests/e2e/test_schemathesis.py"
         "::test_no_question_that_the_document_allows_or_forbids_is_answered_otherwise",),
        "a flag is true or false",
    ),
    _row(
        13, "a daemon and its model", "steps", "mismatches",
        ("tests/e2e/test_model.py::test_a_daemon_and_its_model",),
        "sandboxes that ended leave the list",
    ),
    _row(
        14, "system calls that fail", "injections", "left over",
        ("tests/e2e/test_injected_errors.py::test_a_call_that_fails",),
        "a host that runs short is told as such",
    ),
    Row(
        15, "rollback, duplicates",
        (
            Part(
                "failing creates", "creates", "left over",
                ("tests/e2e/test_faults.py::test_a_create_that_fails_leaves_nothing",),
            ),
            Part(
                "duplicates at once", "requests", "effects too many",
                ("tests/e2e/test_duplicates.py::test_one_idempotency_key_many_times_at_once",
                 "tests/e2e/test_duplicates.py::test_deletes_at_once",
                 "tests/e2e/test_duplicates.py::test_pauses_and_resumes_at_once"),
            ),
        ),
        ("one Idempotency-Key makes one sandbox",),
    ),
    _row(
        16, "bombs", "archives", "beyond the caps",
        (
            "tests/security/test_unpack_bombs.py::test_within_the_caps",
            "tests/security/test_unpack_bombs.py::test_a_blob_that_never_comes",
        ),
        "layers: what comes out of a blob is bounded by what went in",
    ),
    _row(
        17, "clocks that are set, sleep, another boot", "sandboxes", "ended early or late",
        (
            f"{_TIME}::test_a_clock_that_is_set_ends_nothing_early_or_late", f"{_TIME}::test_sleep_counts",
            f"{_TIME}::test_another_boot",
        ),
        "time: deadlines are looked at after sleep",
        "time: deadlines are of a clock that nobody sets",
    ),
    _row(
        18, "malformed HTTP, JSON, paths", "inputs", "not answered with 4xx",
        (
            f"{_SERVER}::test_malformed_requests",
            "tests/security/test_malformed.py::test_malformed_requests_harm_nobody",
            "tests/unit/proxy/test_head.py::test_what_could_be_read_in_two_ways_is_refused",
            "tests/e2e/test_ports.py::test_malformed_requests_do_no_harm",
        ),
        "previews: a body has one length",
    ),
)  # fmt: skip


def named() -> tuple[str, ...]:
    """Every test of the list, once, in its order."""
    return tuple(dict.fromkeys(one for row in ROWS for part in row.parts for one in part.tests))


def parts_of(test: str) -> frozenset[tuple[int, str]]:
    """Rows and parts of a test that is named without its parameters."""
    return frozenset(
        (row.number, part.name) for row in ROWS for part in row.parts if test in part.tests
    )  # fmt: skip
