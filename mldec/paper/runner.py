"""Runs the rows of a table: one process per row and seed, several at a time, none twice.

A run that has a record is skipped; one that was interrupted is resumed. Several runners may share one results folder:
the first to start a run holds its lock until its process ends, however it ends.
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
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import IO

import torch

from mldec.engine.display import Bar, Display
from mldec.engine.evaluator import HEADLINES
from mldec.engine.interrupt import PREEMPTED, STOPPED, pass_on
from mldec.engine.metric_writer import is_complete
from mldec.errors import OUT_OF_MEMORY, ConfigError
from mldec.files import lock_file, without_links
from mldec.paper import records
from mldec.paper.markup import fill_template
from mldec.paper.records import Record, RunIdentity
from mldec.system import usable_cores

LOG = "log.txt"  # in the run directory: what the process printed
LAST_LINES = 15  # of the log of a failed run
KILLED = (-9, 137)  # exit codes of a process that Linux killed because the host ran out of memory


@dataclass(frozen=True, kw_only=True)
class Job(RunIdentity):
    """One row with one seed, to be run.

    Attributes:
        expect: "out_of_memory" where running out of memory is the result.
        benchmark: what follows `mldec benchmark`, where that measures all rows of a table at once.
    """

    expect: str | None = None
    benchmark: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """`table1/gap seed 0`."""
        return f"{self.table}/{self.row} seed {self.seed}"

    @property
    def folder_name(self) -> str:
        """The name of its run directory, unless another table has begun the same training."""
        return f"{self.experiment.replace('/', '_')}_seed{self.seed}_{self.key[:8]}"


@dataclass(frozen=True)
class Failure:
    """A job whose process failed: its exit code, its log, and the log's last lines."""

    job: Job
    code: int
    log: Path
    lines: tuple[str, ...]

    def __str__(self) -> str:
        text = "\n".join(f"    {line}" for line in self.lines)
        return f"{self.job.title} failed with exit code {self.code}; {self.log} ends with\n{text}"


@dataclass
class Outcome:
    """What could not be run.

    Attributes:
        failures: runs that failed.
        unavailable: by experiment, the dataset that cannot be used, as "coco in /data/coco".
        stopped: the exit code of a stop that the user or the system requested, else 0.
    """

    failures: list[Failure] = field(default_factory=list)
    unavailable: dict[str, str] = field(default_factory=dict)
    stopped: int = 0


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """Where runs are kept and how many run at a time.

    Attributes:
        records: folder of the records.
        runs: folder of the run directories.
        slots: environment variables of each of the concurrent processes, e.g. {"CUDA_VISIBLE_DEVICES": "3"}.
        runtime: overrides of every run, also of a resumed one, e.g. runtime.threads=1.
        components: options by which every process finds the user's components and configs: plugins=…, --config-dir=….
    """

    records: Path
    runs: Path
    slots: tuple[Mapping[str, str], ...] = ({},)
    runtime: tuple[str, ...] = ()
    components: tuple[str, ...] = ()


