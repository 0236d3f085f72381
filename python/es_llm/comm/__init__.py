"""Transport between ranks: sends bytes and reports dead ranks. Knows nothing about what the bytes mean."""

from es_llm.comm.launcher import is_launched, refuse_other_launchers, require_size
from es_llm.comm.mailbox import Mailbox, SingleMailbox
from es_llm.comm.mpi import MPIMailbox

__all__ = ["Mailbox", "SingleMailbox", "select_mailbox"]


def select_mailbox(kind: str = "auto") -> Mailbox:
    """The mailbox of this process: `single`, `mpi`, or `auto` (MPI when a launcher started the process)."""
    if kind == "single":
        return SingleMailbox()
    refuse_other_launchers()
    if kind == "mpi" or is_launched():
        mailbox = MPIMailbox()
        require_size(mailbox.size, mailbox.library)
        return mailbox
    return SingleMailbox()
