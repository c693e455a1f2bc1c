"""The seccomp policy and its compiler, run through an interpreter of the kernel's filter language."""

from __future__ import annotations

import functools
import re
import struct
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsbox.kernel import seccomp, syscalls

MACHINES = ("x86_64", "aarch64")
AUDIT_X86_64, AUDIT_AARCH64, AUDIT_I386, AUDIT_ARM = 0xC000_003E, 0xC000_00B7, 0x4000_0003, 0x4000_0028
NATIVE = {"x86_64": AUDIT_X86_64, "aarch64": AUDIT_AARCH64}

ALLOW, KILL = 0x7FFF_0000, 0x8000_0000
EPERM, ENOSYS, EPROTONOSUPPORT, EAFNOSUPPORT = (0x5_0000 | number for number in (1, 38, 93, 97))
VERDICTS = {"allow": ALLOW, "EPERM": EPERM, "ENOSYS": ENOSYS}

WORDS = st.integers(0, 0xFFFF_FFFF)
NOISE = st.one_of(st.just(0), WORDS)


class Ran(NamedTuple):
    verdict: int
    steps: int


def run(program: bytes, data: bytes) -> Ran:
    """Execute classic BPF over a ``struct seccomp_data``, with only what linux/filter.h defines."""
    code_at = [struct.unpack_from("<HBBI", program, 8 * index) for index in range(len(program) // 8)]
    accumulator, position, steps = 0, 0, 0
    while True:
        code, if_true, if_false, k = code_at[position]
        position, steps = position + 1, steps + 1
        match code:
            case 0x20:  # load a word
                (accumulator,) = struct.unpack_from("<I", data, k)
            case 0x06:
                return Ran(k, steps)
            case 0x05:
                position += k
            case 0x15:
                position += if_true if accumulator == k else if_false
            case 0x35:
                position += if_true if accumulator >= k else if_false
            case 0x45:
                position += if_true if accumulator & k else if_false
            case _:
                raise AssertionError(f"no such instruction: {code:#x}")


@functools.cache
def policy(machine: str) -> bytes:
    return seccomp.compile_policy(machine)


@functools.cache
def numbers(machine: str) -> dict[str, int]:
    return syscalls.numbers(machine)


def verdict(machine: str, call: str | int, *arguments: int, architecture: int | None = None) -> int:
    number = numbers(machine)[call] if isinstance(call, str) else call
    words = [argument & 0xFFFF_FFFF_FFFF_FFFF for argument in arguments] + [0] * (6 - len(arguments))
    data = struct.pack(
        "<IIQ6Q", number, NATIVE[machine] if architecture is None else architecture, 0x7FFF_1234_5678, *words
    )
    return run(policy(machine), data).verdict


# ---------------------------------------------------------------------------------- the whole table


@pytest.mark.parametrize("machine", MACHINES)
def test_every_number_gets_the_verdict_of_the_table(machine: str) -> None:
    expected = {number: text for _, number, text in seccomp.table(machine)}
    checked = 0
    for number in range(601):
        text = expected.get(number, "ENOSYS")
        if text == "checked":
            checked += 1
            continue
        assert verdict(machine, number) == VERDICTS[text], number
        assert verdict(machine, number, *[2**64 - 1] * 6) == VERDICTS[text], number
    assert checked == len(seccomp.CHECKED)


@pytest.mark.parametrize("machine", MACHINES)
@given(number=st.integers(601, 0xFFFF_FFFE))
def test_every_number_beyond_the_table_is_unknown(machine: str, number: int) -> None:
    assert verdict(machine, number) == ENOSYS


@pytest.mark.parametrize("machine", MACHINES)
def test_a_call_that_a_tracer_skipped_is_left_to_the_tracer(machine: str) -> None:
    assert verdict(machine, 0xFFFF_FFFF) == ALLOW


@given(number=st.integers(0, 0x3FFF_FFFE))
def test_no_x32_call_exists(number: int) -> None:
    assert verdict("x86_64", 0x4000_0000 | number) == ENOSYS


@pytest.mark.parametrize("machine", MACHINES)
@given(
    architecture=st.one_of(WORDS, st.sampled_from([AUDIT_X86_64, AUDIT_AARCH64, AUDIT_I386, AUDIT_ARM])),
    number=st.one_of(st.integers(0, 600), WORDS),
)
def test_every_other_architecture_is_killed(machine: str, architecture: int, number: int) -> None:
    expected = verdict(machine, number) if architecture == NATIVE[machine] else KILL
    assert verdict(machine, number, architecture=architecture) == expected


@pytest.mark.parametrize(("machine", "compat"), [("x86_64", AUDIT_I386), ("aarch64", AUDIT_ARM)])
def test_the_32_bit_entry_is_killed(machine: str, compat: int) -> None:
    assert {verdict(machine, number, architecture=compat) for number in range(601)} == {KILL}


def test_each_name_is_decided_once_with_a_reason() -> None:
    decided = [
        name
        for group in (seccomp.ALLOWED, seccomp.REFUSED, seccomp.ABSENT)
        for names in group.values()
        for name in names.split()
    ] + list(seccomp.CHECKED)
    known = {name for machine in MACHINES for name in numbers(machine)}
    assert sorted(decided) == sorted(known)


NEVER = """
    io_uring_setup io_uring_enter io_uring_register userfaultfd bpf perf_event_open keyctl add_key
    request_key kexec_load kexec_file_load init_module finit_module delete_module mount umount2 open_tree
    move_mount fsopen fsconfig fsmount fspick mount_setattr statmount listmount open_tree_attr pivot_root
    setns name_to_handle_at open_by_handle_at quotactl quotactl_fd acct swapon swapoff reboot syslog
    settimeofday clock_settime clock_adjtime adjtimex lookup_dcookie vhangup sethostname setdomainname
"""
NEEDED = """
    read write openat close mmap brk futex execve exit_group wait4 rt_sigreturn restart_syscall ptrace
    process_vm_readv chroot mknodat setuid setgid capset prctl seccomp getrandom connect bind accept4
    pidfd_open close_range faccessat2 epoll_pwait2 memfd_create rseq statx fchmodat2
"""


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    "name",
    NEVER.split(),
)
def test_what_a_sandbox_never_gets(machine: str, name: str) -> None:
    assert verdict(machine, name) == EPERM


@pytest.mark.parametrize("name", ["iopl", "ioperm", "modify_ldt"])
def test_what_a_sandbox_never_gets_on_x86(name: str) -> None:
    assert verdict("x86_64", name) == EPERM


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    "name",
    NEEDED.split(),
)
def test_what_ordinary_programs_need(machine: str, name: str) -> None:
    assert verdict(machine, name) == ALLOW


