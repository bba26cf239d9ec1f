"""Reduces a process to memory and one socket, by a seccomp filter of the Linux kernel.

Every system call that is not listed here fails with EPERM, so that code which a picture has brought into a decoder
can open, delete or rename no file, start or signal no process, make no connection, and change none of its limits.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys

# (number of the architecture, then of each call). All that decoding needs: memory, time, and one connected socket.
_CALLS = {
    "recvfrom": (45, 207),
    "sendto": (44, 206),
    "mmap": (9, 222),
    "munmap": (11, 215),
    "mremap": (25, 216),
    "mprotect": (10, 226),
    "madvise": (28, 233),
    "brk": (12, 214),
    "futex": (202, 98),
    "getrandom": (318, 278),
    "clock_gettime": (228, 113),
    "setitimer": (38, 103),
    "restart_syscall": (219, 128),
    "rt_sigreturn": (15, 139),
    "exit_group": (231, 94),
}
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, AUDIT_ARCH of the kernel
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06  # instructions of the filter
_CALL, _ARCHITECTURE = 0, 4  # offsets in the kernel's struct seccomp_data
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM
_NO_NEW_PRIVILEGES, _SET_SECCOMP, _FILTER = 38, 22, 2  # of prctl


def confine() -> None:
    """Allow this process nothing from now on but memory, and the sockets that it has already.

    Raises:
        OSError: this system has no such filters.
    """
    if sys.platform != "linux" or platform.machine() not in _MACHINES:
        raise OSError(errno.ENOSYS, f"no filter is known for {sys.platform} on {platform.machine()}")
    column, architecture = _MACHINES[platform.machine()]
    numbers = [call[column] for call in _CALLS.values()]
    program = [(_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _REFUSE)]
    program += [(_LOAD, 0, 0, _CALL)]
    program += [(_EQUAL, len(numbers) - index, 0, number) for index, number in enumerate(numbers)]
    program += [(_RETURN, 0, 0, _REFUSE), (_RETURN, 0, 0, _ALLOW)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *instruction) for instruction in program))
    header = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(code)))
    _prctl(_NO_NEW_PRIVILEGES, 1, 0)
    _prctl(_SET_SECCOMP, _FILTER, ctypes.addressof(header))


def possible() -> bool:
    """Return whether `confine` works on this system, by a process that tries it."""
    process = os.fork()
    if process == 0:
        try:
            confine()
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitpid(process, 0)[1] == 0


def _prctl(option: int, first: int, second: int) -> None:
    arguments = [ctypes.c_ulong(value) for value in (first, second, 0, 0)]
    if ctypes.CDLL(None, use_errno=True).prctl(option, *arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
