"""A worker of benchmarks/turns.py for tests: `python -m tests.turn_worker <way> ..`."""

import sys

from benchmarks.turns import Turns

if __name__ == "__main__":
    turns = Turns()
    print("what a library prints is no answer")
    if sys.argv[1] == "fail":
        sys.exit("the library is not there")
    turns.tell(fingerprint=0)
    number = 0
    while turns.wait():
        if sys.argv[1] == "stop":
            sys.exit("no memory")
        number += 1
        turns.tell(seconds=number, ndcg=number, records=sys.argv[2])
