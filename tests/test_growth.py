"""How cost grows: what is measured, and how an exponent is told."""

import subprocess
import sys

import numpy as np
import pytest

from diffsda.growth import CASES, costs, exponent


def test_a_fresh_process_tells_what_each_size_costs():
    found = costs("clips on disk", (40, 400))
    assert list(found["size"]) == [40, 400] and set(found["case"]) == {"clips on disk"}
    assert (found.seconds >= 0).all() and (found.mib.diff().dropna() >= 0).all()


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_an_exponent_is_that_of_the_larger_sizes(power):
    size = np.array([10, 30, 100, 300, 1000, 3000])
    cost = 0.2 * size**power + np.where(size < 100, 5.0, 0.0)  # what small sizes cost besides
    assert abs(exponent(size, cost) - power) < 1e-9


@pytest.mark.parametrize(
    "case, sizes, message",
    [
        ("moons", None, "unknown case 'moons'; there are frames of"),
        ("clips on disk", (400, 40), "rising"),
    ]
    + [("clips on disk", sizes, "at least two") for sizes in ((40,), (40, 40))],
)
def test_what_cannot_be_measured_is_refused(case, sizes, message):
    with pytest.raises(ValueError, match=message):
        costs(case, sizes)


def test_every_case_has_rising_sizes():
    assert all(list(sizes) == sorted(set(sizes)) and len(sizes) > 3 for _, sizes in CASES.values())


@pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere a process may start with its parent's peak"
)
def test_a_peak_is_the_process_own_however_large_its_parent_was():
    child = """
import numpy as np
from diffsda.growth import peak
before = peak()
np.ones(12_000_000)
print(before, peak() - before)"""
    parent = f"""
import subprocess, sys
import numpy as np
np.ones(150_000_000)  # 1.2 GB, gone at once
print(subprocess.run([sys.executable, "-c", {child!r}], capture_output=True, text=True).stdout)"""
    told = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True).stdout
    before, more = map(float, told.split())
    assert before < 1000 and more > 80
