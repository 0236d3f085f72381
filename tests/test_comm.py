"""Communicators: the same answers from one process, threads and MPI."""

import subprocess
import sys

import pytest

from es_llm.comm import SingleCommunicator, run_ranks
from es_llm.errors import ConfigError, JournalError
from tests.commands import mpirun


def exercise(comm):
    """Every collective operation, with payloads of different and of no length."""
    gathered = comm.allgather(b"x" * comm.rank)
    assert gathered == [b"x" * rank for rank in range(comm.size)]
    assert comm.broadcast(b"from 0" if comm.rank == 0 else b"not me") == b"from 0"
    comm.agree(None)
    last = comm.size - 1
    with pytest.raises(JournalError, match="disk full") as caught:
        comm.agree(JournalError("disk full: at once") if comm.rank == last else None)
    assert caught.value.shared
    assert str(caught.value) == "disk full: at once"

    def work():
        if comm.rank == 0:
            raise ConfigError("only rank 0 sees it")
        return 1

    with pytest.raises(ConfigError, match="only rank 0"):
        comm.together(work)
    assert comm.together(lambda: comm.rank) == comm.rank
    return comm.bytes_sent


def test_one_process():
    assert exercise(SingleCommunicator()) > 0


@pytest.mark.parametrize("size", [1, 2, 5])
def test_threads(size):
    assert len(run_ranks(size, exercise)) == size


def test_an_error_of_one_thread_releases_the_others():
    def work(comm):
        if comm.rank == 1:
            raise ValueError("rank 1 fails")
        comm.allgather(b"")

    with pytest.raises(ValueError, match="rank 1 fails"):
        run_ranks(3, work, timeout_s=10)


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [1, 3])
def test_mpi(ranks):
    code = (
        "from tests.test_comm import exercise\n"
        "from es_llm.comm import select_communicator\n"
        "comm = select_communicator()\n"
        f"assert comm.size == {ranks} == comm.local_size, comm.size\n"
        "exercise(comm)\n"
        "print('fine')"
    )
    run = subprocess.run([mpirun(), "-n", str(ranks), sys.executable, "-c", code], capture_output=True, text=True,
                         timeout=120, check=False)  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("fine") == ranks
