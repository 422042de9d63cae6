"""Rows times seeds: none twice, none lost, whoever runs them."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from mldec.engine.display import Display
from mldec.errors import printable
from mldec.paper import runner
from mldec.paper.records import Record, find_records, rounds_of_row, write_record
from mldec.paper.runner import Job, Workspace, command, run_jobs, shell_lines, slurm_script

#: Stands in for a training: notes that it began, then leaves what a run folder holds, or fails.
TRAINING = """
import json, os, sys, time
folder, mode = sys.argv[1:]
os.makedirs(folder + "/checkpoints", exist_ok=True)
with open(os.path.dirname(folder) + "/begun.txt", "a") as file:
    file.write(os.path.basename(folder) + " " + os.environ.get("CUDA_VISIBLE_DEVICES", "-") + "\\n")
time.sleep(0.2)
if mode == "fail":
    print("\\n".join(f"line {n}" for n in range(40)))
    print("error: something is wrong")
    sys.exit(2)
if mode == "killed":
    os.kill(os.getpid(), 9)
with open(folder + "/environment.json", "w") as file:
    json.dump({"device": "cpu", "commit": "abc"}, file)
if mode == "memory":
    print("error: out of memory on cuda at step 1")
    sys.exit(1)
with open(folder + "/metrics.jsonl", "w") as file:
    val = {"kind": "eval", "step": 1, "epoch": 1, "best": 70.0, "reported": "ema", "ema": {"mAP": 70.0}}
    file.write(json.dumps(val) + "\\n")
    test = {"kind": "test", "step": 1, "epoch": 1, "protocol": "standard", "weights": "ema", "mAP": 71.5}
    file.write(json.dumps(test) + "\\n")
with open(folder + "/cost.json", "w") as file:
    json.dump({"seconds": 12.5, "peak_memory": {"host": 1000}}, file)
