"""
The profile of containers that ask for no other: a list of what is allowed.

What is not on it is what a container has no use for, or what has been a way out of one: calls about what is not of the
container (mounts, namespaces, keys, the clock, the machine), and large parts of the kernel that few have looked at
(io_uring, bpf, userfaultfd, most kinds of sockets). Refused is with EPERM, unless a program goes on better with
another error. Calls that need a capability are allowed to containers that keep it, as moby has it.

moby and containers-common have such profiles, which their users have tested for years; in what is not obvious this one
is like theirs: github.com/moby/profiles, seccomp/default.json; github.com/containers/common, pkg/seccomp.
"""

from __future__ import annotations

import errno
import socket
import termios
from functools import lru_cache

from pysuper.seccomp.calls import NUMBERS
from pysuper.seccomp.profile import ALLOW, ENOSYS, Action, Condition, Operator, Profile, Rule, Verdict

__all__ = ["default_profile"]

_FILES = """
    access chdir chmod chown close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 fadvise64
    fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr file_getattr file_setattr
    flistxattr flock fremovexattr fsetxattr fstat fstatfs fsync ftruncate futimesat getcwd getdents getdents64
    getxattr getxattrat lchown lgetxattr link linkat listmount listxattr listxattrat llistxattr lremovexattr lseek
    lsetxattr lstat mkdir mkdirat mknod mknodat name_to_handle_at newfstatat open openat openat2 pipe pipe2 pread64
    preadv preadv2 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv removexattr removexattrat
    rename renameat renameat2 rmdir sendfile setxattr setxattrat splice stat statfs statmount statx symlink
    symlinkat sync sync_file_range syncfs tee truncate umask unlink unlinkat utime utimensat utimes vmsplice write
    writev
"""
_EVENTS = """
    epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 fanotify_mark
    inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents
    io_setup io_submit poll ppoll pselect6 select signalfd signalfd4 timerfd_create timerfd_gettime timerfd_settime
"""
_MEMORY = """
    brk cachestat madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall mmap
    mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect remap_file_pages
"""
#: ptrace(2) too: it reaches no process that the caller could not change otherwise, and not the init, which is not
#: dumpable. Since Linux 4.8 a tracer cannot let a call pass that a filter refuses.
_PROCESSES = """
    arch_prctl execve execveat exit exit_group fork futex futex_requeue futex_wait futex_waitv futex_wake
    get_robust_list getcpu getpgid getpgrp getpid getppid getpriority getrandom getrlimit getrusage getsid gettid
    ioprio_get ioprio_set kill pidfd_open pidfd_send_signal prctl prlimit64 process_mrelease ptrace restart_syscall
    rseq rseq_slice_yield sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr
    sched_getparam sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam
    sched_setscheduler sched_yield set_robust_list set_tid_address setpgid setpriority setrlimit setsid sysinfo
    tgkill times tkill uname uprobe uretprobe vfork wait4 waitid
"""
_SIGNALS_AND_TIME = """
    adjtimex alarm clock_adjtime clock_getres clock_gettime clock_nanosleep getitimer gettimeofday nanosleep pause
    rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
    rt_tgsigqueueinfo setitimer sigaltstack time timer_create timer_delete timer_getoverrun timer_gettime
    timer_settime
"""
_PRIVILEGES = """
    capget capset getegid geteuid getgid getgroups getresgid getresuid getuid landlock_add_rule
    landlock_create_ruleset landlock_restrict_self seccomp setfsgid setfsuid setgid setgroups setregid setresgid
    setresuid setreuid setuid
"""
_COMMUNICATION = """
    accept accept4 bind connect getpeername getsockname getsockopt listen mq_getsetattr mq_notify mq_open
    mq_timedreceive mq_timedsend mq_unlink msgctl msgget msgrcv msgsnd recvfrom recvmmsg recvmsg semctl semget semop
    semtimedop sendmmsg sendmsg sendto setsockopt shmat shmctl shmdt shmget shutdown
"""
_ALLOWED = _FILES + _EVENTS + _MEMORY + _PROCESSES + _SIGNALS_AND_TIME + _PRIVILEGES + _COMMUNICATION

