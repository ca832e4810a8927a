"""Models that several rooms' tests share. Everything is random, tiny and made here: no network, no files."""

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.helpers import ZOO, cut_by_hand, tiny

HERE = Path(__file__).parent

# ci: the same examples in every run and on every machine, so that a red run is a change's fault.
# random: other examples in every run: HYPOTHESIS_PROFILE=random HYPOTHESIS_EXAMPLES=2000 pytest -m hypothesis
settings.register_profile("ci", deadline=None, derandomize=True, database=None)
settings.register_profile("random", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_configure():
    """Signals that tests send do what they do by default, whatever runs the tests.

    A shell ignores SIGINT for what it puts in the background, and `nohup` SIGHUP.
    """
    for number, handler in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGTERM, signal.SIG_DFL),
        (signal.SIGHUP, signal.SIG_DFL),
    ):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_collection_modifyitems(items):
    """Tests of the mirror are skipped where there is none. The files with the longest tests come first.

    Processes that share the tests by file then end at about the same time.
    """
    items.sort(key=lambda item: item.path.parent != HERE)
    if not os.environ.get("REPRODUCER_MIRROR"):
        for item in items:
            if item.get_closest_marker("mirror"):
                item.add_marker(pytest.mark.skip(reason="REPRODUCER_MIRROR names no mirror of the data sets"))


@pytest.fixture(scope="session", params=ZOO)
def zoo_model(request):
    """One model of each supported kind in turn. Shared: a test that changes it works on a copy."""
    return tiny(**ZOO[request.param])


@pytest.fixture(scope="session")
def uneven_model():
    """A grouped-query model with attention biases whose layers were cut to different widths before."""
    whole = tiny("qwen2", layers=4, heads=8, groups=4, channels=20)
    return cut_by_hand(whole, {1: {"heads": [0, 2, 3], "channels": range(4, 17)}, 2: {"channels": range(11)}})