"""


class Said(Display):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.texts: list[str] = []

    def say(self, text: str) -> None:
        self.texts.append(text)


def job(row: str = "gap", seed: int = 0, **more: object) -> Job:
    return Job(
        table="table1",
        row=row,
        scale="desk",
        seed=seed,
        key=f"{row}{seed:08d}",
        experiment=f"desk/table1/{row}",
        **more,
    )


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(records=tmp_path / "records", runs=tmp_path / "runs", slots=({}, {}))


@pytest.fixture
def training(tmp_path: Path, monkeypatch):
    """Runs are the script above, in the mode that the row is named after."""
    script = tmp_path / "training.py"
    script.write_text(textwrap.dedent(TRAINING))

    def stand_in(job: Job, workspace: Workspace) -> list[str]:
        return [sys.executable, str(script), str(workspace.runs / job.folder_name), job.row]

    monkeypatch.setattr(runner, "command", stand_in)
    return script


def begun(workspace: Workspace) -> list[str]:
    path = workspace.runs / "begun.txt"
    return path.read_text().splitlines() if path.exists() else []


def test_every_job_leaves_a_record_and_is_not_run_again(workspace, training):
    jobs = [job(seed=seed) for seed in range(3)]
    said = Said()
    assert not run_jobs(jobs, workspace, said).failures
    records = find_records(workspace.records).by_key
    assert set(records) == {j.key for j in jobs}
    record = records[jobs[0].key]
    assert (record.metrics["mAP"], record.best, record.seconds) == (71.5, 70.0, 12.5)
    assert record.val == {"mAP": 70.0}
    assert (record.peak_memory, record.environment, record.protocol) == (
        {"host": 1000},
        {"device": "cpu", "commit": "abc"},
        "standard",
    )
    assert len(begun(workspace)) == 3
    run_jobs([*jobs, job(seed=3)], workspace, said)
    assert len(begun(workspace)) == 4
    assert "3 of 4 runs already have records" in said.texts


def test_a_run_that_two_tables_share_is_made_once(workspace, training):
    twin = Job(**{**job().__dict__, "table": "table7", "row": "random"})
    run_jobs([job(), twin], workspace, Display(quiet=True))
    assert len(begun(workspace)) == 1


def test_a_failed_row_does_not_stop_the_others_and_shows_its_last_lines(workspace, training):
    outcome = run_jobs([job("fail"), job("gap"), job("gap", 1)], workspace, Display(quiet=True))
    assert len(find_records(workspace.records).by_key) == 2
    (failure,) = outcome.failures
    assert failure.code == 2
    assert failure.lines[-1] == "error: something is wrong"
    assert len(failure.lines) == runner.LAST_LINES
    assert "table1/fail seed 0 failed with exit code 2" in str(failure)
    assert "line 0" in failure.log.read_text()


def test_running_out_of_memory_is_a_result_only_where_it_is_expected(workspace, training):
    outcome = run_jobs([job("memory", 0), job("memory", 1, expect="out_of_memory")], workspace, Display(quiet=True))
    assert [failure.job.seed for failure in outcome.failures] == [0]
    (record,) = find_records(workspace.records).by_key.values()
    assert (record.seed, record.outcome, dict(record.metrics)) == (1, "out_of_memory", {})
    assert record.environment == {"device": "cpu", "commit": "abc"}  # whose memory did not suffice


def test_a_process_that_the_system_kills_ran_out_of_memory(workspace, training):
    outcome = run_jobs([job("killed", 0), job("killed", 1, expect="out_of_memory")], workspace, Display(quiet=True))
    assert [failure.job.seed for failure in outcome.failures] == [0]
    assert [r.outcome for r in find_records(workspace.records).by_key.values()] == ["out_of_memory"]


def test_another_failure_is_none_where_memory_was_expected_to_run_out(workspace, training):
    outcome = run_jobs([job("fail", expect="out_of_memory")], workspace, Display(quiet=True))
    assert len(outcome.failures) == 1
    assert not find_records(workspace.records).by_key


def test_two_runners_on_one_folder_lose_nothing_and_run_nothing_twice(workspace, training):
    jobs = [job(seed=seed) for seed in range(8)]
    threads = [threading.Thread(target=run_jobs, args=(jobs, workspace, Display(quiet=True))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(find_records(workspace.records).by_key) == 8
    assert len(begun(workspace)) == len(set(begun(workspace))) == 8


@pytest.mark.parametrize("shared", ["records", "runs"])
def test_two_runners_that_share_only_one_of_their_folders_run_nothing_twice(shared, workspace, training, tmp_path):
    """With one folder of records each run is made once; with one of runs, none is made by two at a time."""
    other = replace(workspace, **{"runs" if shared == "records" else "records": tmp_path / "other"})
    jobs = [job(seed=seed) for seed in range(4)]
    threads = [threading.Thread(target=run_jobs, args=(jobs, p, Display(quiet=True))) for p in (workspace, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for folder in {workspace.records, other.records}:
        assert len(find_records(folder).by_key) == 4
    assert len([*begun(workspace), *(begun(other) if other.runs != workspace.runs else [])]) == 4


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGUSR1, 75)])
def test_asked_to_stop_nothing_is_begun_and_the_next_call_goes_on(signum, code, workspace, training, tmp_path):
    """Ctrl-C reaches the runner and its trainings alike; what the system sends to the runner alone is passed on. The
    trainings save and exit with a code that says so."""
    script = training.read_text().replace(
        "time.sleep(0.2)",
        f"import signal; signal.signal({int(signum)}, lambda *_: sys.exit({code}))\nif mode == 'slow': time.sleep(60)",
    )
    training.write_text(script)
    jobs = [job("gap"), *(job("slow", seed) for seed in range(6))]
    first = tmp_path / "first.py"
    first.write_text(
        f"""
import signal, sys
from pathlib import Path
from mldec.engine.display import Display
from mldec.paper import runner
signal.signal(signal.SIGINT, signal.default_int_handler)  # a runner that was started in the background ignores it
runs = Path({str(workspace.runs)!r})
workspace = runner.Workspace(records=Path({str(workspace.records)!r}), runs=runs, slots=({{}}, {{}}))
runner.command = lambda job, _: [sys.executable, {str(training)!r}, str(runs / job.folder_name), job.row]
jobs = [runner.Job(**words) for words in {[j.__dict__ for j in jobs]!r}]
outcome = runner.run_jobs(jobs, workspace, Display(quiet=True))
sys.exit(1 if outcome.failures else outcome.stopped)
"""
    )
    process = subprocess.Popen([sys.executable, str(first)], start_new_session=True)
    deadline = time.monotonic() + 60
    while sum("slow" in line for line in begun(workspace)) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)  # the handler of the second is set a moment after it began
    os.killpg(process.pid, signum) if signum == signal.SIGINT else process.send_signal(signum)
    assert process.wait(timeout=60) == code
    assert len(begun(workspace)) == 3
    assert [record.row for record in find_records(workspace.records).by_key.values()] == ["gap"]
    training.write_text(script.replace("time.sleep(60)", "pass"))
    assert not run_jobs(jobs, workspace, Display(quiet=True)).failures
    assert len(find_records(workspace.records).by_key) == 7


def test_a_training_whose_runner_was_killed_keeps_its_lock(workspace, training, tmp_path):
    """The runner dies, its training goes on; a second runner waits for it instead of training beside it."""
    slow = training.read_text().replace("time.sleep(0.2)", "time.sleep(3)")
    training.write_text(slow)
    script = tmp_path / "first.py"
    script.write_text(
        f"""
