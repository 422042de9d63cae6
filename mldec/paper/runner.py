"""Runs the rows of a table: each row and seed a process of its own, some side by side, none twice.

A run whose record is there is not made again; one that was cut off goes on where it was. Several runners may share one
results folder: whoever takes a run first holds its lock until the process ends, however it ends.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import IO

try:
    import fcntl
except ImportError:  # Windows: one runner at a time
    fcntl = None  # type: ignore[assignment]

from mldec.engine.display import Bar, Display
from mldec.engine.interrupt import PREEMPTED, STOPPED, pass_on
from mldec.engine.metric_writer import is_complete
from mldec.errors import OUT_OF_MEMORY
from mldec.files import without_links
from mldec.paper.records import (
    BENCHMARK,
    Record,
    Training,
    find_records,
    record_of_benchmark,
    record_of_run,
    record_without_memory,
    write_record,
)

LOG = "log.txt"  # in the run folder: what the process printed
LAST_LINES = 15  # of the log of what failed
KILLED = (-9, 137)  # what Linux does to a process where memory of the host runs out
HEADLINES = ("zsl_mAP", "top1", "mAP")  # the first that a record has is shown when its run ends


@dataclass(frozen=True, kw_only=True)
class Job(Training):
    """One row with one seed, to be run.

    Attributes:
        expect: "out_of_memory" where running out of memory is the result.
        benchmark: words of `mldec benchmark model`, where that is what gives all rows of a table at once.
    """

    expect: str | None = None
    benchmark: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """`table1/gap seed 0`."""
        return f"{self.table}/{self.row} seed {self.seed}"

    @property
    def folder_name(self) -> str:
        """Of its run folder, where no other table has begun the same training."""
        return f"{self.experiment.replace('/', '_')}_seed{self.seed}_{self.key[:8]}"


@dataclass(frozen=True)
class Failure:
    """A job whose process failed: its exit code, where its log lies, and the log's last lines."""

    job: Job
    code: int
    log: Path
    lines: tuple[str, ...]

    def __str__(self) -> str:
        text = "\n".join(f"    {line}" for line in self.lines)
        return f"{self.job.title} failed with exit code {self.code}; {self.log} ends with\n{text}"


