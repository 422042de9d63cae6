"""`python -m mldec` is the `mldec` command."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command. Ctrl-C while its modules are being imported ends it as later, without a traceback."""
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _leave)
    from mldec.commands.main import main as run

    run(argv)


def _leave(signum: int, frame: FrameType | None) -> None:
    os.write(2, b"interrupted\n")
    os._exit(130 if signum == signal.SIGINT else 75)  # as in mldec.engine.interrupt


if __name__ == "__main__":
    main(sys.argv[1:])
