"""What all tests share: one thread, so that sums have one order, random numbers that do not depend on other tests, and the order they run in."""

import os

# also of the kernels that tests start: waking a second thread takes longer than a small model's step
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch
from forked import Forked
from jupyter_client.provisioning import local_provisioner
from tqdm import tqdm

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _fixed_seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def forked_kernels():
    "Notebooks run in new kernels that need not import torch, which takes longer than many a notebook."
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_provisioner, "launch_kernel", Forked)
        yield


@pytest.fixture
def impatient(monkeypatch):
    "Bars that show at once what they would only show after seconds."
    real = tqdm.__init__
    at_once = lambda bar, *args, delay=0, **more: real(bar, *args, **more)
    monkeypatch.setattr(tqdm, "__init__", at_once)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    "Each worker of pytest-xdist starts with a share of the slow tests: none is left with a long one at the end."
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    slow = [item for item in items if item.get_closest_marker("slow")]
    rest = [item for item in items if item not in set(slow)]
    share = -(-len(rest) // workers)
    items[:] = [
        item
        for i in range(workers)
        for item in (*slow[i::workers], *rest[i * share : (i + 1) * share])
    ]
