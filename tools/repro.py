"""`python -m tools.repro [TARGET ...]`: `dvc repro` with independent stages in parallel.

DVC runs one stage after another (its issues 755 and 11054), but several `dvc repro` can run in one
repository at the same time: each holds a lock while it reads and writes the state of the pipeline,
and releases it while a command runs. So a pipeline is cut into chains of stages that can only
follow one another. Each chain is one `dvc repro --single-item STAGE ...`, started when all stages
that it needs are done. Only DVC's command line is used. The result has the bytes of a plain
`dvc repro`: new entries of dvc.lock and .gitignore are in the order in which DVC alone would have
written them.

`JOBS` in the environment is the number of chains that run at a time, by default the number of
cores. With one job, this is `dvc repro`.
"""

import fcntl
import json
import math
import os
import re
import selectors
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple, NoReturn

import networkx as nx
import yaml
from tqdm import tqdm

from tagging.base.errors import UserError, entry_point
from tagging.base.files import write_text
from tagging.base.processes import cores

DVC = (sys.executable, "-m", "dvc")
# Parallel calls wait for the lock; without the option they give up after three seconds.
REPRO = (*DVC, "--wait-for-lock", "repro")
NOTHING_TO_DO = "Data and pipelines are up to date."
# For stages; variables that the user has set stay. Waiting threads sleep: others need the core.
ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}
PUSH = "Use `dvc push` to send your updates to remote storage."
# Lines that each `dvc repro` prints and that a user of several need not read each time.
_HIDDEN = re.compile(
    r"Stage '.*' didn't change, skipping"
    r"|'.*\.dvc' didn't change, skipping"
    r"|(Updating|Generating) lock file '.*'"
    r"|(Waiting to acquire lock|To track the changes with git|To enable auto staging).*"
    rf"|\tdvc config core.autostage true|{re.escape(NOTHING_TO_DO)}|{re.escape(PUSH)}"
)
_RUNNING = re.compile(r"Running stage '(.*)':")
# How long a writing DVC may continue before it is interrupted, and how long an interrupted stage
# has to end.
WRITING_SECONDS = 5.0
ENDING_SECONDS = 10.0


class Plan(NamedTuple):
    """The stages of a call.

    Attributes:
        order: names of all stages of the targets, in the order in which DVC alone runs them.
        graph: the stages that may have to run, with edges from a stage to the stages that need it.
    """

    order: list[str]
    graph: nx.DiGraph


Chain = tuple[str, ...]  # names of stages, in their order


def make_plan(targets: Sequence[str]) -> Plan:
    """Ask DVC for the stages of the targets, and which of them changed.

    Raises:
        UserError: with DVC's message, if DVC refuses the targets or the pipeline.
    """
    command = (*DVC, "dag", "--dot")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as dag:
        try:
            # DVC names the stages in the order in which they would run. A changed stage whose deps
            # do not exist yet fails, and the stages after it are not named.
            dry, done = _ask(*REPRO, "--dry", "--keep-going", *targets)
            order = re.findall(r"^(?:Running stage|Stage) '(.*)'(?::| didn't)", dry, re.MULTILINE)
            unchanged = set(re.findall(r"'(.*)' didn't change, skipping", dry))
            if done and NOTHING_TO_DO in dry.splitlines():
                return Plan(order, nx.DiGraph())
            if not done:
                # Without checking files.
                forced, done = _ask(*REPRO, "--dry", "--force", *targets)
                if not done:
                    raise UserError(
                        f"dvc repro refuses the targets or the pipeline:\n{forced.strip()}"
                    )
                order = _RUNNING.findall(forced)
            dot, _ = dag.communicate()
        finally:
            dag.kill()
    if dag.returncode:
        raise UserError("dvc dag failed; see above")
    everything = nx.DiGraph()
    for start, end in re.findall(r'^"?([^"]*?)"?(?: -> "?([^"]*?)"?)?;$', dot, re.MULTILINE):
        everything.add_edge(start, end) if end else everything.add_node(start)
    # Files of `dvc add`, and frozen stages, run nothing, but DVC checks them all the same.
    order = list(dict.fromkeys(order))
    others = {name for stage in order for name in everything.predecessors(stage)} - {*order}
    order = [*sorted(others), *order]
    changed = set(order) - unchanged
    changed |= {below for name in changed for below in nx.descendants(everything, name)}
    return Plan(order, everything.subgraph(changed & {*order}).copy())


