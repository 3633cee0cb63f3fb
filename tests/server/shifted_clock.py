"""`shoal` with a clock that is as many seconds off as a file says: FILE, then its arguments."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from shoal.cli import main

if __name__ == "__main__":
    offset, real = Path(sys.argv.pop(1)), time.time
    time.time = lambda: real() + float(offset.read_text())
    main()
