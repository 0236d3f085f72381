"""Forks processes that have imported torch and transformers, for the launchers of one pytest worker.

`python server.py LISTENER LIFE FOLDER`: the descriptors of a listening socket and of a pipe that the pytest worker
holds open, and a folder for links from the process id of a launcher to that of its forked process. The server ends
with the pytest worker. It imports modules of other projects only: a forked process imports `es_llm` and mpi4py itself,
and runs the module by the function that `python -m` calls.
"""

import contextlib
import importlib
import marshal
import os
import resource
import runpy
import selectors
import shutil
import signal
import socket
import sys
import types
import warnings
from pathlib import Path

from launcher import FORKED, LENGTH_BYTES, REAL_START, STATUS_BYTES

PRELOADED = (
    "numpy", "torch", "transformers", "transformers.trainer_utils", "transformers.training_args",
    "transformers.trainer_callback", "transformers.modeling_utils", "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto", "transformers.models.qwen2.modeling_qwen2", "tokenizers",
    "safetensors.torch", "cloudpickle", "yaml",
)  # fmt: skip
"""Most of what a run of the embedded model imports."""

FREE = (
    "OMPI_", "OPAL_", "PMIX_", "PRTE_", "ES_LLM_", "PYTEST_", "TQDM_DISABLE=", "COLUMNS=", "LINES=", "PWD=", "OLDPWD=",
    "SHLVL=", "_=",
)  # fmt: skip
"""Beginnings of variables that the modules above don't read when they load; es_llm itself sets TQDM_DISABLE before."""


class Request:
    """What a launcher asks for: `words`, `environment`, `affinity`, `umask`, `limits`, its `pid`, and descriptors."""

    def __init__(self, connection):
        start, self.descriptors, _, _ = socket.recv_fds(connection, LENGTH_BYTES, 4)
        try:
            with connection.makefile("rb") as file:
                self.__dict__.update(marshal.loads(file.read(int.from_bytes(start, "big"))))
        except BaseException:
            self.close()
            raise

    def close(self):
        for descriptor in self.descriptors:
            os.close(descriptor)


class Child:
    """A forked process and the connection to its launcher."""

    def __init__(self, pid, connection, link):
        self.pid, self.connection, self.link = pid, connection, link
        self.process = os.pidfd_open(pid)
        self.ended = False

    def close(self):
        self.connection.close()
        os.close(self.process)


class Server:
    """The loop that forks, passes signals on and reports ends."""

    def __init__(self, listener, life, folder, defaults):
        self.listener, self.life, self.folder = listener, life, folder
        self.defaults = defaults
        self.loaded = as_loaded(defaults | os.environ, sorted(os.sched_getaffinity(0)))
        self.children = set()
        self.selector = selectors.DefaultSelector()
        self.selector.register(listener, selectors.EVENT_READ, self.accept)
        self.selector.register(life, selectors.EVENT_READ, self.leave)

    def serve(self):
        """Serve until the pytest worker ends. Return in each forked process, with its request."""
        while True:
            for key, _ in self.selector.select():
                if (request := key.data()) is not None:
                    return request

    def leave(self):
        """Kill all processes, remove the folder and end."""
        for child in self.children:
            if not child.ended:
                os.kill(child.pid, signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)
        os._exit(0)

    def accept(self):
        """Take the request of a launcher, and fork."""
        connection, _ = self.listener.accept()
        try:
            request = Request(connection)
        except (OSError, EOFError, ValueError, TypeError):  # the launcher was killed
            connection.close()
            return None
        request.environment = self.defaults | request.environment
        if as_loaded(request.environment, request.affinity) != self.loaded:
            connection.sendall(REAL_START)
            connection.close()
        elif self.fork(connection, request):
            return request
        request.close()
        return None

    def fork(self, connection, request):
        """Whether this is the forked process."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's OpenBLAS has a thread, and ends it before a fork
            pid = os.fork()
        if pid == 0:
            self.close()
            connection.close()
            return True
        child = Child(pid, connection, self.folder / str(request.pid))
        child.link.symlink_to(str(pid))
        self.children.add(child)
        self.selector.register(child.process, selectors.EVENT_READ, lambda: self.report(child))
        self.selector.register(connection, selectors.EVENT_READ, lambda: self.hear(child))
        with contextlib.suppress(OSError):
            connection.sendall(FORKED)
        return False

    def report(self, child):
        """Tell the launcher how its process ended."""
        status = os.waitpid(child.pid, 0)[1]
        self.selector.unregister(child.process)
        child.ended = True
        with contextlib.suppress(OSError):
            child.connection.sendall(status.to_bytes(STATUS_BYTES, "big"))
        self.forget(child)

    def hear(self, child):
        """Pass signals on. Without its launcher, a process is killed."""
        try:
            numbers = child.connection.recv(64)
        except OSError:
            numbers = b""
        if not child.ended:
            for number in numbers or (signal.SIGKILL,):
                os.kill(child.pid, number)
        if not numbers:
            self.selector.unregister(child.connection)
            child.link.unlink()
            child.link = None
            self.forget(child)

    def forget(self, child):
        """Forget a process once it and its launcher have ended."""
        if child.ended and child.link is None:
            child.close()
            self.children.remove(child)

    def close(self):
        """Close what a forked process doesn't need."""
        self.selector.close()
        self.listener.close()
        os.close(self.life)
        for child in self.children:
            child.close()


def as_loaded(environment, affinity):
    """What libraries may read of a process when they load."""
    ours = {name: value for name, value in environment.items() if not f"{name}=".startswith(FREE)}
    added = environment.get("OPAL_PREFIX", "") + "/lib"  # mpirun adds it to the path of libraries
    paths = [path for path in ours.pop("LD_LIBRARY_PATH", "").split(":") if path not in ("", added)]
    return ours, paths, affinity


def begin(request):
    """Give this process what the launcher had, and run the module."""
    os.setsid()
    for number, descriptor in enumerate(request.descriptors[:3]):
        os.dup2(descriptor, number)
    os.fchdir(request.descriptors[3])
    request.close()
    os.umask(request.umask)
    for number, limit in request.limits:
        if resource.getrlimit(number) != limit:
            resource.setrlimit(number, limit)
    os.environ.clear()
    os.environ.update(request.environment)
    module, *words = request.words
    sys.argv = ["-m", *words]
    sys.orig_argv = [sys.executable, "-m", module, *words]
    sys.path[0] = os.getcwd()
    del sys.modules["launcher"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    importlib.invalidate_caches()
    sys.modules["numpy"].random.seed()
    runpy._run_module_as_main(module)


def preload():
    """Import the modules, and return the environment variables that they set."""
    before = dict(os.environ)
    os.environ["TQDM_DISABLE"] = "1"
    for name in PRELOADED:
        importlib.import_module(name)
    del os.environ["TQDM_DISABLE"]
    return {name: value for name, value in os.environ.items() if before.get(name) != value}


def main():
    listener, life, folder = sys.argv[1:]
    server = Server(socket.socket(fileno=int(listener)), int(life), Path(folder), preload())
    begin(server.serve())


if __name__ == "__main__":
    main()
