"""Transport between ranks: sends bytes and reports dead ranks. Knows nothing about what the bytes mean."""

from es_llm.comm.mailbox import Mailbox
from es_llm.comm.select import select_mailbox
from es_llm.comm.single import SingleMailbox
from es_llm.comm.threads import Died, ThreadMailbox, run_ranks

__all__ = ["Died", "Mailbox", "SingleMailbox", "ThreadMailbox", "run_ranks", "select_mailbox"]
