"""A worker of benchmarks/workers.py for tests: `python -m tests.benchmark_worker <mode> ..`."""

import sys

from benchmarks.workers import Channel

if __name__ == "__main__":
    channel = Channel()
    print("what a library prints is no message")
    if sys.argv[1] == "fail":
        sys.exit("the library is missing")
    channel.send(fingerprint=0)
    number = 0
    while channel.wait():
        if sys.argv[1] == "stop":
            sys.exit("no memory")
        number += 1
        channel.send(seconds=number, ndcg=number, records=sys.argv[2])
