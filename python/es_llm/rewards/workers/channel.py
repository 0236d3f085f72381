"""Messages of bytes over a socket: a length in 8 bytes, then so many bytes.

`Channel` is for a thread that must never wait for the other end: it keeps what can't be sent yet, and the part of a
message that has come. `read_message` and `write_message` are for an end that may wait. Knows nothing of what is said.
"""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from typing import Final

LONGEST: Final = 1 << 34
"""Bytes of a message; a longer one is none."""
_LENGTH: Final = 8
_PIECE: Final = 1 << 20


class ChannelError(Exception):
    """What came is no message."""


class Channel:
    """One end of a socket, without waiting."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self.socket = end
        self._out: deque[memoryview] = deque()
        self._in = bytearray()

    def fileno(self) -> int:
        """For a selector."""
        return self.socket.fileno()

    @property
    def unsent(self) -> bool:
        """Whether something waits until the other end reads."""
        return bool(self._out)

    def send(self, message: bytes) -> None:
        """Send now what can be sent, the rest by `flush`. An end that is gone shows where messages are received."""
        self._out += (memoryview(len(message).to_bytes(_LENGTH, "little")), memoryview(message))
        self.flush()

    def flush(self) -> None:
        """Send what can be sent."""
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
        """The messages that are whole by now.

        Raises:
            EOFError: the other end is gone, and every message was given out before.
            ChannelError: what came is no message.
        """
        gone = False
        try:
            while not gone:
                piece = self.socket.recv(_PIECE)
                gone = not piece
                self._in += piece
        except BlockingIOError:
            pass
        except OSError:
            gone = True
        messages = []
        while len(self._in) >= _LENGTH:
            end = _LENGTH + int.from_bytes(self._in[:_LENGTH], "little")
            if end > LONGEST:
                raise ChannelError(f"a message of {end} bytes")
            if len(self._in) < end:
                break
            messages.append(bytes(self._in[_LENGTH:end]))
            del self._in[:end]
        if gone and not messages:
            raise EOFError
        return messages

    def close(self) -> None:
        """Nothing more is sent or received."""
        self.socket.close()


def read_message(end: socket.socket) -> bytes:
    """Wait for a message.

    Raises:
        EOFError: the other end is gone.
        OSError: of the socket; TimeoutError if it has a time limit.
    """
    return _read(end, int.from_bytes(_read(end, _LENGTH), "little"))


def write_message(end: socket.socket, message: bytes) -> None:
    """Wait until a message is sent.

    Raises:
        OSError: of the socket: the other end is gone, say.
    """
    end.sendall(len(message).to_bytes(_LENGTH, "little"))
    end.sendall(message)


def shut(end: socket.socket) -> None:
    """Let whoever reads from either end see the end."""
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
