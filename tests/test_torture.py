"""A small share of the torture (`make torture`): each case once, by numbers of its own, and the runner tells what goes wrong."""

import faulthandler
import os
import time

import pytest
import torture
from torments import Missing, complete, inputs, long

from diffsda.cli import command_line
from diffsda.disentangler import Disentangler

SLOW = {  # cases that take longer than all others together, and those that other tests do in their way
    "kills": ("kill_training", "kill_prior", "kill_distillation", "kill_fit"),  # test_training
    "files": ("file_training",),
    "places": ("odd_path", "decimal_commas", "full_disk", "read_only", "two_processes"),
}


@pytest.mark.parametrize("part", ("kills", "inputs", "files", "places"))
def test_every_case_once(part, monkeypatch):
    cases = [case for case in torture.PARTS[part] if case.__name__ not in SLOW.get(part, ())]
    monkeypatch.setitem(torture.PARTS, part, cases)
    complete()
    rows = torture.tortured(part, len(cases), seed=1)
    assert len(rows) == len(cases) > 1
    assert [row["metric"] for row in rows if row["value"] != row["of"]] == []


def test_every_command_and_every_door_of_a_model_is_among_the_inputs(tmp_path):
    commands = command_line(False)._subparsers._group_actions[0].choices
    assert {line.split()[0] for line in inputs.COMMANDS.values()} == set(commands)
    public = {name for name, door in vars(Disentangler).items() if callable(door)}
    known = inputs.doors(complete(), tmp_path)
    assert {name for name in public if not name.startswith("_")} - {"fit"} <= set(known)


def test_what_fails_hangs_or_crashes_is_told():
    def fails(rng, folder):
        raise AssertionError(f"number {rng.integers(10)}")

    def crashes(rng, folder):
        faulthandler.disable()  # which would tell at length where
        os.abort()

    def lacks(rng, folder):
        raise Missing("a moon")

    assert torture.run_case(fails, (1, 2)) == torture.run_case(fails, (1, 2))
    assert "number" in torture.run_case(fails, (1, 2)).wrong
    assert "hangs" in torture.run_case(lambda rng, folder: time.sleep(60), 0, limit=0.2).wrong
    assert "crashed" in torture.run_case(crashes, 0).wrong
    assert torture.run_case(lambda rng, folder: None, 0) == ("", 1, "")
    assert torture.run_case(lambda rng, folder: 7, 0).tried == 7
    assert torture.run_case(lacks, 0) == ("", 0, "a moon")


def test_memory_that_grows_is_noticed():
    level = [10**8] * 20
    long.check_steady(level, 2000, (4, 4))
    with pytest.raises(AssertionError, match="bytes a step"):
        long.check_steady([10**8 + 10**6 * i for i in range(20)], 2000, (4, 4))
    with pytest.raises(AssertionError, match="stayed open"):
        long.check_steady(level, 2000, (4, 9))


def test_a_batch_that_is_kept_is_noticed_and_nothing_else_is():
    encode = "network, rng = small(), np.random.default_rng(1); encode = lambda: network.encode(some(rng))"
    keep = "kept = []; keep = lambda: kept.append(some(rng))"
    ended = long.apart(
        f"{encode}; repeated(encode, 60); print('steady'); {keep}; repeated(keep, 60)"
    )
    assert ended.stdout == "steady\n", ended.stderr
    assert "bytes a step" in ended.stderr
