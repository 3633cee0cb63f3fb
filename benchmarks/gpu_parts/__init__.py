"""The parts of `python3 -m benchmarks.gpu`: ceilings, kernel, end to end, equality."""
