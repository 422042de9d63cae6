"""`scripts/mutations.py`: its faults can still be made; that tests catch them is what running it shows."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("mutations", ROOT / "scripts" / "mutations.py")
mutations = importlib.util.module_from_spec(spec)
spec.loader.exec_module(mutations)


@pytest.mark.parametrize("fault", mutations.FAULTS, ids=lambda fault: fault.name)
def test_a_fault_changes_one_place_and_leaves_python(fault):
    source = (ROOT / "mldec" / fault.file).read_text(encoding="utf-8")
    compile(mutations.changed(source, fault), fault.file, "exec")
    assert (ROOT / "tests" / fault.tests.split()[0]).is_file()


def test_there_are_enough_and_no_name_stands_twice():
    assert len({fault.name for fault in mutations.FAULTS}) == len(mutations.FAULTS) >= 20


def test_what_is_not_there_is_said():
    with pytest.raises(ValueError, match=r"stands 0 times in losses\.py"):
        mutations.changed("", mutations.FAULTS[0])
