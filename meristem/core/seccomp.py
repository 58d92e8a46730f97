"""A filter of system calls, as bytes for `bwrap --seccomp`: what no program needs and what has broken out before.

Classic BPF over `struct seccomp_data`, linux/seccomp.h and linux/filter.h; numbers from the kernel's own tables,
arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h. Everything else is allowed: namespaces,
limits and a read-only file system do the rest (`core/sandbox.py`). 40 lines instead of a dependency on libseccomp.
"""
import platform
import struct

from meristem.core.errors import MachineError

LOAD, EQUAL, AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06          # ld [k]; jeq k; jge k; ret k
ALLOW, ERRNO, KILL = 0x7FFF0000, 0x00050000, 0x80000000
EPERM, ENOSYS = 1, 38
NUMBER, ARCHITECTURE = 0, 4                                     # offsets in struct seccomp_data
X32 = 0x40000000                                                # the same calls under other numbers
# machine -> (AUDIT_ARCH_*, clone3, {call: number}). Without clone3 glibc uses clone, whose flags namespaces check.
CALLS: dict[str, tuple[int, int, dict[str, int]]] = {
    "x86_64": (0xC000003E, 435, {
        "socket": 41, "shmget": 29, "semget": 64, "msgget": 68, "ptrace": 101, "syslog": 103, "personality": 135,
        "pivot_root": 155, "chroot": 161, "acct": 163, "mount": 165, "umount2": 166, "swapon": 167, "swapoff": 168,
        "reboot": 169, "iopl": 172, "ioperm": 173, "init_module": 175, "delete_module": 176, "quotactl": 179,
        "kexec_load": 246, "add_key": 248, "request_key": 249, "keyctl": 250, "unshare": 272, "perf_event_open": 298,
        "open_by_handle_at": 304, "setns": 308, "process_vm_readv": 310, "process_vm_writev": 311,
        "finit_module": 313, "memfd_create": 319, "kexec_file_load": 320, "bpf": 321, "userfaultfd": 323}),
    "aarch64": (0xC00000B7, 435, {
        "socket": 198, "shmget": 194, "semget": 190, "msgget": 186, "ptrace": 117, "syslog": 116, "personality": 92,
        "pivot_root": 41, "chroot": 51, "acct": 89, "mount": 40, "umount2": 39, "swapon": 224, "swapoff": 225,
        "reboot": 142, "init_module": 105, "delete_module": 106, "quotactl": 60,
        "kexec_load": 104, "add_key": 217, "request_key": 218, "keyctl": 219, "unshare": 97, "perf_event_open": 241,
        "open_by_handle_at": 265, "setns": 268, "process_vm_readv": 270, "process_vm_writev": 271,
        "finit_module": 273, "memfd_create": 279, "kexec_file_load": 294, "bpf": 280, "userfaultfd": 282}),
}
# These have the same number everywhere: io_uring_setup to fspick, pidfd_getfd, mount_setattr, memfd_secret.
EVERYWHERE = (425, 426, 427, 428, 429, 430, 431, 432, 433, 438, 442, 447)


def program(machine: str = "") -> bytes:
    """The filter for this (or a named) machine; MachineError where its system calls are not known here."""
    machine = machine or platform.machine()
    if machine not in CALLS:
        raise MachineError(f"no table of system calls for {machine}, so none can be refused in the sandbox; "
                           f"known: {', '.join(CALLS)}")
    audit, clone3, named = CALLS[machine]
    refused = [*sorted(named.values()), *EVERYWHERE]
    lines = [(LOAD, 0, 0, ARCHITECTURE), (EQUAL, 1, 0, audit), (RETURN, 0, 0, KILL), (LOAD, 0, 0, NUMBER)]
    if machine == "x86_64":
        lines += [(AT_LEAST, 0, 1, X32), (RETURN, 0, 0, ERRNO | EPERM)]
    lines += [(EQUAL, 0, 1, clone3), (RETURN, 0, 0, ERRNO | ENOSYS)]
    lines += [(EQUAL, len(refused) - n, 0, number) for n, number in enumerate(refused)]        # to the last line
    lines += [(RETURN, 0, 0, ALLOW), (RETURN, 0, 0, ERRNO | EPERM)]
    return b"".join(struct.pack("=HBBI", *line) for line in lines)