def _ask(*command: str) -> tuple[str, bool]:
    """Return the output of a command, of both streams, and whether it succeeded."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.stdout, done.returncode == 0


def make_chains(plan: Plan, new: Set[str]) -> nx.DiGraph:
    """Return the graph of chains: a stage and the only one that needs it, if it needs no other.

    A new stage, which dvc.lock does not have, ends its chain: a DVC that fails removes all lines
    that it wrote to .gitignore, also those of stages that it recorded.
    """
    place = {name: number for number, name in enumerate(plan.order)}
    direct = nx.transitive_reduction(plan.graph)
    links = nx.create_empty_copy(direct)
    links.add_edges_from(
        (start, end)
        for start, end in direct.edges
        if direct.out_degree(start) == 1 and direct.in_degree(end) == 1 and start not in new
    )
    chain_of = {
        name: tuple(sorted(chain, key=place.__getitem__))
        for chain in nx.weakly_connected_components(links)
        for name in chain
    }
    chains = nx.DiGraph()
    chains.add_nodes_from(sorted(set(chain_of.values()), key=lambda chain: place[chain[0]]))
    chains.add_edges_from(
        (chain_of[start], chain_of[end])
        for start, end in direct.edges
        if chain_of[start] != chain_of[end]
    )
    return chains


def longest_first(chains: nx.DiGraph) -> list[Chain]:
    """Return the chains, sorted by the number of stages in a row that follow, most first."""
    follow: dict[Chain, int] = {}
    for chain in reversed(list(nx.topological_sort(chains))):
        follow[chain] = len(chain) + max((follow[n] for n in chains.successors(chain)), default=0)
    return sorted(chains, key=lambda chain: -follow[chain])


class Repository:
    """A DVC repository's locks.

    Args:
        folder: is in the repository; as for DVC, its root is this folder or one above.

    Attributes:
        root: its root.
        temporary: the folder of DVC's temporary files.

    Raises:
        UserError: if the folder is in no repository.
    """

    def __init__(self, folder: Path) -> None:
        parents = (folder.resolve(), *folder.resolve().parents)
        root = next((path for path in parents if (path / ".dvc").is_dir()), None)
        if root is None:
            raise UserError(
                f"{folder.resolve()} must be in a DVC repository, but no folder above has .dvc; "
                "run dvc init"
            )
        self.root = root
        self.temporary = root / ".dvc/tmp"

    @contextmanager
    def one_call(self, seconds: float | None = None) -> Iterator[int]:
        """Wait until no process of another call lives; yield the descriptor of the lock.

        Processes that inherit the descriptor hold the lock too.

        Args:
            seconds: the longest time to wait; None for no limit.
        """
        self.temporary.mkdir(exist_ok=True)
        with (self.temporary / "side_by_side.lock").open("w") as lock:
            if not _take(lock, seconds or 0.0) and seconds is None:
                print("Waiting for another call in this repository.", file=sys.stderr, flush=True)
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield lock.fileno()

    @contextmanager
    def no_dvc_writes(self, seconds: float = math.inf) -> Iterator[None]:
        """Hold DVC's own lock, so that no DVC is writing a file; wait at most `seconds` for it."""
        with (self.temporary / "lock").open("a") as lock:
            _take(lock, seconds)
            yield

    def mend(self) -> None:
        """Remove DVC's list of files in use that a killed DVC left incomplete: none could start."""
        listed = self.temporary / "rwlock"
        with self.no_dvc_writes():
            try:
                json.loads(listed.read_bytes())
            except FileNotFoundError:
                pass
            except ValueError:
                listed.unlink()


def _take(lock: IO, seconds: float) -> bool:
    """Lock a file that others may have locked; return whether that succeeded in time."""
    until = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(0.01)


