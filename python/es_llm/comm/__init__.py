"""Transport between ranks: sends bytes and reports dead ranks. Knows nothing about what the bytes mean."""

from es_llm.comm.mailbox import Mailbox, SingleMailbox
from es_llm.comm.select import select_mailbox

__all__ = ["Mailbox", "SingleMailbox", "select_mailbox"]