@pytest.mark.parametrize("machine", MACHINES)
def test_clone3_is_absent_so_that_libc_takes_clone(machine: str) -> None:
    assert verdict(machine, "clone3") == ENOSYS


# ------------------------------------------------------------------------------- calls with arguments

NEW_NAMESPACES = [0x2_0000, 0x200_0000, 0x400_0000, 0x800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000]
THREAD_FLAGS = 0x3D_0F00  # what pthread_create asks for


@pytest.mark.parametrize("machine", MACHINES)
@given(flags=WORDS, noise=NOISE)
def test_clone_makes_processes_and_threads_but_no_namespace(machine: str, flags: int, noise: int) -> None:
    expected = EPERM if any(flags & bit for bit in NEW_NAMESPACES) else ALLOW
    assert verdict(machine, "clone", noise << 32 | flags) == expected


@pytest.mark.parametrize("machine", MACHINES)
def test_clone_one_flag_at_a_time(machine: str) -> None:
    for bit in (1 << shift for shift in range(32)):
        assert verdict(machine, "clone", bit | 17) == (EPERM if bit in NEW_NAMESPACES else ALLOW)
    assert verdict(machine, "clone", THREAD_FLAGS) == ALLOW


@pytest.mark.parametrize("machine", MACHINES)
@given(flags=st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([0, 0x200, 0x400, 0x600, 0x4_0600])))
def test_unshare_allows_only_what_makes_no_namespace(machine: str, flags: int) -> None:
    expected = ALLOW if flags & ~0x4_0600 == 0 else EPERM
    assert verdict(machine, "unshare", flags) == expected


@pytest.mark.parametrize("machine", MACHINES)
def test_unshare_one_flag_at_a_time(machine: str) -> None:
    for bit in (1 << shift for shift in range(64)):
        assert verdict(machine, "unshare", bit) == (ALLOW if bit in (0x200, 0x400, 0x4_0000) else EPERM)


FAMILIES = st.one_of(st.integers(0, 64), WORDS)
PROTOCOLS = st.one_of(st.integers(0, 300), WORDS)


def expected_of_socket(family: int, protocol: int) -> int:
    match family:
        case 1:
            return ALLOW
        case 2 | 10:
            return ALLOW if protocol in (0, 1, 6, 17, 58) else EPROTONOSUPPORT
        case 16:
            return ALLOW if protocol in (0, 4, 15) else EPROTONOSUPPORT
    return EAFNOSUPPORT


@pytest.mark.parametrize("machine", MACHINES)
@given(family=FAMILIES, kind=WORDS, protocol=PROTOCOLS, noise=NOISE)
def test_socket_families(machine: str, family: int, kind: int, protocol: int, noise: int) -> None:
    wide = (noise << 32 | family, kind, noise << 32 | protocol)
    assert verdict(machine, "socket", *wide) == expected_of_socket(family, protocol)


