"""Runs the mutants: each must be noticed by its test.

    python -m tests.mutants [--only=TEXT] [--jobs=2]

`--only` is the number of a mutant, or a part of its file's path. The status is
1 unless all mutants are killed.
"""

import argparse
import sys
import time

from tests.mutants import MUTANTS
from tests.mutants import runner


def main():
    """Runs the program, and returns its status."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants")
    parser.add_argument("--only", help="a number, or a part of a file's path")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    numbers = {
        mutant: number
        for number, mutant in enumerate(MUTANTS)
        if arguments.only is None
        or arguments.only == str(number)
        or arguments.only in mutant.file
    }
    if not numbers:
        parser.error(f"--only={arguments.only} names no mutant")
    start = time.time()
    failure = runner.check_tests(numbers)
    if failure is not None:
        print(failure)
        print("A test fails in the package as it is.")
        return 1
    killed = 0
    for mutant, result, output in runner.results_of(numbers, arguments.jobs):
        print(f"{numbers[mutant]:3d} {result}: {mutant}", flush=True)
        if result == runner.KILLED:
            killed += 1
        else:
            print(f"    {mutant.test}\n{output}", flush=True)
    seconds = time.time() - start
    print(f"{killed} of {len(numbers)} killed, in {seconds:.0f} seconds")
    return 0 if killed == len(numbers) else 1


if __name__ == "__main__":
    sys.exit(main())