@dataclass
class Outcome:
    """What became of the jobs that were given to `run_jobs`."""

    failures: list[Failure] = field(default_factory=list)
    stopped: int = 0  # the exit code for that, if somebody asked to stop


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where runs lie and how many are made at a time.

    Attributes:
        records: folder of the records.
        runs: folder of the run folders.
        slots: environment variables of each process that may run at a time, e.g. {"CUDA_VISIBLE_DEVICES": "3"}.
        runtime: overrides that every run gets, also a resumed one, e.g. runtime.threads=1.
        components: words by which every process finds components and files of the user's: plugins=…, --config-dir=….
    """

    records: Path
    runs: Path
    slots: tuple[Mapping[str, str], ...] = ({},)
    runtime: tuple[str, ...] = ()
    components: tuple[str, ...] = ()


def run_jobs(jobs: Sequence[Job], place: Place, display: Display) -> Outcome:
    """Run all jobs that have no record yet, and write their records.

    A failed job does not keep the others from running. After Ctrl-C, SIGTERM or SIGUSR1 no job is begun, those under
    way save and stop, and the next call goes on with them.
    """
    unique = list({job.key: job for job in jobs}.values())
    known = find_records(place.records).by_key
    waiting = [job for job in unique if job.key not in known]
    if len(waiting) < len(unique):
        display.say(f"{len(unique) - len(waiting)} of {len(unique)} runs have their records already")
    slots: SimpleQueue[Mapping[str, str]] = SimpleQueue()
    for slot in place.slots:
        slots.put(slot)
    outcome, stop = Outcome(), threading.Event()
    elsewhere: list[Job] = []
    processes: set[subprocess.Popen[bytes]] = set()
    progress = _Progress(display, len(waiting))

    def work(job: Job, patient: bool = False) -> None:
        if stop.is_set() or asked.requested:
            return
        slot = slots.get()
        try:
            _work(job, slot, patient)
        finally:
            slots.put(slot)

    def _work(job: Job, slot: Mapping[str, str], patient: bool) -> None:
        with _claim(place, job, patient=patient, stop=stop) as locks:
            if locks is None:
                elsewhere.append(job)
                return
            if stop.is_set() or asked.requested or job.key in find_records(place.records).by_key:
                return  # another runner was faster
            log = run_folder(job, place) / LOG
            progress.begin(job, log)
            try:
                failure = _run(job, place, slot, locks, processes)
            except (OSError, ValueError, KeyError) as error:  # a full disk, a damaged run folder: the others go on
                failure = Failure(job, 1, log, (f"{type(error).__name__}: {error}",))
            if failure is None:
                progress.end(job, f"{job.title}{_in_short(find_records(place.records).by_key[job.key])}")
            elif asked.requested or failure.code in (STOPPED, PREEMPTED):
                outcome.stopped = PREEMPTED if failure.code == PREEMPTED else STOPPED
                stop.set()
            else:
                outcome.failures.append(failure)
                progress.end(job, str(failure))

    with pass_on(processes) as asked, progress.shown(), ThreadPoolExecutor(len(place.slots)) as pool:
        futures = [pool.submit(work, job) for job in waiting]
        try:
            for future in futures:
                future.result()
            waits = list(elsewhere)
            for job in waits:
                display.say(f"{job.title} is run by somebody else; waiting for it")
            for future in [pool.submit(work, job, True) for job in waits]:
                future.result()
        except KeyboardInterrupt:
            stop.set()  # the processes got the signal too; the pool waits until they have saved
    if asked.requested:
        outcome.stopped = PREEMPTED
    elif stop.is_set() and not outcome.stopped:
        outcome.stopped = STOPPED
    return outcome


def run_folder(job: Job, place: Place) -> Path:
    """Where a job runs: where it was begun before, be it for another table, else a folder named after it."""
    begun = sorted(place.runs.glob(f"*_seed{job.seed}_{job.key[:8]}"))
    return begun[0] if begun else place.runs / job.folder_name


def command(job: Job, place: Place) -> list[str]:
    """The command line of a job; of a training that was cut off, what resumes it."""
    folder = run_folder(job, place)
    if job.benchmark:
        words = [*job.benchmark, *job.overrides, *place.runtime, *place.components, f"output={folder / BENCHMARK}"]
        return [sys.executable, "-m", "mldec", "benchmark", "model", *words]
    words = [f"experiment={job.experiment}", *job.overrides, f"seed={job.seed}"]
    words += [f"output={place.runs}", f"run_dir={folder}"]
    if (folder / "checkpoints" / "last.pt").exists():
        words = [f"resume={folder}"]
    return [sys.executable, "-m", "mldec", "train", *words, *place.runtime, *place.components]


def shell_lines(jobs: Sequence[Job], words: Sequence[str]) -> list[str]:
    """A shell command for each job, which runs it alone and writes its record; `words` say where."""
    lines = []
    for job in jobs:
        which = [] if job.benchmark else [f"rows={job.row}", f"seeds={job.seed}"]
        lines.append(shlex.join(["mldec", "table", job.table, f"scale={job.scale}", *which, *words]))
    return lines


def slurm_script(name: str, lines: Sequence[str], *, gpus: int = 1) -> str:
    """A Slurm job array with one task a line. What a task began and did not finish, it goes on with when requeued."""
    tasks = "\n".join(f"  {shlex.quote(line)}" for line in lines)
    return f"""#!/bin/bash