@pytest.mark.parametrize("machine", MACHINES)
def test_every_socket_family_and_protocol(machine: str) -> None:
    for family in range(65):
        for protocol in range(301):
            assert verdict(machine, "socket", family, 1, protocol) == expected_of_socket(family, protocol)


@pytest.mark.parametrize("machine", MACHINES)
@given(family=FAMILIES, noise=NOISE)
def test_socket_pairs_are_local(machine: str, family: int, noise: int) -> None:
    assert verdict(machine, "socketpair", noise << 32 | family) == (ALLOW if family == 1 else EAFNOSUPPORT)


@pytest.mark.parametrize("machine", MACHINES)
@given(request=st.one_of(WORDS, st.sampled_from([0x5412, 0x541C, 0x5423, 0x5413, 0x5401])), noise=NOISE)
def test_ioctl_upper_half_does_not_matter(machine: str, request: int, noise: int) -> None:
    expected = EPERM if request in (0x5412, 0x541C, 0x5423) else ALLOW
    assert verdict(machine, "ioctl", 0, noise << 32 | request) == expected


@pytest.mark.parametrize("machine", MACHINES)
@given(
    persona=st.one_of(WORDS, st.sampled_from([0, 8, 0x2_0000, 0x2_0008, 0x4_0000, 0x40_0000, 0xFFFF_FFFF])),
    noise=NOISE,
)
def test_only_harmless_personalities(machine: str, persona: int, noise: int) -> None:
    harmless = (0, 8, 0x2_0000, 0x2_0008, 0x4_0000, 0xFFFF_FFFF)
    assert verdict(machine, "personality", noise << 32 | persona) == (ALLOW if persona in harmless else EPERM)


# ------------------------------------------------------------------------------------ leaving a rule out


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("left_out", ["mount", "clone3", "ioctl", "socket", "personality"])
def test_one_call_can_be_left_out_and_nothing_else_changes(machine: str, left_out: str) -> None:
    weakened = seccomp.compile_policy(machine, without={left_out})
    hostile = [0xFFFF_0000_5412] * 6
    for number in range(601):
        data = struct.pack("<IIQ6Q", number, NATIVE[machine], 0, *hostile)
        if number == numbers(machine)[left_out]:
            assert run(policy(machine), data).verdict != ALLOW
            assert run(weakened, data).verdict == ALLOW
        else:
            assert run(weakened, data).verdict == run(policy(machine), data).verdict


@pytest.mark.parametrize("machine", MACHINES)
def test_the_architecture_can_be_left_out(machine: str) -> None:
    weakened = seccomp.compile_policy(machine, without={seccomp.FOREIGN})
    assert run(weakened, struct.pack("<IIQ6Q", 0, AUDIT_I386, 0, *[0] * 6)).verdict == ALLOW


@pytest.mark.parametrize("machine", MACHINES)
def test_init_with_its_guard_for_commands_is_the_whole_policy(machine: str) -> None:
    """Of two filters the kernel takes the stricter answer: here killing, then any errno, then allowing."""
    init, guard = seccomp.init_policy(machine), seccomp.clone3_guard(machine)
    strictness = [KILL, ENOSYS, EPERM, EAFNOSUPPORT, EPROTONOSUPPORT, ALLOW]
    differ = []
    for architecture in (NATIVE[machine], AUDIT_I386, AUDIT_ARM):
        for number in [*range(601), 0x4000_0000, 0xFFFF_FFFF]:
            data = struct.pack("<IIQ6Q", number, architecture, 0, *[0x5412] * 6)
            answers = [run(program, data).verdict for program in (init, guard)]
            assert min(answers, key=strictness.index) == run(policy(machine), data).verdict
            if answers[0] != run(policy(machine), data).verdict:
                differ.append(number)
    assert differ == [numbers(machine)["clone3"]]


def test_a_misspelt_rule_is_not_silently_kept() -> None:
    with pytest.raises(ValueError, match="monut"):
        seccomp.compile_policy("x86_64", without={"monut"})


def test_an_unknown_machine_is_named() -> None:
    for function in (seccomp.compile_policy, seccomp.table, syscalls.numbers):
        with pytest.raises(ValueError, match="riscv64"):
            function("riscv64")


# ------------------------------------------------------------------------------------------- the program


@pytest.mark.parametrize("machine", MACHINES)
def test_the_program_is_one_that_the_kernel_takes(machine: str) -> None:
    program = policy(machine)
    length = len(program) // 8
    assert len(program) % 8 == 0
    assert length <= 400  # BPF_MAXINSNS is 4096; all filters of a process together may have 32768
    for index in range(length):
        code, if_true, if_false, k = struct.unpack_from("<HBBI", program, 8 * index)
        assert code in (0x20, 0x06, 0x05, 0x15, 0x35, 0x45)
        if code == 0x20:
            assert k % 4 == 0
            assert k < 64
        distances = {0x05: (k,), 0x06: (), 0x20: (0,)}.get(code, (if_true, if_false))
        assert all(index + 1 + distance < length for distance in distances)


