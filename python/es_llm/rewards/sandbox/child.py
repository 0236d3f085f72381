"""The process that the sandbox starts: it gives up its rights, then runs the code. Imports nothing of es_llm."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import sys
import tempfile

NEW_NS, NEW_UTS, NEW_IPC, NEW_USER, NEW_PID, NEW_NET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
MS_REC, MS_PRIVATE, MS_RDONLY, MS_REMOUNT, MS_NOSUID, MS_NODEV, MS_NOEXEC = 16384, 1 << 18, 1, 32, 2, 4, 8
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP = 1, 38, 24
NOBODY = 65534
libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> None:
    """Raise OSError unless the system call succeeded."""
    if result != 0:
        raise OSError(ctypes.get_errno(), what)


def leave_the_system() -> int:
    """Enter namespaces of this process's own and an empty root. Returns a pipe that can be read when the outer process
    has ended."""
    uid, gid = os.getuid(), os.getgid()
    apart = NEW_NS | NEW_UTS | NEW_IPC | NEW_PID | NEW_NET
    if uid == 0:
        check(libc.unshare(apart), "unshare")
    else:
        check(libc.unshare(apart | NEW_USER), "unshare")
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    end_with_parent(question["parent"])
    living, mine = os.pipe()
    child = os.fork()  # the first process of the new process namespace: all others end with it
    if child:
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    os.close(mine)
    check(libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None), "mount")
    root = tempfile.gettempdir().encode()  # any directory: its contents are hidden in this namespace only
    flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
    check(libc.mount(b"none", root, b"tmpfs", flags, b"size=4k,mode=555"), "mount")
    check(libc.mount(b"none", root, b"tmpfs", flags | MS_REMOUNT | MS_RDONLY, b"size=4k,mode=555"), "mount")
    os.chroot(root)
    os.chdir("/")
    return living


def end_with_parent(parent: int) -> None:
    """Have this process killed when its parent ends. If the parent has ended already, end now."""
    check(libc.prctl(PR_SET_PDEATHSIG, 9, 0, 0, 0), "prctl")
    if os.getppid() != parent:
        os._exit(1)


def end_with_the_outer_one(living: int) -> None:
    """Have this process killed when the outer process ends. If it has ended already, end now.

    The outer process's number isn't visible in this namespace, so `living` shows whether it has ended. Call this after
    the change of the user, which would undo it.
    """
    check(libc.prctl(PR_SET_PDEATHSIG, 9, 0, 0, 0), "prctl")
    if select.select([living], [], [], 0)[0]:
        os._exit(1)
    os.close(living)


def give_up_rights(cpu_s: int, memory_mb: int) -> None:
    """Give up all privileges, and set limits."""
    for capability in range(64):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    try:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    except OSError:  # a namespace of one user: it has no rights outside, and its capabilities are dropped below
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        check(libc.capset(header, (ctypes.c_uint32 * 6)()), "capset")
    check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
    for kind, limit in (
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_AS, memory_mb << 20),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 16),
        (resource.RLIMIT_NPROC, 0),
    ):
        resource.setrlimit(kind, (limit, limit))


def import_what_code_may_use() -> None:
    """Import the modules that the code may use. Later no file can be read."""
    for name in ("math", "itertools", "functools", "collections", "copy", "random", "re", "string", "typing"):
        __import__(name)
    for name in ("heapq", "bisect", "operator", "statistics", "fractions", "dataclasses", "enum"):
        __import__(name)
    sys.path += [entry for entry in question["path"] if os.path.isdir(entry)]
    with contextlib.suppress(ImportError):
        __import__("numpy")
    sys.path.clear()


def answer() -> dict[str, object]:
    """Run the code and call its function. The purpose of this process is to run code that a model wrote: it has given
    up all rights by which the code could do harm."""
    variables: dict[str, object] = {"__name__": "answer"}
    try:
        exec(compile(question["code"], "answer", "exec"), variables)
        function = variables[question["function"]]
        return {"values": [function(argument) for argument in question["arguments"]]}  # type: ignore[operator]
    except BaseException as error:
        return {"error": f"{type(error).__name__}: {error}"[:2000]}


def plain(value: object) -> object:
    """Arrays and their items as lists and numbers."""
    to_list = getattr(value, "tolist", None)
    if callable(to_list):
        return to_list()
    raise TypeError(f"{type(value).__name__} isn't a type of JSON")


if __name__ == "__main__":
    question = json.loads(sys.stdin.buffer.read())
    question.setdefault("path", [])
    out = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # text that the code prints isn't part of the answer
    try:
        import_what_code_may_use()
        outside = leave_the_system()
        give_up_rights(question["cpu_s"], question["memory_mb"])
        end_with_the_outer_one(outside)
    except OSError as error:
        result: dict[str, object] = {"error": f"no sandbox: {error}"}
    else:
        result = answer()
    try:
        text = json.dumps(result, default=plain).encode()
    except (TypeError, ValueError, RecursionError) as error:
        text = json.dumps({"error": f"its value isn't JSON: {error}"}).encode()
    with os.fdopen(out, "wb") as file:
        file.write(text)
