"""Salvages episodes that a killed recorder left open: `python -m data_pipeline.repair EPISODES_DIR`."""

import argparse
import sys
from pathlib import Path

from dexhil.episodes.format import EpisodeError
from dexhil.episodes.repair import repair


def main(argv: list[str] | None = None) -> int:
    """Repairs a directory of episodes and prints what was done. Exit status 1 if a finished episode is damaged."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("episodes", type=Path, help="directory that a recorder wrote episodes into")
    try:
        report = repair(parser.parse_args(argv).episodes)
    except (EpisodeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(report.lines()))
    return 1 if report.damaged or report.unreadable else 0


if __name__ == "__main__":
    sys.exit(main())
