"""What holds for every test."""

import os
import tempfile

from hypothesis import settings

from tests.helpers.interpreter import INTERPRETED, mend_interpreter

# How long an example takes says how busy the machine is.
settings.register_profile("shoal", deadline=None)
settings.load_profile("shoal")

# Calibrations of test models do not belong among the user's; one folder serves the whole session.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="shoal-tests-")

collect_ignore_glob = [] if INTERPRETED else ["*_interpreted.py"]
if INTERPRETED:
    mend_interpreter()