def slots(jobs: int | None, gpus: Sequence[int] | None) -> tuple[tuple[dict[str, str], ...], tuple[str, ...]]:
    """The environment of each process that may run at a time, and the overrides that all of them get.

    Args:
        jobs: how many processes; None: one per GPU, or one per core.
        gpus: numbers of the GPUs to use; None: all.

    Raises ConfigError for a GPU that this machine does not have.
    """
    cores, there = usable_cores(), torch.cuda.device_count()
    numbers = range(there) if gpus is None else gpus
    if any(number >= there for number in numbers):
        raise ConfigError(f"gpus={','.join(map(str, numbers))}: there are {there} GPUs here, counted from 0")
    names = [str(number) for number in numbers]
    # Where only some GPUs are to be used, numbers count within these.
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    names = [visible[int(name)] if len(visible) == there else name for name in names]
    jobs = jobs or len(names) or cores
    if names:
        return tuple({"CUDA_VISIBLE_DEVICES": names[number % len(names)]} for number in range(jobs)), ()
    # Without a GPU one process per core with one thread each is the most that a machine can do.
    threads = max(1, cores // jobs)
    return ({},) * jobs, (f"runtime.threads={threads}", f"runtime.workers={0 if threads == 1 else 1}")


def run_jobs(jobs: Sequence[Job], workspace: Workspace, display: Display, outcome: Outcome | None = None) -> Outcome:
    """Run all jobs that have no record yet, and write their records. Returns `outcome` with what could not be run.

    A failed job does not keep the others from running. After Ctrl-C, SIGTERM or SIGUSR1 no job is started, running
    ones save and stop, and the next call resumes them.
    """
    unique = list({job.key: job for job in jobs}.values())
    known = records.find_records(workspace.records).by_key
    waiting = [job for job in unique if job.key not in known]
    if len(waiting) < len(unique):
        display.say(f"{len(unique) - len(waiting)} of {len(unique)} runs already have records")
    untaken: SimpleQueue[Mapping[str, str]] = SimpleQueue()
    for slot in workspace.slots:
        untaken.put(slot)
    outcome, stop, elsewhere = outcome or Outcome(), threading.Event(), list[Job]()
    processes: set[subprocess.Popen[bytes]] = set()
    thread = threading.local()

    def take_slot() -> None:
        thread.slot = untaken.get()  # each thread keeps one

    def work(job: Job, patient: bool = False) -> None:
        with _claim(workspace, job, patient=patient, stop=stop) as locks:
            if stop.is_set() or interrupt.requested:
                return
            if locks is None:
                elsewhere.append(job)
                return
            if records.has_record(workspace.records, job.key):
                return  # another runner was faster
            log = job_folder(job, workspace) / LOG
            progress.begin(job, log)
            try:
                result = _run(job, workspace, thread.slot, locks, processes)
            except (OSError, ValueError, KeyError) as error:  # a full disk, a damaged run directory: others continue
                result = Failure(job, 1, log, (f"{type(error).__name__}: {error}",))
            if isinstance(result, Record):
                progress.end(job, f"{job.title}{_summary(result)}")
            elif interrupt.requested or result.code in (STOPPED, PREEMPTED):
                outcome.stopped = PREEMPTED if result.code == PREEMPTED else STOPPED
                stop.set()
            else:
                outcome.failures.append(result)
                progress.end(job, str(result))

    with (
        pass_on(processes) as interrupt,
        display.bar("runs", len(waiting)) as bar,
        ThreadPoolExecutor(len(workspace.slots), initializer=take_slot) as pool,
    ):
        progress = _Progress(display, bar, len(waiting))
        try:
            list(pool.map(work, waiting))
            for job in elsewhere:
                display.say(f"{job.title} is being run by another process; waiting for it")
            list(pool.map(partial(work, patient=True), tuple(elsewhere)))
        except KeyboardInterrupt:
            stop.set()  # the processes received the signal too; the pool waits until they have saved
    if interrupt.requested:
        outcome.stopped = PREEMPTED
    elif stop.is_set() and not outcome.stopped:
        outcome.stopped = STOPPED
    return outcome


def job_folder(job: Job, workspace: Workspace) -> Path:
    """The run directory of a job: the one in which it was begun, even for another table, else one named after it."""
    begun = sorted(workspace.runs.glob(f"*_seed{job.seed}_{job.key[:8]}"))
    return begun[0] if begun else workspace.runs / job.folder_name


def command(job: Job, workspace: Workspace) -> list[str]:
    """The command line of a job; for an interrupted training, the one that resumes it."""
    folder = job_folder(job, workspace)
    if job.benchmark:
        given = ["benchmark", *job.benchmark, *job.overrides, f"output={folder / records.BENCHMARK}"]
    elif (folder / "checkpoints" / "last.pt").exists():
        given = ["train", f"resume={folder}"]
    else:
        given = ["train", f"experiment={job.experiment}", *job.overrides, f"seed={job.seed}"]
        given += [f"output={workspace.runs}", f"run_dir={folder}"]
    return [sys.executable, "-m", "mldec", *given, *workspace.runtime, *workspace.components]


def shell_lines(jobs: Sequence[Job], options: Sequence[str]) -> list[str]:
    """A shell command for each job, which runs it alone and writes its record.

    Args:
        options: what every command gets, such as output=….
    """
    lines = []
    for job in jobs:
        which = [] if job.benchmark else [f"rows={job.row}", f"seeds={job.seed}"]
        lines.append(shlex.join(["mldec", "table", job.table, f"scale={job.scale}", *which, *options]))
    return lines


def slurm_script(name: str, lines: Sequence[str], *, gpus: int = 1) -> str:
    """A Slurm job array with one task per line. A requeued task resumes what it had begun."""
    tasks = "\n".join(f"  {shlex.quote(line)}" for line in lines)
    return fill_template("job_array.sh", name=name, last=len(lines) - 1, gpus=gpus, tasks=tasks)


def _run(
    job: Job,
    workspace: Workspace,
    slot: Mapping[str, str],
    locks: Sequence[IO[str]],
    processes: set[subprocess.Popen[bytes]],
) -> Record | Failure:
    """Train a job to its end, in one of `processes`, and write its record; returns that, or why there is none."""
    folder = job_folder(job, workspace)
    log = folder / LOG
    code, log_start = 0, log.stat().st_size if log.exists() else 0
    if not ((folder / records.BENCHMARK).exists() if job.benchmark else is_complete(folder)):
        folder.mkdir(parents=True, exist_ok=True)
        with open(log, "a", encoding="utf-8", opener=without_links) as file:
            process = subprocess.Popen(
                command(job, workspace),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **slot},
                # Locks are held as long as one of the two is alive: a runner that is killed leaves its training behind.
                pass_fds=[lock.fileno() for lock in locks] if os.name == "posix" else (),
            )
            processes.add(process)
            code = process.wait()
            processes.discard(process)
    if code == 0:
        record = records.record_of_benchmark(folder, job) if job.benchmark else records.record_of_run(folder, job)
    else:
        text = log.read_bytes()[log_start:].decode("utf-8", "replace")
        exhausted = code in KILLED or any(sign in text for sign in (*OUT_OF_MEMORY, "MemoryError"))
        if job.expect != "out_of_memory" or not exhausted:
            return Failure(job, code, log, tuple(text.splitlines()[-LAST_LINES:]))
        record = records.record_without_memory(folder, job)
    records.write_record(workspace.records, record)
    return record


