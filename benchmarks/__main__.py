"""Runs the benchmarks and writes one JSON document: to stdout and into bench-results/.

    make bench                       everything, some ten minutes
    make bench ARGS=--quick          shorter runs, under five minutes
    make bench ARGS="--only latency --only put_item"

Figures of different machines or hours cannot be compared; the ratios of one run can.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from benchmarks import consume, get_records, latency, put_item, retention, scrapes, stalled, stalls, tables, write_items
from benchmarks.measure import Effort, facts, progress, report

MODULES = (put_item, write_items, tables, get_records, consume, latency, stalled, stalls, retention, scrapes)
BENCHMARKS = {module.__name__.rpartition(".")[2]: module for module in MODULES}
QUICK = Effort(seconds=1.0, runs=3)
FULL = Effort(seconds=3.0, runs=5)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="shorter runs")
    parser.add_argument("--only", action="append", choices=BENCHMARKS, help="leave out the others")
    parser.add_argument("--data", type=Path, help="folder for the brokers' data, on the disk to measure")
    arguments = parser.parse_args()
    effort = QUICK if arguments.quick else FULL
    with tempfile.TemporaryDirectory(prefix="headrace-bench-", dir=arguments.data) as name:
        folder = Path(name)
        document = facts(folder) | {"quick": arguments.quick, "results": {}}
        for benchmark in arguments.only or BENCHMARKS:
            progress(f"{benchmark} ...")
            begin = time.monotonic()
            document["results"][benchmark] = BENCHMARKS[benchmark].run(folder, effort)
            progress(f"{benchmark}: {time.monotonic() - begin:.0f} s")
        report(document)


if __name__ == "__main__":
    main()
