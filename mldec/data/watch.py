"""A minimum speed for a connection."""

from __future__ import annotations

import contextlib
import socket
import threading

WINDOW = 60.0  # seconds over which a connection must bring LEAST_SPEED; the first one also covers the headers
LEAST_SPEED = 1024.0  # bytes per second


class Watch:
    """Ends a connection that brings less than LEAST_SPEED over WINDOW seconds, for example one byte per minute.

    Socket timeouts do not: they begin anew with every byte, also of the headers and of a chunk's size.
    """

    def __init__(self) -> None:
        self.received = 0  # bytes of the body
        self.slow = False
        self._socket: socket.socket | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()

    def follow(self, connection: socket.socket) -> None:
        """Watch over this connection from now on; after a redirect it is another one."""
        self._socket = connection

    def reason(self) -> str:
        """Why the connection was ended."""
        return f"less than {LEAST_SPEED:,.0f} bytes/s for {WINDOW:g} seconds"

    def _run(self) -> None:
        before = 0
        while not self._done.wait(WINDOW):
            now = self.received
            if now - before < LEAST_SPEED * WINDOW:
                self.slow = True
                if self._socket is not None:
                    with contextlib.suppress(OSError):  # closed already
                        # Not SSLSocket's own method, which would take the encryption from under the reading thread.
                        socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
                return
            before = now
