"""Seconds and memory of importing the library, against importing what it stands on.

    python benchmarks/startup.py --out benchmarks/records/startup.json

Each import runs in a fresh process, in turns.
"""

import json
import statistics
import subprocess
import sys

import common

IMPORTS = {
    "torch, torchvision, albumentations": "import torch, torchvision, albumentations",
    "the same and eva_utils": "import torch, torchvision, albumentations, eva_utils",
}
PROGRAM = """
import json, os, resource, time
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
start = time.perf_counter()
{imports}
seconds = time.perf_counter() - start
print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""


def main() -> None:
    """Measure both imports and print a table."""
    args = common.parser(__doc__, in_rounds=True).parse_args()
    memory: dict[str, list[float]] = {name: [] for name in IMPORTS}

    def measure(name: str) -> float:
        program = PROGRAM.format(imports=IMPORTS[name])
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        seconds, megabytes = json.loads(done.stdout)
        memory[name].append(megabytes)
        return seconds

    seconds = common.in_turns({name: lambda name=name: measure(name) for name in IMPORTS}, args.rounds)
    rows = [(name, common.spread(seconds[name]), common.spread(memory[name])) for name in IMPORTS]
    medians = [statistics.median(seconds[name]) for name in IMPORTS]
    megabytes = [statistics.median(memory[name]) for name in IMPORTS]
    rows.append(("difference", f"{medians[1] - medians[0]:.3f}", f"{megabytes[1] - megabytes[0]:.1f}"))
    common.print_table("import, median (lowest to highest)", ("", "seconds", "peak memory, MiB"), rows)
    common.save_record(args.out, {"seconds": seconds, "mebibytes": memory})


if __name__ == "__main__":
    main()
