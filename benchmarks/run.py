"""All benchmarks, then the README's tables: `make benchmark`. KDD Cup 1999 is left out: its test rows were scored once (benchmarks.kdd99)."""

import sys

from benchmarks import peers, render, savings, speed


def main() -> None:
    sys.argv = sys.argv[:1]
    speed.main()
    peers.main()
    savings.main()
    render.main()


if __name__ == "__main__":
    main()
