"""A job is refused if the launcher declares another number of ranks than MPI has."""

from __future__ import annotations

import pytest

from es_llm import comm
from es_llm.comm import SingleMailbox, select_mailbox
from es_llm.comm.launcher import is_launched, launched_rank, refuse_other_launchers, require_size
from es_llm.errors import ConfigError

OPEN_MPI, MPICH = "Open MPI v5.0.8", "MPICH Version: 4.3.2"


@pytest.mark.parametrize(
    ("environ", "size"),
    [
        ({}, 1),
        ({"OMPI_COMM_WORLD_SIZE": "4", "PMIX_RANK": "2"}, 4),
        ({"PMI_SIZE": "3", "MPI_LOCALNRANKS": "3"}, 3),
        ({"PMI_SIZE": "8", "MPI_LOCALNRANKS": "4"}, 8),
        ({"SLURM_NTASKS": "8", "SLURM_NPROCS": "8", "SLURM_PROCID": "0"}, 1),  # `python` in a batch script
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "8"}, 1),  # srun -n 1, or an interactive step
        ({"SLURM_STEP_NUM_TASKS": "8", "PMIX_RANK": "1"}, 8),  # srun --mpi=pmix
        ({"SLURM_STEP_NUM_TASKS": "2", "OMPI_COMM_WORLD_SIZE": "16"}, 16),  # mpirun, whose daemons srun started
        ({"SLURM_STEP_NUM_TASKS": "2", "PMI_SIZE": "16"}, 16),
        ({"PMI_SIZE": "1", "OMPI_COMM_WORLD_SIZE": "4"}, 4),  # mpirun in the shell of another launcher
        ({"OMPI_COMM_WORLD_SIZE": "1"}, 1),
        ({"PMIX_RANK": "0"}, 1),
        ({"FLUX_JOB_SIZE": "2", "FLUX_TASK_RANK": "1"}, 2),
        ({"PMI_SIZE": "", "OMPI_COMM_WORLD_SIZE": "x"}, 1),
    ],
)
def test_the_right_number_of_ranks(environ, size):
    require_size(size, OPEN_MPI, environ)


@pytest.mark.parametrize(
    ("environ", "size", "library", "message"),
    [
        ({"PMI_SIZE": "2", "MPI_LOCALNRANKS": "2"}, 1, OPEN_MPI, r"declares 2 ranks \(PMI_SIZE=2.*MPI has 1.*Open MPI"),
        ({"OMPI_COMM_WORLD_SIZE": "4", "PMIX_RANK": "0"}, 1, MPICH, r"\(OMPI_COMM_WORLD_SIZE=4.*MPICH.*`mpiexec -n 4`"),
        ({"MV2_COMM_WORLD_SIZE": "2"}, 1, OPEN_MPI, r"\(MV2_COMM_WORLD_SIZE=2.*`mpirun -n 2`"),
        ({"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "3"}, 1, OPEN_MPI, r"STEP_NUM_TASKS=8, which srun.*--mpi=pmix"),
        ({"SLURM_STEP_NUM_TASKS": "8", "PMIX_RANK": "3"}, 1, MPICH, r"declares 8.*`srun --mpi=pmi2`"),
        ({"MPI_LOCALNRANKS": "4"}, 1, OPEN_MPI, r"\(MPI_LOCALNRANKS=4"),
        ({"PALS_SIZE": "6", "PALS_RANKID": "1"}, 1, OPEN_MPI, r"\(PALS_SIZE=6"),
        ({"JSM_NAMESPACE_SIZE": "6"}, 1, OPEN_MPI, r"\(JSM_NAMESPACE_SIZE=6"),
        ({"PMI_SIZE": "4"}, 2, OPEN_MPI, r"declares 4 ranks .* MPI has 2"),
        ({"OMPI_COMM_WORLD_SIZE": "2", "SLURM_STEP_NUM_TASKS": "1"}, 1, MPICH, r"declares 2 ranks"),
        ({"FLUX_JOB_SIZE": "4", "FLUX_TASK_RANK": "0"}, 1, OPEN_MPI, r"\(FLUX_JOB_SIZE=4, which flux run sets"),
        ({"PMIX_RANK": "1"}, 1, OPEN_MPI, r"as rank 1 \(PMIX_RANK=1\), but MPI has 1, expected at least 2.*-n 2`"),
        ({"PMI_RANK": "1"}, 1, OPEN_MPI, r"as rank 1 \(PMI_RANK=1\), but MPI has 1"),
        ({"PALS_RANKID": "3"}, 2, MPICH, r"as rank 3 \(PALS_RANKID=3\), but MPI has 2"),
        ({"FLUX_TASK_RANK": "2"}, 1, MPICH, r"as rank 2 \(FLUX_TASK_RANK=2\), but MPI has 1"),
    ],
)
def test_another_number_of_ranks_is_refused(environ, size, library, message):
    with pytest.raises(ConfigError, match=message + r".*comm` single"):
        require_size(size, library, environ)


TORCHRUN = {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "3", "TORCHELASTIC_RUN_ID": "none"}


@pytest.mark.parametrize("environ", [TORCHRUN, {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "a"}])
def test_processes_of_torchrun_are_refused(environ, monkeypatch):
    message = rf"torchrun.* {environ['WORLD_SIZE']} processes .*`mpirun -n {environ['WORLD_SIZE']} python"
    with pytest.raises(ConfigError, match=message):
        refuse_other_launchers(environ)
    assert launched_rank(environ) == int(environ["RANK"])
    forget_launchers(monkeypatch)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        select_mailbox()
    assert isinstance(select_mailbox("single"), SingleMailbox)


@pytest.mark.parametrize(
    "environ",
    [{}, {**TORCHRUN, "WORLD_SIZE": "1", "RANK": "0"}, {"WORLD_SIZE": "8"}, {**TORCHRUN, "OMPI_COMM_WORLD_SIZE": "4"},
     {**TORCHRUN, "SLURM_STEP_NUM_TASKS": "4"}],
)  # fmt: skip
def test_variables_of_torch_alone_are_no_launcher(environ):
    refuse_other_launchers(environ)


def test_srun_of_several_tasks_asks_for_mpi(monkeypatch):
    """Without MPI each of them would start the same run."""
    forget_launchers(monkeypatch)
    monkeypatch.setattr(comm, "MPIMailbox", Fake)
    monkeypatch.setenv("SLURM_NTASKS", "4")
    assert isinstance(select_mailbox(), SingleMailbox), "a process of a batch script"
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    assert is_launched()
    with pytest.raises(ConfigError, match="declares 4 ranks"):
        select_mailbox()
    assert isinstance(select_mailbox("single"), SingleMailbox)
    monkeypatch.setattr(Fake, "size", 4)
    assert isinstance(select_mailbox(), Fake)


class Fake:
    """An MPI of one rank."""

    size, library = 1, OPEN_MPI


def forget_launchers(monkeypatch):
    for name in (
        "OMPI_COMM_WORLD_SIZE",
        "PMI_SIZE",
        "PMI_RANK",
        "PMIX_RANK",
        "MPI_LOCALNRANKS",
        "SLURM_STEP_NUM_TASKS",
    ):
        monkeypatch.delenv(name, raising=False)
