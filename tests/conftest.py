"""What holds for every test."""

import os
import tempfile

# Calibrations of test models do not belong among the user's; one folder serves the whole session.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="shoal-tests-")
