"""A small share of the torture (`make torture`): each case once, by numbers of its own, and the runner tells what goes wrong."""

import os
import time

import pytest
import torture


@pytest.mark.parametrize("part", torture.PARTS)
def test_every_case_once(part):
    rows = torture.tortured(part, len(torture.PARTS[part]), seed=1)
    assert all(row["value"] == row["of"] == 1 for row in rows) and len(rows) == len(
        torture.PARTS[part]
    )


def test_what_fails_hangs_or_crashes_is_told():
    def fails(rng, folder):
        raise AssertionError(f"number {rng.integers(10)}")

    assert torture.run_case(fails, (1, 2)) == torture.run_case(fails, (1, 2)) != ""
    assert "number" in torture.run_case(fails, (1, 2))
    assert "hangs" in torture.run_case(lambda rng, folder: time.sleep(60), 0, limit=0.2)
    assert "crashed" in torture.run_case(lambda rng, folder: os.abort(), 0)
    assert torture.run_case(lambda rng, folder: None, 0) == ""
