"""The records of a run as a short table: what a person wants to know first."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.gpu_parts.records import Record


def table(records: Iterable[Record]) -> str:
    """One line per record that has a figure, and one per part that failed or was left out."""
    return "\n".join(line for record in records if (line := _line(record)))


def _line(record: Record) -> str:
    part = record["part"]
    if "error" in record:
        return f"{part:<11} {_name(record)}  FAILED  {str(record['error'])[:160]}"
    if "skipped" in record:
        return f"{part:<11} {' '.join(record['skipped'])}  left out: {record['reason']}"
    write = _WRITERS.get(part)
    return f"{part:<11} {write(record)}" if write else ""


def _name(record: Record) -> str:
    names = (
        record.get(key) for key in ("suite", "shape", "model", "workload", "kv", "policy", "tiles")
    )
    return " ".join(str(name) for name in names if name is not None)


def _tests(record: Record) -> str:
    counts = ", ".join(f"{count} {name}" for name, count in record["counts"].items())
    return f"{record['suite']:<24} {counts}"


def _equality(record: Record) -> str:
    return f"{record['model'] + ' ' + record['way']:<24} {record['equal']} of {record['of']} equal"


def _ceilings(record: Record) -> str:
    copy, flops = record["copy_bytes_per_second"] / 1e12, record["flops_per_second"] / 1e12
    return f"copy {copy:.2f} TB/s, products {flops:.0f} TFLOP/s"


def _kernel(record: Record) -> str:
    ratios = ", ".join(f"{name} {ratio:.2f}" for name, ratio in record["ratios"].items())
    us, share = record["seconds"]["ours"] * 1e6, 100 * record["ceiling_fraction"]
    return f"{record['shape']:<26} {us:8.0f} us  {share:3.0f} % of {record['bound']}  x: {ratios}"


def _tune(record: Record) -> str:
    tiles = record["tiles"]
    name = "x".join(str(tiles[k]) for k in tiles if k != "sideways" and tiles[k])
    times = "  ".join(
        f"{shape} {s * 1e6:.0f} us {100 * record['ceiling_fraction'][shape]:.0f} %"
        for shape, s in record["seconds"].items()
    )
    return f"{record['dim']} {name:<16} {times}"


def _end_to_end(record: Record) -> str:
    ratio = record["ratios"].get("seconds")
    others = f"  {ratio:.2f} times ours" if ratio else ""
    name = f"{record['workload']} x{record['times']} {record['kv']} {record['policy']}"
    share = 100 * record["roofline_fraction"]
    return (
        f"{name:<38} {record['seconds']:7.2f} s  {record['tokens_per_second']:9.0f} tokens/s"
        f"  {share:3.0f} % of roofline{others}"
    )


def _profile(record: Record) -> str:
    host = ", ".join(f"{k} {ms:.1f}" for k, ms in record["host_ms_per_iteration"].items())
    kinds = ", ".join(f"{k} {ms:.1f}" for k, ms in record["kinds_ms"].items())
    longest = "".join(
        f"\n{'':<13}{kernel['ms']:8.2f} ms {kernel['calls']:7.1f}x {kernel['kernel']}"
        for kernel in record["longest"]
    )
    return (
        f"{record['workload']}: {record['rows_per_iteration']:.0f} rows, "
        f"{record['seconds_per_iteration'] * 1e3:.1f} ms an iteration; device "
        f"{record['device_ms_per_iteration']:.1f} ms, {100 * record['busy_fraction']:.0f} % busy"
        f" ({kinds}); host ({host}){longest}"
    )


_WRITERS = {
    "tests": _tests,
    "equality": _equality,
    "ceilings": _ceilings,
    "kernel": _kernel,
    "tune": _tune,
    "end-to-end": _end_to_end,
    "profile": _profile,
}
