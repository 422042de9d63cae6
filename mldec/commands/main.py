"""The `mldec` command: finds the command that is named, runs it, and turns what is raised into an exit code."""

from __future__ import annotations

import errno
import importlib
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from types import ModuleType

import mldec
from mldec import errors
from mldec.commands.messages import ONCE
from mldec.engine.interrupt import PREEMPTED, STOPPED, Terminated, ignore_signals, leave_on_signals
from mldec.errors import ConfigError, MldecError, printable, shortened, suggest

#: Commands by name. Each is the module `mldec.commands.<name>`, or the one in MODULES. It has `main(argv) -> exit code`
#: and the dataclass of its options, `OPTIONS`; or `SUBCOMMANDS`, dataclasses by the name of the subcommand.
COMMANDS = {
    "train": "compose an experiment, check it, train it; resume=RUN continues one, -m runs several",
    "show": "the resolved experiment, its size, cost, steps and schedule; trains nothing",
    "evaluate": "metrics and a table per label of a run, on its own dataset or another",
    "predict": "labels and scores of images; a zero-shot network predicts any labels",
    "import": "a run directory from published weights: the authors' files, timm's ML-Decoder, average pooling",
    "report": "a run, or several side by side, as one HTML page",
    "export": "a network for use elsewhere: ONNX, torch.export or safetensors, with a model card",
    "data": "download, verify, stats, browse, split, shrink, export: images and annotations",
    "cache": "build, list, clear: tokens of frozen backbones, on which cache.tokens=true trains a head",
    "table": "a table of the paper: its rows over their seeds, published values beside obtained ones",
    "benchmark": "the figures of speed and memory in the documentation",
}

MODULES = {"import": "import_weights"}  # a keyword of Python

#: Errors of the system for a path that cannot be right: bad input, while a full disk, for example, is a failure.
WRONG_PLACES = {errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP, errno.EINVAL}

USAGE = """mldec {version}: multi-label image classification with ML-Decoder

usage: mldec COMMAND [group=choice …] [key=value …]

{commands}

mldec COMMAND --help shows its options. First steps: mldec train experiment=digits"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run what `argv` names and leave with its exit code: 0 done, 1 failed, 2 bad input, 130 interrupted,
    75 stopped by the system (SIGTERM, SIGUSR1) and to be resumed."""
    _keep_imports_out_of_datasets()
    code = run(sys.argv[1:] if argv is None else list(argv))
    if code in (STOPPED, PREEMPTED):
        ignore_signals()
    sys.exit(code)


def _keep_imports_out_of_datasets() -> None:
    """Python processes that this one starts import nothing from the current directory, which may be a stranger's."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(mldec.__file__)))
    os.environ["PYTHONSAFEPATH"] = "1"
    if os.path.basename(root) not in ("site-packages", "dist-packages"):  # these are found as they are
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))


def run(argv: Sequence[str]) -> int:
    """Run what `argv` names; returns the exit code."""
    if not argv or argv[0] in ("-h", "--help"):
        commands = "\n".join(f"  {name:<10} {what}" for name, what in COMMANDS.items())
        print(USAGE.format(version=mldec.__version__, commands=commands))
        return 0
    if argv[0] == "--version":
        print(mldec.__version__)
        return 0
    shows_traceback = "debug=true" in map(str.lower, argv) or os.environ.get("MLDEC_DEBUG") == "1"
    handler = logging.StreamHandler()
    handler.setFormatter(_Printable("%(message)s"))
    handler.addFilter(ONCE)
    ONCE.seen.clear()
    logging.basicConfig(handlers=[handler])
    # Long work reports what it does; of several processes (torchrun, runtime.devices) the main one.
    logging.getLogger("mldec").setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING)
    try:
        with leave_on_signals():
            if argv[0] not in COMMANDS:
                raise ConfigError(f"{shortened(argv[0])}: no such command; {suggest(argv[0][:80], COMMANDS)}")
            command = importlib.import_module(f"mldec.commands.{MODULES.get(argv[0], argv[0])}")
            if {"-h", "--help"} & set(argv[1:]) or (hasattr(command, "SUBCOMMANDS") and not argv[1:]):
                print(_help(argv, command))
                return 0
            return int(command.main(list(argv[1:])))
    except BrokenPipeError:  # of `mldec … | head`, for example
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13  # as of a process that SIGPIPE ended
    except (MldecError, OSError) as error:  # OSError: a full disk, a directory that may not be written
        if shows_traceback:
            traceback.print_exc()
        _say(str(error))
        if isinstance(error, MldecError):
            return error.exit_code
        return 2 if error.errno in WRONG_PLACES else 1
    except Exception as error:
        if not errors.is_out_of_memory(error):
            raise
        if shows_traceback:
            traceback.print_exc()
        _say(errors.describe_out_of_memory(error))
        return 1
    except KeyboardInterrupt as interrupt:
        print("interrupted", file=sys.stderr)
        return PREEMPTED if isinstance(interrupt, Terminated) else STOPPED


def _help(argv: Sequence[str], command: ModuleType) -> str:
    """The help of a command, or of its subcommand."""
    from mldec.commands.help import command_help, subcommands_help

    if not hasattr(command, "SUBCOMMANDS"):
        return command_help(argv[0], command.OPTIONS)
    name = next((argument for argument in argv[1:] if argument in command.SUBCOMMANDS), None)
    if name is None:
        return subcommands_help(argv[0], command.__doc__ or "", command.SUBCOMMANDS)
    return command_help(f"{argv[0]} {name}", command.SUBCOMMANDS[name])


def _say(text: str) -> None:
    # Each of several processes names itself: all find the same mistake, or one alone has trouble.
    which = f"[process {rank}] " if (rank := os.environ.get("RANK", "0")) != "0" else ""
    print(f"{which}error: {errors.without_long_words(printable(text))}", file=sys.stderr)


class _Printable(logging.Formatter):
    """Escapes what a terminal would obey: warnings name files and labels."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))
