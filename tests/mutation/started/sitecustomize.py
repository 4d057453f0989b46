"""Coverage of the processes that a test starts, under the test's name.

`coverage_map.py` puts this folder on the path of the run of the tests, so that every Python that
begins there imports this module; the process that runs the tests has pytest-cov to look at it.
"""

from __future__ import annotations

import os
import signal

if "PYTEST_CURRENT_TEST" in os.environ:
    import coverage

    test, _, _ = os.environ["PYTEST_CURRENT_TEST"].rpartition(" (")
    seen = coverage.Coverage(
        config_file=os.environ["TRAINSANITY_MUTATION_COVERAGE"], context=test, auto_data=True
    )
    seen.start()
    kill = os.kill

    def killing(pid: int, number: int) -> None:
        """A process that caught_by itself writes down first where it has been."""
        if pid == os.getpid() and number == signal.SIGKILL:
            seen.stop()
            seen.save()
        kill(pid, number)

    os.kill = killing
