"""Thin wrappers of the Linux calls that wall a process in: namespaces, mounts, capabilities, limits, seccomp.

The warmed process and the kernels inside the sandbox load this file by itself, so it imports nothing but the standard
library and nothing of ftlab. Each function does one thing and raises OSError where the kernel refuses.
Left out: cgroups (they are set from outside, in cgroups.py), and everything that is not Linux.
"""

import ctypes
import fcntl
import os
import platform
import resource
import socket
import struct

# unshare(2)
NEWNS, NEWCGROUP, NEWUTS, NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
NEWUSER, NEWPID, NEWNET, NEWTIME = 0x10000000, 0x20000000, 0x40000000, 0x80
# mount(2), umount2(2)
RDONLY, NOSUID, NODEV, NOEXEC, REMOUNT = 1, 2, 4, 8, 32
BIND, REC, PRIVATE = 4096, 16384, 1 << 18
DETACH = 2
# prctl(2)
_PDEATHSIG, _DUMPABLE, _SECCOMP, _CAPBSET_DROP, _NO_NEW_PRIVS, _CAP_AMBIENT = 1, 4, 22, 24, 38, 47
_AMBIENT_CLEAR_ALL, _SECCOMP_FILTER = 4, 2

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name, *arguments):
    """libc's function `name`; OSError, with the call's name, when it returns -1."""
    if getattr(_libc, name)(*arguments) == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _word(number):
    return ctypes.c_ulong(number)


def unshare(flags):
    """Leave the namespaces in `flags` for fresh ones (NEWPID: from the next child on)."""
    _call("unshare", ctypes.c_int(flags))


def enter(descriptor, kind):
    """Go over into the namespace of this `kind` that `descriptor` is open on. NEWUSER: from a process of one thread only."""
    _call("setns", ctypes.c_int(descriptor), ctypes.c_int(kind))


def map_user(inside, outside):
    """In a fresh user namespace: be user and group `inside`, who are `outside` in the namespace above.

    Only a dumpable process may write its own maps.
    """
    for name, text in (("setgroups", "deny"), ("gid_map", f"{inside} {outside} 1"), ("uid_map", f"{inside} {outside} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def mount(source, target, kind=None, flags=0, options=None):
    """mount(2); `kind` is the file system's, None for a bind or a change of flags."""
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, kind, options)]
    try:
        _call("mount", *encoded[:3], _word(flags), encoded[3])
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} ({kind or 'bind'} on {target})") from None


def bind(source, target):
    """Show the file or folder `source`, with the mounts below it, at `target`, which is made.

    What is mounted read-only stays so: a bind takes the flags over, and a user namespace may not lift them.
    """
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "a"):
            pass
    mount(source, target, flags=BIND | REC)


def change_root(folder):
    """Make the mount at `folder` the root, for all processes of this mount namespace; the old one is gone."""
    os.chdir(folder)
    # The old root comes to lie over the new one, from where it can be taken off: pivot_root(2), "pivot_root(".", ".")".
    _call("syscall", ctypes.c_long(_number("pivot_root")), b".", b".")
    _call("umount2", b".", DETACH)
    os.chdir("/")