#: What the kernel allows only with a capability, or (SYS_PTRACE, SYS_NICE) in full only with it.
_BY_CAPABILITY = {
    "BPF": "bpf",
    "DAC_READ_SEARCH": "open_by_handle_at",
    "PERFMON": "perf_event_open",
    "SYS_ADMIN": """
        bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick listns lookup_dcookie lsm_get_self_attr
        lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree open_tree_attr perf_event_open
        pivot_root quotactl quotactl_fd setdomainname sethostname setns syslog umount2 unshare
    """,
    "SYS_BOOT": "reboot",
    "SYS_CHROOT": "chroot",
    "SYS_MODULE": "delete_module finit_module init_module",
    "SYS_NICE": "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    "SYS_PACCT": "acct",
    "SYS_PTRACE": "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev",
    "SYS_RAWIO": "ioperm iopl",
    "SYS_TIME": "clock_settime settimeofday",
    "SYS_TTY_CONFIG": "vhangup",
    "SYSLOG": "syslog",
}

#: Not AF_ALG and AF_VSOCK, the latter of which no network namespace confines, nor any other that a kernel may load a
#: module for: CAN, RDS, TIPC and their like are where privilege escalations were found.
_FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_PACKET)
#: PER_LINUX, PER_LINUX32, either with UNAME26, and the question which it is; personality(2). Others make exploits
#: easier: ADDR_NO_RANDOMIZE, READ_IMPLIES_EXEC, MMAP_PAGE_ZERO.
_PERSONALITIES = (0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
_REFUSED = Verdict(Action.ERRNO, errno.EPERM)

_TIOCLINUX = 0x541C
#: CLONE_NEW* of sched.h; the first has another meaning for clone(2), whose lowest byte is a signal.
_NEW_TIME = 0x80
_NEW_NAMESPACES = 0x7E020000


@lru_cache
def default_profile(capabilities: tuple[str, ...]) -> Profile:
    """
    The profile of a container.

    Args:
        capabilities: That it keeps, without `CAP_`.
    """
    kept = [name for capability in capabilities for name in _BY_CAPABILITY.get(capability, "").split()]
    return Profile(
        default=_REFUSED,
        rules=(
            Rule((*_ALLOWED.split(), *kept), ALLOW),
            # A new user namespace is a large part of the kernel to attack, and its root can do what ours cannot. The
            # arguments of clone3 are in memory, where no filter sees them; without it the C library uses clone.
            Rule(("clone",), ALLOW, (_bits(0, _NEW_NAMESPACES, 0),)),
            Rule(("clone3",), ENOSYS),
            Rule(("unshare",), ALLOW, (_bits(0, _NEW_NAMESPACES | _NEW_TIME, 0),)),
            *(Rule(("socket", "socketpair"), ALLOW, (_word(0, family),)) for family in _FAMILIES),
            Rule(("socket", "socketpair"), Verdict(Action.ERRNO, errno.EAFNOSUPPORT)),
            # Both write into the input of a terminal, which may be that of somebody else's shell (CVE-2017-5226).
            *(Rule(("ioctl",), _REFUSED, (_word(1, request),)) for request in (termios.TIOCSTI, _TIOCLINUX)),
            Rule(("ioctl",), ALLOW),
            *(Rule(("personality",), ALLOW, (_word(0, persona),)) for persona in _PERSONALITIES),
        ),
        architectures=tuple(NUMBERS),
    )


def _bits(index: int, bits: int, value: int) -> Condition:
    return Condition(index, Operator.MASKED_EQ, bits, value)


def _word(index: int, value: int) -> Condition:
    """Of an argument that is 32 bits long for the kernel, which ignores the others."""
    return _bits(index, 0xFFFFFFFF, value)
