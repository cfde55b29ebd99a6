"""All benchmarks, then the README's tables: `make benchmark`."""

import sys

from benchmarks import peers, render, speed


def main() -> None:
    sys.argv = sys.argv[:1]
    speed.main()
    peers.main()
    render.main()


if __name__ == "__main__":
    main()