def loopback_up():
    """Bring `lo` up in a fresh network namespace: what listens there is this sandbox's own."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plug:
        fcntl.ioctl(plug, 0x8914, struct.pack("16sH14x", b"lo", 0x1 | 0x40))  # SIOCSIFFLAGS; IFF_UP | IFF_RUNNING


def die_with_parent():
    """SIGKILL for this process when the thread that made it ends."""
    _call("prctl", _PDEATHSIG, _word(9), _word(0), _word(0), _word(0))


def dumpable(yes):
    """Whether another process of the same user may look into this one (/proc/PID/mem, ptrace)."""
    _call("prctl", _DUMPABLE, _word(int(yes)), _word(0), _word(0), _word(0))


def no_new_privileges():
    """No program that is started from here on gains anything by its set-user-id bit or its capabilities."""
    _call("prctl", _NO_NEW_PRIVS, _word(1), _word(0), _word(0), _word(0))


def become(user):
    """From root to the user and group `user`, for good."""
    _drop_bounds()
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def drop_capabilities():
    """Give all capabilities up, also those that a program started later could get."""
    _drop_bounds()
    _call("prctl", _CAP_AMBIENT, _word(_AMBIENT_CLEAR_ALL), _word(0), _word(0), _word(0))
    header, none = struct.pack("Ii", 0x20080522, 0), struct.pack("6I", *[0] * 6)
    _call("capset", header, none)


def _drop_bounds():
    for capability in range(64):
        try:
            _call("prctl", _CAPBSET_DROP, _word(capability), _word(0), _word(0), _word(0))
        except OSError:  # past the last that this system knows, or no right to (then nothing is there to be bounded)
            return


def limit_resources(processes, file_bytes, data_mib):
    """Bounds of this process and what it starts: processes and threads of this user in this user namespace, bytes of a
    file, and private memory that one process may ask for beyond what it has. None: no bound.

    Address space as such cannot be bounded: torch asks for far more of it than it uses.
    """
    bounds = {resource.RLIMIT_NOFILE: 1024, resource.RLIMIT_CORE: 0, resource.RLIMIT_MSGQUEUE: 0,
              resource.RLIMIT_FSIZE: file_bytes, resource.RLIMIT_NPROC: processes}  # fmt: skip
    if data_mib is not None:
        with open("/proc/self/status") as file:
            now = next(int(line.split()[1]) << 10 for line in file if line.startswith("VmData:"))
        bounds[resource.RLIMIT_DATA] = now + (data_mib << 20)
    for which, most in bounds.items():
        if most is not None:
            hard = resource.getrlimit(which)[1]
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(which, (most, most))


# --- seccomp -----------------------------------------------------------------------------------------------------------

# What no notebook needs and what widens the way to the system's kernel: numbers for x86_64 and for aarch64 (None: that
# processor has no such call). From 424 on all processors share one numbering.
_DENIED = {
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51),
    "unshare": (272, 97), "setns": (308, 268),
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "reboot": (169, 142),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "swapon": (167, 224), "swapoff": (168, 225), "quotactl": (179, 60), "acct": (163, 89), "syslog": (103, 116),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "clock_adjtime": (305, 266), "adjtimex": (159, 171),
    "sethostname": (170, 161), "setdomainname": (171, 162), "vhangup": (153, 58),
    "iopl": (172, None), "ioperm": (173, None), "modify_ldt": (154, None), "uselib": (134, None),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "fanotify_init": (300, 262),
    "migrate_pages": (256, 238), "move_pages": (279, 239), "lookup_dcookie": (212, 18), "nfsservctl": (180, 42),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431),
    "fsmount": (432, 432), "fspick": (433, 433), "pidfd_getfd": (438, 438), "process_madvise": (440, 440),
    "mount_setattr": (442, 442), "quotactl_fd": (443, 443), "memfd_secret": (447, 447),
}  # fmt: skip
_OTHERS = {"clone": (56, 220), "clone3": (435, 435), "socket": (41, 198), "socketpair": (53, 199), "ioctl": (16, 29)}
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column of the tables, AUDIT_ARCH

_EPERM, _ENOSYS = 1, 38
_FAMILIES = (1, 2, 10, 16)  # AF_UNIX, AF_INET, AF_INET6, AF_NETLINK: all end in this sandbox's own network namespace
_FAKED_INPUT = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX


def supported():
    """Whether the deny-list knows this processor."""
    return os.uname().sysname == "Linux" and platform.machine() in _MACHINES


def _number(name):
    return (_DENIED | _OTHERS)[name][_MACHINES[platform.machine()][0]]


def _load(offset):
    return struct.pack("HBBI", 0x20, 0, 0, offset)  # a 32-bit word of struct seccomp_data


def _return_if(test, value, action, negate=False):
    """Return `action` when `test` ("==", ">=" or "&") of the loaded word and `value` holds."""
    code = {"==": 0x15, ">=": 0x35, "&": 0x45}[test]
    return struct.pack("HBBI", code, int(negate), int(not negate), value) + _return(action)


def _return(action):
    return struct.pack("HBBI", 0x06, 0, 0, action)


def deny_list():
    """The seccomp program, as bytes: denied calls fail with EPERM, everything else goes through."""
    allow, kill, deny, unknown = 0x7FFF0000, 0x80000000, 0x50000 | _EPERM, 0x50000 | _ENOSYS
    number, processor, first, second = 0, 4, 16, 24  # offsets in struct seccomp_data (low halves of the arguments)
    program = _load(processor) + _return_if("==", _MACHINES[platform.machine()][1], kill, negate=True) + _load(number)
    if platform.machine() == "x86_64":
        program += _return_if(">=", 0x40000000, deny)  # the x32 calls: the same ones under other numbers
    for name in _DENIED:
        if _number(name) is not None:
            program += _return_if("==", _number(name), deny)
    # clone3's flags lie in memory, where a filter cannot look; without it libc takes clone.
    program += _return_if("==", _number("clone3"), unknown)
    namespaces = NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET
    program += _only_for("clone", _load(first) + _return_if("&", namespaces, deny) + _return(allow))
    families = b"".join(_return_if("==", family, allow) for family in _FAMILIES)
    program += _only_for("socket", _load(first) + families + _return(deny))
    faked = b"".join(_return_if("==", request, deny) for request in _FAKED_INPUT)
    program += _only_for("ioctl", _load(second) + faked + _return(allow))
    return program + _return(allow)


def _only_for(name, rules):
    """`rules`, which must end in a return, for the call `name`; any other jumps over them."""
    return struct.pack("HBBI", 0x15, 0, len(rules) // 8, _number(name)) + rules


def install(program):
    """Put this process and all that it starts under the seccomp `program`; needs no_new_privileges() before."""
    code = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    _call("prctl", _SECCOMP, _word(_SECCOMP_FILTER), ctypes.c_char_p(header), _word(0), _word(0))
