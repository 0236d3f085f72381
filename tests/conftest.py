"""Settings that all tests share: no hub, no chatter, the environment that mpirun needs as root on two cores."""

import os

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMPI_ALLOW_RUN_AS_ROOT"] = "1"
os.environ["OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] = "1"
os.environ["PRTE_MCA_rmaps_default_mapping_policy"] = ":oversubscribe"  # noqa: SIM112 - Open MPI's spelling


@pytest.fixture
def rewards():
    """Makes sets of reward functions with killable workers, and sees that they leave nobody behind."""
    from tests.hostile import watched_rewards

    yield from watched_rewards()
