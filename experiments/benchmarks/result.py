"""What every benchmark has: the option --out, the machine, a JSON file. Loads nothing heavy."""

import argparse
import json
import os
import platform
from pathlib import Path
from typing import Any


def parser(description: str | None) -> argparse.ArgumentParser:
    """Options of a benchmark, so far --out; description: of the module, as it stands."""
    found = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--out", type=Path, required=True, help="JSON file of the result")
    return found


def machine() -> dict[str, Any]:
    """Where this was measured."""
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
    }


def write_result(out: Path, result: dict[str, Any]) -> None:
    """As JSON, to a file and to the terminal."""
    out.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=2)
    out.write_text(text + "\n")
    print(text)
