"""What all tests share: one thread, so that sums have one order, and random numbers that do not depend on other tests."""

import os

# also of the kernels that tests start: waking a second thread takes longer than a small model's step
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _fixed_seed():
    torch.manual_seed(0)
