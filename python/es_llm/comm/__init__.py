"""Communication between ranks: bytes gathered from all, nothing else. Knows nothing about what the bytes mean."""

from es_llm.comm.base import Communicator
from es_llm.comm.select import select_communicator
from es_llm.comm.single import SingleCommunicator
from es_llm.comm.threads import run_ranks

__all__ = ["Communicator", "SingleCommunicator", "run_ranks", "select_communicator"]
