"""What of these tests can be imported: nothing without triton, and the hardware's only on a GPU."""

from importlib.util import find_spec

from tests.helpers.interpreter import on_hardware

# Not the glob of tests/conftest.py, which would be overridden here.
collect_ignore = [] if on_hardware() else ["test_hardware.py"]
if find_spec("triton") is None:
    collect_ignore += ["test_compiles.py", "test_plan.py", "test_tiles.py"]