@contextlib.contextmanager
def _claim(workspace: Workspace, job: Job, *, patient: bool, stop: threading.Event) -> Iterator[list[IO[str]] | None]:
    """The locks of a job, held within the block; None if another process has one (`patient`: waits until `stop`).

    One lock is beside the records and one beside the runs, since other runners may share either folder.
    """
    folders = [folder / ".locks" for folder in dict.fromkeys((workspace.records, workspace.runs))]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    while True:
        with contextlib.ExitStack() as stack:
            paths = [folder / f"{job.key}.lock" for folder in folders]
            locks: list[IO[str]] = [stack.enter_context(open(path, "w", opener=without_links)) for path in paths]
            if all(map(lock_file, locks, paths)):
                yield locks
                return
        if not patient or stop.is_set():
            yield None
            return
        time.sleep(1)


def _summary(record: Record) -> str:
    """The result of a record, in half a line."""
    chosen = f" {' '.join(record.overrides)}" if record.overrides else ""
    if record.outcome == "out_of_memory":
        return f"{chosen}: out of memory, as expected"
    val = "" if record.best is None else f", val {record.best:.2f}"
    minutes = "" if record.seconds is None else f", {record.seconds / 60:.1f} min"
    shown = [f"{name} {record.metrics[name]:.2f}" for name in HEADLINES if record.metrics.get(name) is not None]
    return f"{chosen}: {', '.join(shown[:1])}{val}{minutes}" if shown else chosen


class _Progress:
    """How many jobs are done and which are running: a progress bar on a terminal, else a line for each."""

    def __init__(self, display: Display, bar: Bar, total: int) -> None:
        self.display, self._bar, self.total, self.done = display, bar, total, 0
        self._running, self._lock = dict[str, None](), threading.Lock()

    def begin(self, job: Job, log: Path) -> None:
        with self._lock:
            self._running[job.title] = None
            self.display.line(f"{job.title} started, see {log}")
            self._bar.advance(0, ", ".join(self._running))

    def end(self, job: Job, text: str) -> None:
        with self._lock:
            self.done += 1
            self._running.pop(job.title, None)
            self.display.say(f"[{self.done}/{self.total}] {text}")
            self._bar.advance(1, ", ".join(self._running))
