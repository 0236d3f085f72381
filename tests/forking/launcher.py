"""`python -I -S launcher.py SOCKET MODULE ARGUMENTS` stands for `python -m MODULE ARGUMENTS`.

It imports hardly anything, so it starts in milliseconds. The server at SOCKET forks the process that runs the module.
The process gets the launcher's environment, descriptors, folder, umask and limits. The launcher passes signals on and
ends as the process ends: with its exit code or by the same signal. If the launcher dies, the server kills the process.
If libraries would load differently in a real start, the launcher becomes `python -m MODULE ARGUMENTS` itself.
"""

import marshal
import os
import resource
import select
import signal
import socket
import sys

REAL_START, FORKED = b"R", b"F"
LENGTH_BYTES, STATUS_BYTES = 8, 4
LIMITS = sorted(number for name, number in vars(resource).items() if name.startswith("RLIMIT_"))
PASSED = (
    signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT,
)  # fmt: skip


def main(path, words):
    """Ask the server for the process, wait for its end, and end in the same way."""
    server = socket.socket(socket.AF_UNIX)
    server.connect(path)
    ask(server, words)
    answer = server.recv(1)
    if answer == REAL_START:
        os.execv(sys.executable, [sys.executable, "-m", *words])
    if answer != FORKED:
        sys.exit(f"the fork server ended before it forked {words}")
    end(wait(server))


def ask(server, words):
    """Send what the process needs to know, and the descriptors that it gets."""
    umask = os.umask(0)
    os.umask(umask)
    request = marshal.dumps(
        {
            "words": words,
            "environment": dict(os.environ),
            "affinity": sorted(os.sched_getaffinity(0)),
            "umask": umask,
            "limits": [(number, resource.getrlimit(number)) for number in LIMITS],
            "pid": os.getpid(),
        }
    )
    folder = os.open(".", os.O_PATH)
    socket.send_fds(server, [len(request).to_bytes(LENGTH_BYTES, "big")], [0, 1, 2, folder])
    os.close(folder)
    server.sendall(request)


def wait(server):
    """The wait status of the process. Until the process ends, each signal is sent to the server as a byte."""
    signals, woken = socket.socketpair()
    woken.setblocking(False)
    signal.set_wakeup_fd(woken.fileno())
    for number in PASSED:  # also those that a shell ignores in the background: the process may handle them
        signal.signal(number, lambda *_: None)
    while True:
        ready = select.select([server, signals], [], [])[0]
        if server in ready:
            status = server.recv(STATUS_BYTES)
            if not status:
                sys.exit("the fork server ended before the process that it forked")
            return int.from_bytes(status, "big")
        server.sendall(signals.recv(64))


def end(status):
    """End as a process with this wait status ended."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.WEXITSTATUS(status))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
