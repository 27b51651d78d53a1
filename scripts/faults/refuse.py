"""Runs a program whose system calls of these names are refused, as a container's seccomp filter does it.

    refuse.py ERROR CALL... -- PROGRAM [ARGUMENT]...
"""

import ctypes
import errno
import os
import struct
import sys

# Numbers of x86-64.
CALLS = {"socket": 41, "socketpair": 53, "ftruncate": 77, "madvise": 28, "prctl": 157, "getdents64": 217, "sched_getaffinity": 204,
         "fallocate": 285, "eventfd2": 290, "pipe2": 293, "prlimit64": 302, "kcmp": 312, "getrandom": 318, "memfd_create": 319,
         "statx": 332, "pidfd_open": 434, "clone3": 435, "close_range": 436, "pidfd_getfd": 438, "faccessat2": 439,
         "epoll_pwait2": 441, "process_vm_readv": 310, "userfaultfd": 323, "io_uring_setup": 425, "membarrier": 324}
ARCHITECTURE = 0xC000003E
LOAD, EQUALS, RETURN = 0x20, 0x15, 0x06
ALLOW, REFUSE = 0x7FFF0000, 0x00050000
NO_NEW_PRIVS, SET_SECCOMP, FILTER = 38, 22, 2


def install(error, names):
    """From here on these calls of this process, and of what it becomes, give the error."""
    numbers = [CALLS[name] for name in names]
    program = [(LOAD, 0, 0, 4), (EQUALS, 0, len(numbers) + 1, ARCHITECTURE), (LOAD, 0, 0, 0)]
    program += [(EQUALS, len(numbers) - at, 0, number) for at, number in enumerate(numbers)]
    program += [(RETURN, 0, 0, ALLOW), (RETURN, 0, 0, REFUSE | error)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in program))
    libc = ctypes.CDLL(None, use_errno=True)
    asked = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program), ctypes.addressof(code)))
    if libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(SET_SECCOMP, FILTER, asked, 0, 0):
        sys.exit(f"refuse.py: {os.strerror(ctypes.get_errno())}")


cut = sys.argv.index("--")
install(getattr(errno, sys.argv[1]), sys.argv[2:cut])
os.execvp(sys.argv[cut + 1], sys.argv[cut + 1:])
