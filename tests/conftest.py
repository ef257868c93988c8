"""Options that tests share."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

# the same examples in each run, however slow the machine is
settings.register_profile("same", derandomize=True, deadline=None,
                          suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("same")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true",
                     help="write the files in tests/golden anew from what is printed now")