@pytest.mark.parametrize("machine", MACHINES)
def test_the_program_is_shallow(machine: str) -> None:
    def steps(number: int, *arguments: int) -> int:
        words = [*arguments, *[0] * (6 - len(arguments))]
        return run(policy(machine), struct.pack("<IIQ6Q", number, NATIVE[machine], 0, *words)).steps

    plain = [steps(number) for _, number, text in seccomp.table(machine) if text == "allow"]
    assert max(plain) <= 13
    assert steps(numbers(machine)["socket"], 16, 3, 999) <= 22


def test_the_same_policy_gives_the_same_bytes() -> None:
    assert seccomp.compile_policy("x86_64") == seccomp.compile_policy("x86_64")


def test_far_branches_take_a_long_jump() -> None:
    """No subtree is that long today; the next hundred calls may make one so."""
    verdicts = [seccomp.Verdict.ALLOW, seccomp.Verdict.EPERM]
    rules: dict[int, seccomp.Rule] = {number: verdicts[number % 2] for number in range(1500)}
    tree = seccomp._tree(seccomp._intervals(rules))
    program = b"".join(struct.pack("<HBBI", *instruction) for instruction in [(0x20, 0, 0, 0), *tree])
    assert any(instruction[0] == 0x05 for instruction in tree)
    for number in range(1500):
        data = struct.pack("<IIQ6Q", number, 0, 0, *[0] * 6)
        assert run(program, data).verdict == verdicts[number % 2]


# ------------------------------------------------------------------------------- numbers against headers


def header(path: str, pattern: str) -> dict[int, str]:
    try:
        text = Path(path).read_text()
    except OSError as error:
        pytest.skip(f"no kernel headers here to compare with: {error}")
    return {int(number): name for name, number in re.findall(pattern, text, re.MULTILINE)}


def test_x86_64_numbers_are_those_of_the_kernel_headers() -> None:
    stated = header("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", r"^#define __NR_(\w+) (\d+)$")
    ours = {number: name for name, number in numbers("x86_64").items()}
    assert stated.items() <= ours.items()


def test_aarch64_numbers_are_those_of_the_generic_header() -> None:
    stated = header("/usr/include/asm-generic/unistd.h", r"^#define __NR(?:3264)?_(\w+)\s+(\d+)$")
    for number, name in numbers("aarch64").items():
        if number in stated and number != 84:  # 84 has a second name, sync_file_range2, on other machines
            assert stated[number] in (name, name.removeprefix("new"))
    missing = {n for n in stated if n not in numbers("aarch64").values()}
    assert {n for n in missing if not (n == 244 or 403 <= n <= 423)} <= {max(stated)}  # __NR_syscalls


@pytest.mark.parametrize("machine", MACHINES)
def test_no_number_is_given_twice(machine: str) -> None:
    names = [name for name, _, _ in seccomp.table(machine)]
    assert len(set(names)) == len(names)
    assert len(set(numbers(machine).values())) == len(names)
    # a few that anyone can look up, so that a shifted block is seen without headers too
    landmarks = {
        "x86_64": {"read": 0, "seccomp": 317, "rseq": 334, "clone3": 435, "futex_waitv": 449, "mseal": 462},
        "aarch64": {"io_setup": 0, "read": 63, "clone": 220, "wait4": 260, "rseq": 293, "mseal": 462},
    }
    assert landmarks[machine].items() <= numbers(machine).items()
    assert max(numbers(machine).values()) == 469


@pytest.mark.parametrize("machine", MACHINES)
def test_an_allow_list_allows_its_names_and_no_new_code(machine: str) -> None:
    program = seccomp.allow_list(machine, frozenset({"read", "openat", "no_such_call"}))
    for name, number in syscalls.numbers(machine).items():
        data = struct.pack("<IIQ6Q", number, NATIVE[machine], 0, *([0] * 6))
        wanted = ALLOW if name in ("read", "openat", "mmap", "mprotect") else EPERM
        assert run(program, data).verdict == wanted, name
        if name in ("mmap", "mprotect"):
            for protection in (4, 5, 7, 4 | 1 << 32):
                data = struct.pack("<IIQ6Q", number, NATIVE[machine], 0, 0, 0, protection, 0, 0, 0)
                assert run(program, data).verdict == EPERM
    unknown = struct.pack("<IIQ6Q", 100_000, NATIVE[machine], 0, *([0] * 6))
    assert run(program, unknown).verdict == ENOSYS
    foreign = struct.pack("<IIQ6Q", 0, AUDIT_I386, 0, *([0] * 6))
    assert run(program, foreign).verdict == KILL
