"""All benchmarks, then the README's tables: `make benchmark`.

KDD Cup 1999 is left out: its test rows were scored once (benchmarks.kdd99). So are images, which take hours (benchmarks.images).
"""

import sys

from benchmarks import intervals, peers, render, savings, scoring, speed, threshold


def main() -> None:
    sys.argv = sys.argv[:1]
    for benchmark in (speed, threshold, intervals, scoring, peers, savings):
        benchmark.main()
    render.main()


if __name__ == "__main__":
    main()
