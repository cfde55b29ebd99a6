"""Run one command and note its seconds and peak memory: `python -S launch.py REPORT COMMAND ...`; standard library only.

A process inherits, in what the system reports as its peak, that of the process that started it. This one is small, so the figure is the command's.
"""

import json
import os
import subprocess
import sys
import time


def main(report: str, *command: str) -> int:
    started = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    peak = usage.ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)
    with open(report, "w", encoding="utf-8") as file:  # noqa: PTH123  pathlib is heavy beside what is measured
        json.dump({"seconds": seconds, "peak_mb": peak}, file)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