class Lists:
    """The entries of dvc.lock and .gitignore before stages run, to sort new ones afterwards.

    They are stored until all stages have run: entries of an interrupted call are new in the next.

    Args:
        repository: of the files.
        order: names of stages, in the order in which DVC alone would write their entries.
    """

    def __init__(self, repository: Repository, order: Sequence[str]) -> None:
        self._repository = repository
        self._entry: dict[str, tuple[Path, str]] = {}  # dvc.lock, the stage's name in it
        self._places: dict[Path, dict[str, int]] = {}  # of stages in each dvc.lock
        for number, name in enumerate(order):
            file, _, stage = name.rpartition(":")
            if not name.endswith(".dvc"):
                lock = Path(file or "dvc.yaml").with_suffix(".lock").resolve()
                self._entry[name] = lock, stage
                self._places.setdefault(lock, {})[stage] = number
        kept = repository.temporary / "side_by_side.json"
        stages = {self._name(lock): [*_entries(_text(lock))] for lock in self._places}
        lines = {self._name(path): _text(path).splitlines() for path in _gitignores()}
        self._known = stages | (json.loads(_text(kept)) if kept.exists() else lines)
        write_text(kept, json.dumps(self._known))
        self._kept = kept

    def new_stages(self) -> set[str]:
        """Return the names of the stages that no dvc.lock had."""
        return {
            name
            for name, (lock, stage) in self._entry.items()
            if stage not in self._known[self._name(lock)]
        }

    def order(self) -> None:
        """Sort new entries as DVC alone would have written them.

        A folder that is a dep is hashed with its .gitignore, unless .dvcignore excludes it: sorting
        all at the end would be too late.
        """
        # Without the lock a file may be read incomplete; a single new entry is sorted already.
        names = {lock: [*_entries(_text(lock))] for lock in self._places}
        names |= {path: _text(path).splitlines() for path in _gitignores()}
        if any(len(self._new(path, names[path])) > 1 for path in names):
            with self._repository.no_dvc_writes():
                for lock in self._places:
                    self._order_stages(lock)
                for path in _gitignores():
                    self._order_lines(path)

    def forget(self) -> None:
        """Forget the stored entries: all that exist are old from now on."""
        self._kept.unlink(missing_ok=True)

    def _order_stages(self, lock: Path) -> None:
        text = _text(lock)
        entries = _entries(text)
        places = self._places[lock]
        names = _sorted([*entries], {name: places.get(name) for name in self._new(lock, entries)})
        if names != [*entries]:
            start = text.index("".join(entries.values()))
            body = "".join(entries[name] for name in names)
            write_text(lock, text[:start] + body + text[start + len(body) :])

    def _order_lines(self, gitignore: Path) -> None:
        lines = _text(gitignore).splitlines()
        if len(new := self._new(gitignore, lines)) > 1:
            owners = self._outputs(gitignore.parent)
            ordered = _sorted(lines, {line: owners.get(line) for line in new})
            if ordered != lines:
                write_text(gitignore, "".join(f"{line}\n" for line in ordered))

    def _new(self, path: Path, names: Iterable[str]) -> set[str]:
        return {*names} - {*self._known.get(self._name(path), ())}

    def _name(self, path: Path) -> str:
        return os.path.relpath(path, self._repository.temporary)

    def _outputs(self, folder: Path) -> dict[str, int]:
        """Return the lines that DVC writes for outputs to a folder's .gitignore, by their stage."""
        outputs = {}
        for lock, places in self._places.items():
            entries = _entries(_text(lock))
            for name in places.keys() & entries.keys():
                (stage,) = yaml.load(entries[name], yaml.CSafeLoader).values()
                for out in stage.get("outs", []):
                    path = self._locate(out["path"], lock.parent)
                    if path.parent == folder:
                        outputs[f"/{path.name}"] = places[name]
        return outputs

    def _locate(self, out: str, folder: Path) -> Path:
        """Return the path of an output, relative to the `wdir` of a stage of `folder`.

        dvc.lock does not have the wdir: it is the nearest folder above in which the output exists.
        """
        parents = [path for path in folder.parents if path.is_relative_to(self._repository.root)]
        paths = [Path(os.path.normpath(path / out)) for path in (folder, *parents)]
        return next((path for path in paths if path.exists()), paths[0])


