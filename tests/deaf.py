"""Ranks in threads that receive and send nothing for a while, like a stopped process."""

import threading

from es_llm.comm.mailbox import Mailbox


def cut_off(mailbox: Mailbox, asleep: threading.Event) -> Mailbox:
    """The mailbox of a rank that is cut off while the event is set."""
    receive, send = mailbox.receive, mailbox.send
    mailbox.receive = lambda: [] if asleep.is_set() else receive()
    mailbox.send = lambda to, payload: None if asleep.is_set() else send(to, payload)
    return mailbox
