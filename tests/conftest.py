"""Settings that all tests share: no hub, quiet libraries, and the variables that mpirun needs as root on two cores."""

import collections
import contextlib
import gc
import os
import signal
import time
from pathlib import Path

import pytest

from tests import forking, leftovers

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMPI_ALLOW_RUN_AS_ROOT"] = "1"
os.environ["OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] = "1"
os.environ["PRTE_MCA_rmaps_default_mapping_policy"] = ":oversubscribe"  # noqa: SIM112 - Open MPI's spelling

SESSION = leftovers.mark()
forking.keep_environment()


LONG = ("mpi", "slow", "smollm2")


def pytest_collection_modifyitems(config, items):
    """In workers of xdist, begin with the files that take longest: those with most tests that are slow, start ranks or
    need the real model. With `--no-loadscope-reorder` all workers then end at about the same time. Before them come the
    tests that compare two starts of a process: a real start inherits more from a worker that has run other tests."""
    if hasattr(config, "workerinput"):
        tests = collections.Counter(item.path for item in items)
        long = collections.Counter(item.path for item in items if any(map(item.get_closest_marker, LONG)))
        items.sort(key=lambda item: (item.path.name != "test_forking.py", -long[item.path], -tests[item.path]))


@pytest.fixture
def rewards():
    """Creates sets of reward functions with killable workers, and checks that they leave no process behind."""
    from tests.hostile import watched_rewards

    yield from watched_rewards()


@pytest.fixture
def one_thread():
    """Sets torch to one thread for a test: with more, small models are slower, and much slower on a busy machine."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


MODELS = Path(__file__).parent.parent / "models"


@pytest.fixture(scope="session")
def smollm2():
    """The directory of SmolLM2-135M-Instruct in float32. Tests that need it are marked `smollm2`; without the model
    they fail, because a test that is skipped unseen tests nothing."""
    return _made(MODELS / "smollm2-135m-instruct")


@pytest.fixture(scope="session")
def smollm2_gguf():
    """The same model as a GGUF file of 4 bits a weight."""
    return _made(MODELS / "smollm2-135m-instruct-gguf") / "SmolLM2-135M-Instruct.Q4_1.gguf"


def _made(path):
    if not path.is_dir():
        pytest.fail(f"{path} is missing: run `make smollm2` (or leave such tests out: -m 'not smollm2')", pytrace=False)
    return path


@pytest.fixture(scope="module", autouse=True)
def nobody_is_left(request):
    """Checks that no process that a file's tests started lives five seconds after the last of them."""
    yield
    left = leftovers.living(SESSION, forking.server_pid())
    end = time.monotonic() + 5
    while left and time.monotonic() < end:
        gc.collect()  # closes objects that only a reference cycle keeps alive
        time.sleep(0.05)
        left = leftovers.living(SESSION, forking.server_pid())
    for pid in left:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    assert not left, f"{request.node.name} left processes:\n" + "\n".join(
        f"{pid}: {line}" for pid, line in left.items()
    )