def _gitignores() -> list[Path]:
    pattern = ":(top,glob)**/.gitignore"
    files, in_git = _ask("git", "ls-files", "-z", "--cached", "--others", "--", pattern)
    return [Path(name).resolve() for name in files.split("\0") if name and in_git]


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _entries(text: str) -> dict[str, str]:
    """Return the stages of a dvc.lock: the lines of each by its name."""
    stages = re.search(r"^stages:\n(.*?)(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL)
    blocks = re.split(r"^(?=  \S)", stages[1], flags=re.MULTILINE) if stages else []
    return {block.split(":\n")[0].strip(" '\""): block for block in blocks if block}


def _sorted(items: list[str], places: dict[str, int | None]) -> list[str]:
    """Sort the items that have a place by it; the others keep their positions."""
    placed = iter(sorted((i for i in items if places.get(i) is not None), key=places.__getitem__))
    return [item if places.get(item) is None else next(placed) for item in items]


class Group:
    """Processes that end when this one ends, however it does.

    They are a process group, led by a guard that outlives this process until they have ended.

    Args:
        repository: in which they run.
        call: the descriptor of `Repository.one_call`; the processes inherit it.
        afterwards: called when they have ended.
    """

    def __init__(
        self, repository: Repository, call: int, afterwards: Callable[[], None] = lambda: None
    ) -> None:
        self._repository, self._call, self._afterwards = repository, call, afterwards
        self._processes: list[subprocess.Popen] = []
        alive, self._alive = os.pipe()
        self._leader = os.fork()
        if not self._leader:
            self._guard(alive)
        os.close(alive)
        os.setpgid(self._leader, self._leader)

    def start(self, command: Sequence[str], stdout: int | None, environment: dict[str, str]):
        """Start a process of the group.

        Args:
            command: of the process.
            stdout: of the process; its errors go there as well. None: the streams of this process.
            environment: variables for the process, unless this process has them.
        """
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=None if stdout is None else subprocess.STDOUT,
            env=os.environ
            | {name: os.environ.get(name) or environment[name] for name in environment},
            pass_fds=[self._call],
            process_group=self._leader,
        )
        self._processes.append(process)
        return process

    def __enter__(self) -> "Group":
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        """Interrupt running processes as Ctrl-C does; kill those left after a while; sort lists."""
        running = [process for process in self._processes if process.poll() is None]
        try:
            if running:
                self._interrupt()
                until = time.monotonic() + ENDING_SECONDS
                for process in running:
                    process.wait(max(until - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            pass
        finally:
            (os.killpg if running or error else os.kill)(self._leader, signal.SIGKILL)
            os.waitpid(self._leader, 0)
            for process in running:
                process.wait()
            os.close(self._alive)
            self._afterwards()

    def _interrupt(self) -> None:
        # A DVC that is interrupted while it writes dvc.lock leaves it incomplete. A DVC whose stage
        # runs ignores the signal, but the stage ends, and DVC with it as with any failed stage.
        with self._repository.no_dvc_writes(WRITING_SECONDS):
            os.killpg(self._leader, signal.SIGINT)

    def _guard(self, alive: int) -> NoReturn:
        """Wait for the end of the process that started this one; then end the group."""
        try:
            os.setpgid(0, 0)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            os.close(self._alive)
            nowhere = os.open(os.devnull, os.O_RDWR)
            for descriptor in range(3):
                os.dup2(nowhere, descriptor)
            os.read(alive, 1)  # returns when the other end is closed
            self._interrupt()
            os.close(self._call)
            with self._repository.one_call(ENDING_SECONDS):  # all have ended, or time is over
                self._afterwards()
            os.killpg(0, signal.SIGKILL)
        finally:
            os._exit(1)


class Running:
    """A running chain.

    Attributes:
        stage: the stage of the chain that runs.
        finished: the number of its stages that have ended.
        ran: whether the command of any stage was run.
        at_end: whether all output of the process has been read.
        tracked: files that DVC advises to add to git.
    """

    def __init__(self, chain: Chain, process: subprocess.Popen) -> None:
        self.chain, self.process = chain, process
        self.stage, self.finished, self.ran, self.at_end = chain[0], 0, False, False
        self.tracked: set[str] = set()
        self._rest = b""
        self._since = time.monotonic()

    def read(self) -> Iterator[str]:
        """Yield the lines to show of the new output; at the end, wait for the process."""
        output = os.read(self.process.stdout.fileno(), 1 << 16)
        # Each state of a progress bar is a line as well.
        *lines, self._rest = re.split(rb"[\r\n]", self._rest + output)
        if not output:
            self.process.wait()
            self.at_end = True
            lines.append(self._rest)
        for line in lines:
            if shown := self._shown(line.decode(errors="replace").rstrip()):
                yield shown

    def rest(self) -> Iterator[str]:
        """Yield the last lines of an ended process, whose own processes may keep the pipe open."""
        os.set_blocking(self.process.stdout.fileno(), False)
        with suppress(BlockingIOError):
            while not self.at_end:
                yield from self.read()

    def _shown(self, line: str) -> str:
        if (start := _RUNNING.fullmatch(line)) and start[1] in self.chain:
            self.stage, self.ran, self._since = start[1], True, time.monotonic()
            self.finished = self.chain.index(self.stage)
            return line
        if line.startswith("\tgit add "):
            self.tracked |= {*shlex.split(line)[2:]}
            return ""
        return f"{self.stage} | {line}" if line and not _HIDDEN.fullmatch(line) else ""

    def __str__(self) -> str:
        return f"{self.stage} ({tqdm.format_interval(time.monotonic() - self._since)})"


def run(chains: nx.DiGraph, group: Group, lists: Lists, jobs: int) -> None:
    """Run all chains, each when the chains that it needs are done, `jobs` at a time.

    Raises:
        UserError: as soon as a stage fails, while others still run.
    """
    waiting = longest_first(chains)
    needed = {chain: set(chains.predecessors(chain)) for chain in chains}
    running: list[Running] = []
    done: list[Running] = []
    with (
        selectors.DefaultSelector() as selector,
        tqdm(
            total=sum(map(len, chains)),
            bar_format="{n_fmt} of {total_fmt} stages done{postfix}",
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
            leave=False,
        ) as bar,
    ):
        while waiting or running:
            ready = [chain for chain in waiting if not needed[chain]]
            # A stage that trains several runs uses the cores that no other stage is ready for.
            share = max(1, jobs // max(1, len(running) + len(ready)))
            environment = ENVIRONMENT | {"TAGGING_WORKERS": str(share)}
            for chain in ready[: jobs - len(running)]:
                waiting.remove(chain)
                command = (*REPRO, "--single-item", *chain)
                running.append(Running(chain, group.start(command, subprocess.PIPE, environment)))
                selector.register(running[-1].process.stdout, selectors.EVENT_READ, running[-1])
            bar.n = sum(len(one.chain) for one in done) + sum(one.finished for one in running)
            bar.set_postfix_str("running: " + ", ".join(map(str, running)))
            for key, _ in selector.select(1.0):
                _show(bar, key.data.read())
            ended = [one for one in running if one.process.poll() is not None]
            if ended:
                lists.order()
            for one in ended:
                selector.unregister(one.process.stdout)
                _show(bar, one.rest())
                one.process.stdout.close()
                if one.process.returncode:
                    raise UserError(
                        f"{one.stage} failed, see above; other running stages were ended, finished "
                        "ones are recorded: the next call continues from there"
                    )
                running.remove(one)
                done.append(one)
                for others in needed.values():
                    others.discard(one.chain)
    if tracked := sorted(set().union(*(one.tracked for one in done))):
        print(f"\nTo track the changes with git, run:\n\n\tgit add {shlex.join(tracked)}\n")
    print(PUSH if any(one.ran for one in done) else NOTHING_TO_DO)


def _show(bar: tqdm, lines: Iterator[str]) -> None:
    for line in lines:
        bar.write(line, file=sys.stdout)
    sys.stdout.flush()


def number_of_jobs() -> int:
    """Return JOBS of the environment, or else the number of cores this process may use.

    Raises:
        UserError: if JOBS is not a number of processes.
    """
    if not (jobs := os.environ.get("JOBS", "")):
        return cores()
    if not re.fullmatch(r"0*[1-9]\d{0,3}", jobs, re.ASCII):
        raise UserError(f"JOBS must be a number of processes from 1 to 9999, got {jobs!r}")
    return int(jobs)


def _stop(*_: object) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)


def _pass_on_interrupts() -> None:
    """Let the processes receive Ctrl-C's signal, also if this one was started to ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda *_: None)


@entry_point
def main() -> None:
    """Bring the targets, or the pipeline of this folder, up to date."""
    targets = sys.argv[1:]
    jobs = number_of_jobs()
    repository = Repository(Path())
    signal.signal(signal.SIGTERM, _stop)
    _pass_on_interrupts()
    with repository.one_call() as call:
        repository.mend()
        if jobs == 1:
            with Group(repository, call) as group:
                alone = ENVIRONMENT | {"TAGGING_WORKERS": "1"}
                sys.exit(group.start((*REPRO, *targets), None, alone).wait())
        plan = make_plan(targets)
        lists = Lists(repository, plan.order)
        lists.order()
        if plan.graph:
            with Group(repository, call, lists.order) as group:
                run(make_chains(plan, lists.new_stages()), group, lists, jobs)
        else:
            print(NOTHING_TO_DO)
        lists.forget()


if __name__ == "__main__":
    main()
