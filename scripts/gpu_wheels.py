"""Download what `make gpu-check` needs and a GPU machine without a network may lack, as wheels into .wheels/.

    python scripts/gpu_wheels.py                         # what mldec and pytest need, in the versions installed here
    python scripts/gpu_wheels.py lacks=scipy,matplotlib  # also these, which such a machine is expected to have

    python=3.12       of that machine; Linux on x86-64
    lacks=NAME[,…]    any of opencv-python-headless, scipy, scikit-learn, matplotlib, tensorboard

torch, torchvision, timm and their dependencies are never included: their versions belong to that machine's driver.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".wheels"
OF_TORCH = ("torch", "torchvision", "timm", "numpy", "pillow", "pyyaml")
#: Large, and part of every machine-learning image that we know.
ASSUMED = ("opencv-python-headless", "scipy", "scikit-learn", "matplotlib", "tensorboard")
SOURCE_ONLY = ("antlr4-python3-runtime",)  # pure Python without a wheel in the registry: one is built
GLIBC = ("1", "2010", "2014", *(f"_2_{minor}" for minor in range(5, 36)))
PLATFORMS = ["any", *(f"manylinux{oldest}_x86_64" for oldest in GLIBC)]


def main(argv: Sequence[str]) -> int:
    given = {key: value for key, _, value in (argument.partition("=") for argument in argv)}
    python, lacks = given.pop("python", "3.12"), [name for name in given.pop("lacks", "").split(",") if name]
    wrong = [f"{key}: no such option; allowed: python, lacks" for key in given]
    wrong += [f"lacks={name}: allowed are {', '.join(ASSUMED)}" for name in lacks if name not in ASSUMED]
    wrong += [] if re.fullmatch(r"3\.\d+", python) else [f"python={python}: expected a version such as 3.12"]
    if wrong:
        print(f"error: {wrong[0]}", file=sys.stderr)
        return 2
    names = needed_packages(python, lacks)
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        download(names, python, Path(folder))
        for old in FOLDER.glob("*.whl"):
            old.unlink()
        for wheel in Path(folder).glob("*.whl"):
            wheel.rename(FOLDER / wheel.name)
    sizes = {wheel.name: wheel.stat().st_size for wheel in sorted(FOLDER.glob("*.whl"))}
    for name, size in sizes.items():
        print(f"{size / 1e6:8.2f} MB  {name}")
    print(f"{sum(sizes.values()) / 1e6:8.2f} MB  in {len(sizes)} wheels for Python {python}, in {FOLDER}")
    return 0


def needed_packages(python: str, lacks: Sequence[str] = ()) -> list[str]:
    """`name==version` of all that mldec and pytest need, without what that machine is expected to have."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    present = closure([*OF_TORCH, *(name for name in ASSUMED if name not in lacks)], python)
    wanted = closure([Requirement(line).name for line in project["dependencies"]] + ["pytest"], python)
    return sorted(f"{name}=={version(name)}" for name in wanted - present)


def closure(names: Iterable[str], python: str) -> set[str]:
    """These packages and their dependencies on Linux, without extras, from the metadata of those installed here."""
    environment = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux", "extra": ""}
    environment |= {"platform_system": "Linux", "platform_machine": "x86_64", "os_name": "posix"}
    found: set[str] = set()
    pending = [canonical(name) for name in names]
    while pending:
        name = pending.pop()
        if name in found:
            continue
        try:
            lines = requires(name) or ()
        except PackageNotFoundError:
            continue  # needed by another system or Python than this one
        found.add(name)
        used = (r for r in map(Requirement, lines) if r.marker is None or r.marker.evaluate(environment))
        pending += [canonical(requirement.name) for requirement in used]
    return found


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def download(pinned: Sequence[str], python: str, folder: Path) -> None:
    """Wheels of `pinned` into `folder`. Raises CalledProcessError after pip has printed why."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    source = [each for each in pinned if each.partition("==")[0] in SOURCE_ONLY]
    wheels = [each for each in pinned if each not in source]
    where = ["--python-version", python, "--implementation", "cp", *(f"--platform={name}" for name in PLATFORMS)]
    subprocess.run(
        [*pip, "download", "--no-deps", "--only-binary=:all:", *where, "--dest", folder, *wheels], check=True
    )
    if source:
        subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder, *source], check=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
