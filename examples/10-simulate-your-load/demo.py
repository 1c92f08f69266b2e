"""How many instances does this load need? Plays `load.csv` on fleets of one to four, without any of them."""

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    """Print a line a fleet."""
    print("instances   hits   loaded again   wait, mean")
    for instances in (1, 2, 3, 4):
        command = [sys.executable, "-m", "modelmesh.cli", "simulate", str(HERE / "load.csv")]
        command += ["--instances", str(instances), "--capacity", "24GiB", "--policy", "adaptive", "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        result = json.loads(done.stdout)
        served = result["policies"]["adaptive"]
        again = served["loaded_bytes"] / result["model_bytes"]
        print(f"{instances:9}{served['hit_ratio']:7.3f}{again:12.1f} x{served['mean_wait_ms'] / 1000:11.2f} s")


if __name__ == "__main__":
    main()
