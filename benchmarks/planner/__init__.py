"""Benchmarks of the planner: its scale here, what it plans in the modules beside."""
