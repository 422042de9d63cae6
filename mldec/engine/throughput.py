"""How fast training goes, and whether the network waits for its images."""

from __future__ import annotations

import time
from collections.abc import Iterator

from mldec.data.loader import Batch


class Throughput:
    """Images/s and the share of time spent waiting for data, since the last reading."""

    def __init__(self) -> None:
        self._reset()

    def timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Pass `batches` on, counting their images and timing how long each was waited for."""
        self._reset()
        while True:
            began = time.perf_counter()
            batch = next(batches, None)
            self._waited += time.perf_counter() - began
            if batch is None:
                return
            self._images += len(batch.ids)
            yield batch

    def read(self) -> tuple[float, float]:
        """(images/s, waiting share) and start anew."""
        elapsed = max(time.perf_counter() - self._began, 1e-9)
        reading = self._images / elapsed, self._waited / elapsed
        self._reset()
        return reading

    def _reset(self) -> None:
        self._began, self._waited, self._images = time.perf_counter(), 0.0, 0