import sys
from pathlib import Path
from mldec.engine.display import Display
from mldec.paper import runner
runs = Path({str(workspace.runs)!r})
workspace = runner.Workspace(records=Path({str(workspace.records)!r}), runs=runs)
runner.command = lambda job, _: [sys.executable, {str(training)!r}, str(runs / job.folder_name), "gap"]
runner.run_jobs([runner.Job(**{job().__dict__!r})], workspace, Display(quiet=True))
"""
    )
    first = subprocess.Popen([sys.executable, str(script)])
    for _ in range(200):
        if begun(workspace):
            break
        time.sleep(0.1)
    first.send_signal(signal.SIGKILL)
    first.wait()
    said = Said()
    run_jobs([job()], workspace, said)
    assert len(begun(workspace)) == 1
    assert any("waiting for it" in text for text in said.texts)
    assert len(find_records(workspace.records).by_key) == 1  # made from the finished run folder


def test_each_process_gets_the_gpu_of_its_slot(workspace, training):
    places = Workspace(
        records=workspace.records,
        runs=workspace.runs,
        slots=({"CUDA_VISIBLE_DEVICES": "2"}, {"CUDA_VISIBLE_DEVICES": "5"}),
    )
    run_jobs([job(seed=seed) for seed in range(6)], places, Display(quiet=True))
    used = [line.split()[1] for line in begun(workspace)]
    assert set(used) == {"2", "5"}


def test_the_command_trains_or_resumes(workspace):
    words = command(job(overrides=("schedule.epochs=2",)), workspace)
    assert words[1:5] == ["-m", "mldec", "train", "experiment=desk/table1/gap"]
    assert {"schedule.epochs=2", "seed=0"} <= set(words)
    folder = workspace.runs / job().folder_name
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "last.pt").touch()
    assert command(job(), workspace)[4:] == [f"resume={folder}"]


def test_commands_and_job_arrays_name_every_job(tmp_path):
    jobs = [job(seed=0), job(seed=1), job("k20")]
    lines = shell_lines(jobs, ["output=/a b/c"])
    assert lines[0] == "mldec table table1 scale=desk rows=gap seeds=0 'output=/a b/c'"
    script = tmp_path / "array.sh"
    script.write_text(slurm_script("table1", lines).replace("eval ", "echo "))
    assert "--array=0-2" in script.read_text()
    for number, line in enumerate(lines):
        environment = {**os.environ, "SLURM_ARRAY_TASK_ID": str(number)}
        shown = subprocess.run(["bash", str(script)], capture_output=True, text=True, check=True, env=environment)
        assert shown.stdout.strip() == line


def test_a_task_of_a_job_array_runs_its_line_as_it_was_quoted(tmp_path):
    script = tmp_path / "array.sh"
    script.write_text(slurm_script("table1", ["exit 3", f"printf '%s|' 'a  b' \"it's\" > '{tmp_path}/a file'"]))
    for number, code in ((0, 3), (1, 0)):
        environment = {**os.environ, "SLURM_ARRAY_TASK_ID": str(number)}
        assert subprocess.run(["bash", str(script)], env=environment).returncode == code
    assert (tmp_path / "a file").read_text() == "a  b|it's|"


def test_records_of_another_version_or_shape_are_listed_and_not_mixed_in(tmp_path):
    record = Record(
        table="table1", row="gap", scale="desk", seed=0, key="k" * 16, experiment="e", overrides=(), outcome="finished",
        protocol="standard", metrics={"mAP": 1.0},
    )  # fmt: skip
    path = write_record(tmp_path, record)
    assert find_records(tmp_path).by_key == {record.key: record}
    content = json.loads(path.read_text())
    (tmp_path / "old.json").write_text(json.dumps({**content, "version": 0}))
    (tmp_path / "more.json").write_text(json.dumps({**content, "surprise": 1}))
    (tmp_path / "broken.json").write_text("{")
    found = find_records(tmp_path)
    assert set(found.by_key) == {record.key}
    reasons = {file.name: reason for file, reason in found.skipped.items()}
    assert reasons["old.json"] == "is a record of version 0; this mldec writes version 1"
    assert "surprise" in reasons["more.json"]
    assert "broken.json" in reasons


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": "\x1b[31mX\n"}, "is a record of version \\x1b[31mX\\n; this mldec writes version 1"),
        ({"version": True}, "version=True: expected an integer, found true/false"),
        ({"\x1b]0;pwn\x07": 1}, "holds \\x1b]0;pwn\\x07; expected text without control characters"),
        ({"overrides": ..., "metrics": ...}, "metrics: missing; a value is needed"),
        ({"surprise": 1}, "surprise: a record has no such setting"),
        ({"key": [1]}, "key=[1]: expected text"),
        ({"row": "a\x1b[2J"}, "holds a\\x1b[2J; expected text without control characters"),
        ({"seed": 1.5}, "seed=1.5: expected an integer"),
        ({"overrides": None}, "overrides=None: expected a list (each text)"),
        ({"overrides": [["a"]]}, "expected text, found a list"),
        ({"outcome": "won"}, "outcome=won: expected one of finished, out_of_memory"),
        ({"metrics": [1]}, "metrics=[1]: expected an object of numbers"),
        ({"metrics": {"mAP": "80"}}, "metrics={'mAP': '80'}: expected an object of numbers"),
        ({"metrics": {"mAP": 1e308}}, "expected an object of numbers"),
        ({"metrics": {"a\x9b": 1}}, "holds a\\x9b; expected text without control characters"),
        ({"best": True}, "best=True: expected a number"),
        ({"seconds": float("nan")}, "seconds=nan: expected a number"),
        ({"peak_memory": {"host": None}}, "expected an object of numbers"),
        ({"environment": {"packages": {"torch": "\u202e"}}}, "holds \\u202e; expected text without control characters"),
        ({"environment": {"device": ["a"]}}, "expected an object of texts and numbers"),
    ],
)
def test_each_entry_of_a_strangers_record_is_checked(change, reason, tmp_path):
    record = Record(
        table="table1", row="gap", scale="desk", seed=0, key="k" * 16, experiment="e", outcome="finished",
        protocol="standard", metrics={"mAP": 1.0}, environment={"device": "a", "packages": {"torch": None}},
    )  # fmt: skip
    path = write_record(tmp_path, record)
    assert list(find_records(tmp_path).by_key) == [record.key]
    content = {name: value for name, value in (json.loads(path.read_text()) | change).items() if value is not ...}
    path.write_text(json.dumps(content))
    found = find_records(tmp_path)
    assert not found.by_key
    (shown,) = found.skipped.values()
    assert reason in shown
    assert printable(shown) == shown


def test_metrics_of_other_names_are_no_rounds_of_a_benchmark():
    record = Record(
        table="table9", row="a", scale="desk", seed=0, key="k" * 16, experiment="e", outcome="finished", protocol="",
        metrics={"a.train_speed.0": 1.0, "a.train_speed.1": 2.0, "a": 3.0, "a.b": 4.0, "a.b.x": 5.0, "b.speed.0": 6.0},
    )  # fmt: skip
    assert [(one.seed, one.metrics) for one in rounds_of_row(record, "a")] == [
        (0, {"train_speed": 1.0}),
        (1, {"train_speed": 2.0}),
    ]


def test_two_records_of_one_run_with_different_results_are_reported(workspace, training):
    run_jobs([job()], workspace, Said())
    (record,) = find_records(workspace.records).by_key.values()
    path = workspace.records / record.file_name
    (workspace.records / "zz.json").write_text(path.read_text().replace("71.5", "99.9"))
    found = find_records(workspace.records)
    assert found.by_key[record.key].metrics["mAP"] == 71.5
    assert "is of the same run, and has another content" in found.skipped[workspace.records / "zz.json"]
