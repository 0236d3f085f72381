"""Messages over a socket: the length in 8 bytes, then the bytes.

`Channel` is for a thread that must never wait for the other end. It keeps what can't be sent yet, and the received part
of a message. `read_message` and `write_message` are for an end that may wait. Knows nothing about the contents.
"""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from typing import Final

MAX_MESSAGE: Final = 1 << 34
"""Bytes of a message. A larger length can't be right."""
_LENGTH: Final = 8
_PIECE: Final = 1 << 20


class ChannelError(Exception):
    """The received bytes aren't a message."""


class Channel:
    """One end of a socket. No method waits."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self.socket = end
        self._out: deque[memoryview] = deque()
        self._in = bytearray()

    def fileno(self) -> int:
        """The socket's descriptor, for a selector."""
        return self.socket.fileno()

    @property
    def unsent(self) -> bool:
        """True if bytes wait to be sent until the other end reads."""
        return bool(self._out)

    def send(self, message: bytes) -> None:
        """Send what can be sent now; `flush` sends the rest. If the other end is closed, `receive` reports it."""
        self._out += (memoryview(len(message).to_bytes(_LENGTH, "little")), memoryview(message))
        self.flush()

    def flush(self) -> None:
        """Send what can be sent now."""
        try:
            while self._out:
                rest = self._out[0][self.socket.send(self._out[0][:_PIECE]) :]
                if rest:
                    self._out[0] = rest
                else:
                    self._out.popleft()
        except BlockingIOError:
            pass
        except OSError:
            self._out.clear()

    def receive(self) -> list[bytes]:
        """All messages that have been received completely.

        Raises:
            EOFError: the other end is closed, and earlier calls returned every message.
            ChannelError: the received bytes aren't a message.
        """
        closed = False
        try:
            while not closed:
                piece = self.socket.recv(_PIECE)
                closed = not piece
                self._in += piece
        except BlockingIOError:
            pass
        except OSError:
            closed = True
        messages = []
        while len(self._in) >= _LENGTH:
            end = _LENGTH + int.from_bytes(self._in[:_LENGTH], "little")
            if end > MAX_MESSAGE:
                raise ChannelError(f"a message of {end} bytes, expected at most {MAX_MESSAGE}")
            if len(self._in) < end:
                break
            messages.append(bytes(self._in[_LENGTH:end]))
            del self._in[:end]
        if closed and not messages:
            raise EOFError
        return messages

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()


def read_message(end: socket.socket) -> bytes:
    """Wait for a message and return it.

    Raises:
        EOFError: the other end is closed.
        OSError: of the socket; TimeoutError if the socket has a time limit.
    """
    return _read(end, int.from_bytes(_read(end, _LENGTH), "little"))


def write_message(end: socket.socket, message: bytes) -> None:
    """Send a message, and wait until it is sent."""
    end.sendall(len(message).to_bytes(_LENGTH, "little"))
    end.sendall(message)


def shut(end: socket.socket) -> None:
    """Shut the connection down, so that readers at both ends see its end."""
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


def _read(end: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = end.recv(min(_PIECE, size - len(data)))
        if not piece:
            raise EOFError
        data += piece
    return bytes(data)