#SBATCH --job-name=mldec-{name}
#SBATCH --array=0-{len(lines) - 1}
#SBATCH --ntasks=1
#SBATCH --gpus={gpus}
#SBATCH --cpus-per-task=8
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%A_%a.log
tasks=(
{tasks}
)
eval "${{tasks[$SLURM_ARRAY_TASK_ID]}}"
"""


def _run(
    job: Job, place: Place, slot: Mapping[str, str], locks: Sequence[IO[str]], processes: set[subprocess.Popen[bytes]]
) -> Failure | None:
    """Train a job to its end, in one of `processes`, and write its record; None, or why there is none."""
    folder = run_folder(job, place)
    log = folder / LOG
    code, began = 0, log.stat().st_size if log.exists() else 0
    if not _is_finished(job, folder):
        folder.mkdir(parents=True, exist_ok=True)
        with open(log, "a", encoding="utf-8", opener=without_links) as file:
            process = subprocess.Popen(
                command(job, place),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **slot},
                # Locks are held as long as one of the two is alive: a runner that is killed leaves its training behind.
                pass_fds=[lock.fileno() for lock in locks] if fcntl is not None else (),
            )
            processes.add(process)
            code = process.wait()
            processes.discard(process)
    if code == 0:
        collect = record_of_benchmark if job.benchmark else record_of_run
        write_record(place.records, collect(folder, job))
        return None
    text = log.read_bytes()[began:].decode("utf-8", "replace")
    exhausted = code in KILLED or any(sign in text for sign in (*OUT_OF_MEMORY, "MemoryError"))
    if job.expect == "out_of_memory" and exhausted:
        write_record(place.records, record_without_memory(folder, job))
        return None
    return Failure(job, code, log, tuple(text.splitlines()[-LAST_LINES:]))


def _is_finished(job: Job, folder: Path) -> bool:
    return (folder / BENCHMARK).exists() if job.benchmark else is_complete(folder)


@contextlib.contextmanager
def _claim(place: Place, job: Job, *, patient: bool, stop: threading.Event) -> Iterator[list[IO[str]] | None]:
    """The locks of a job, held within the block; None if somebody else has one (`patient`: not before `stop`).

    One lies with the records and one with the runs, since others may share either.
    """
    folders = [folder / ".locks" for folder in dict.fromkeys((place.records, place.runs))]
    with contextlib.ExitStack() as stack:
        locks: list[IO[str]] = []
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            locks.append(stack.enter_context(open(folder / f"{job.key}.lock", "w", opener=without_links)))
        while not _lock_all(locks):
            if not patient or stop.is_set():
                yield None
                return
            time.sleep(1)
        yield locks


def _lock_all(locks: Sequence[IO[str]]) -> bool:
    """Lock all files or none; whether it could be done."""
    if fcntl is None:
        return True
    for lock in locks:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            for taken in locks:
                fcntl.flock(taken, fcntl.LOCK_UN)
            return False
    return True


def _in_short(record: Record) -> str:
    """What a record says, in half a line."""
    chosen = f" {' '.join(record.overrides)}" if record.overrides else ""
    if record.outcome == "out_of_memory":
        return f"{chosen}: out of memory, as expected"
    val = "" if record.best is None else f", val {record.best:.2f}"
    minutes = "" if record.seconds is None else f", {record.seconds / 60:.1f} min"
    shown = [f"{name} {record.metrics[name]:.2f}" for name in HEADLINES if record.metrics.get(name) is not None]
    return f"{chosen}: {', '.join(shown[:1])}{val}{minutes}" if shown else chosen


class _Progress:
    """How many of the jobs are done and which are under way: a bar on a terminal, else a line for each."""

    def __init__(self, display: Display, total: int) -> None:
        self.display, self.total, self.done = display, total, 0
        self._bar, self._under_way, self._lock = Bar(None, None), dict[str, None](), threading.Lock()

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        with self.display.bar("runs", self.total) as self._bar:
            yield

    def begin(self, job: Job, log: Path) -> None:
        with self._lock:
            self._under_way[job.title] = None
            self.display.line(f"{job.title} begins, see {log}")
            self._bar.advance(0, ", ".join(self._under_way))

    def end(self, job: Job, text: str) -> None:
        with self._lock:
            self.done += 1
            self._under_way.pop(job.title, None)
            self.display.say(f"[{self.done}/{self.total}] {text}")
            self._bar.advance(1, ", ".join(self._under_way))
