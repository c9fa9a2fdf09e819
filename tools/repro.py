"""`python -m tools.repro [TARGET ...]`: `dvc repro` with independent stages side by side.

DVC runs one stage after another (its issues 755 and 11054), but takes several `dvc repro` in one
repository at once: each holds a lock while it looks and records, and gives it away while a command
runs. So a pipeline is cut into chains of stages that can only follow one another, and each chain is
one `dvc repro --single-item STAGE ...`, started when all that it needs is done. Only DVC's command
line is used. It ends with the bytes of a plain `dvc repro`: dvc.lock and .gitignore list what is
new in the order in which DVC alone would have written it.

`JOBS` in the environment is how many chains run at a time, by default as many as there are cores.
With one, it is `dvc repro`.
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
# Several at once take turns with the lock; without the option they give up after three seconds.
REPRO = (*DVC, "--wait-for-lock", "repro")
NOTHING_TO_DO = "Data and pipelines are up to date."
# Of the stages; what a user has set stays. Threads that wait are to sleep: others take the core.
ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}
PUSH = "Use `dvc push` to send your updates to remote storage."
# What each `dvc repro` says and a user of several at once need not read each time.
_UNSAID = re.compile(
    r"Stage '.*' didn't change, skipping"
    r"|'.*\.dvc' didn't change, skipping"
    r"|(Updating|Generating) lock file '.*'"
    r"|(Waiting to acquire lock|To track the changes with git|To enable auto staging).*"
    rf"|\tdvc config core.autostage true|{re.escape(NOTHING_TO_DO)}|{re.escape(PUSH)}"
)
_RUNNING = re.compile(r"Running stage '(.*)':")
# How long a DVC that writes may go on before it is interrupted, and how long an interrupted stage
# may take to end.
WRITING_SECONDS = 5.0
ENDING_SECONDS = 10.0


class Plan(NamedTuple):
    """What a call has to do.

    Attributes:
        order: names of all stages of the targets, in the order in which DVC alone runs them.
        graph: those that may have to run, with edges from a stage to what needs it.
    """

    order: list[str]
    graph: nx.DiGraph


Chain = tuple[str, ...]  # names of stages, in their order


def make_plan(targets: Sequence[str]) -> Plan:
    """Ask DVC what the targets consist of, and which of it changed.

    Raises:
        UserError: if DVC does not take the targets or the pipeline; what it says is printed.
    """
    command = (*DVC, "dag", "--dot")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as dag:
        try:
            # It names the stages that need nothing, in the order in which they would run; one that
            # changed and whose deps are not there yet fails, and what follows it is not named.
            dry, done = _ask(*REPRO, "--dry", "--keep-going", *targets)
            order = re.findall(r"^(?:Running stage|Stage) '(.*)'(?::| didn't)", dry, re.MULTILINE)
            unchanged = set(re.findall(r"'(.*)' didn't change, skipping", dry))
            if done and NOTHING_TO_DO in dry.splitlines():
                return Plan(order, nx.DiGraph())
            if not done:
                # Without a look at files.
                forced, done = _ask(*REPRO, "--dry", "--force", *targets)
                if not done:
                    raise UserError(f"dvc repro does not take this:\n{forced.strip()}")
                order = _RUNNING.findall(forced)
            dot, _ = dag.communicate()
        finally:
            dag.kill()
    if dag.returncode:
        raise UserError("dvc dag failed; see above")
    everything = nx.DiGraph()
    for start, end in re.findall(r'^"?([^"]*?)"?(?: -> "?([^"]*?)"?)?;$', dot, re.MULTILINE):
        everything.add_edge(start, end) if end else everything.add_node(start)
    # Files that `dvc add` made, and frozen stages, run nothing and are looked at all the same.
    order = list(dict.fromkeys(order))
    others = {name for stage in order for name in everything.predecessors(stage)} - {*order}
    order = [*sorted(others), *order]
    changed = set(order) - unchanged
    changed |= {below for name in changed for below in nx.descendants(everything, name)}
    return Plan(order, everything.subgraph(changed & {*order}).copy())


def _ask(*command: str) -> tuple[str, bool]:
    """Return what a command prints to either stream, and whether it succeeded."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.stdout, done.returncode == 0


def make_chains(plan: Plan, new: Set[str]) -> nx.DiGraph:
    """Return the graph of chains: a stage and the only one that needs it, if it needs no other.

    A new stage, which dvc.lock does not have, ends its chain: a DVC that fails takes back all that
    it wrote to .gitignore, also for stages that it recorded.
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
    """Return the chains, those first that the most stages in a row follow."""
    follow: dict[Chain, int] = {}
    for chain in reversed(list(nx.topological_sort(chains))):
        follow[chain] = len(chain) + max((follow[n] for n in chains.successors(chain)), default=0)
    return sorted(chains, key=lambda chain: -follow[chain])


class Repository:
    """A DVC repository's locks.

    Args:
        folder: where it is looked for, as DVC does: there, or in a folder above.

    Attributes:
        temporary: where DVC keeps what nobody else needs.

    Raises:
        UserError: if there is none.
    """

    def __init__(self, folder: Path) -> None:
        parents = (folder.resolve(), *folder.resolve().parents)
        root = next((path for path in parents if (path / ".dvc").is_dir()), None)
        if root is None:
            raise UserError(f"{folder.resolve()} is in no DVC repository; it takes one (dvc init)")
        self.temporary = root / ".dvc/tmp"

    @contextmanager
    def one_call(self, seconds: float | None = None) -> Iterator[int]:
        """Wait until no process of another call lives; give the descriptor that keeps others out.

        What inherits it keeps them out too. `seconds` is how long to wait at most.
        """
        self.temporary.mkdir(exist_ok=True)
        with (self.temporary / "side_by_side.lock").open("w") as lock:
            if not _take(lock, seconds or 0.0) and seconds is None:
                print("Waiting for what another call runs here.", file=sys.stderr, flush=True)
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield lock.fileno()

    @contextmanager
    def no_dvc_writes(self, seconds: float = math.inf) -> Iterator[None]:
        """Take DVC's own lock, so that no DVC is in the middle of a file; wait so long at most."""
        with (self.temporary / "lock").open("a") as lock:
            _take(lock, seconds)
            yield

    def mend(self) -> None:
        """Remove DVC's list of files in use if a killed DVC left half of it: none could start."""
        listed = self.temporary / "rwlock"
        with self.no_dvc_writes():
            try:
                json.loads(listed.read_bytes())
            except FileNotFoundError:
                pass
            except ValueError:
                listed.unlink()


def _take(lock: IO, seconds: float) -> bool:
    """Lock a file that others may have locked; say whether that came about in time."""
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
    """What dvc.lock and .gitignore list before stages run, to order afterwards what came new.

    It is kept until all has run: what an interrupted call left counts as new in the next.

    Args:
        repository: theirs.
        order: names of stages, in the order in which DVC alone would write of them.
    """

    def __init__(self, repository: Repository, order: Sequence[str]) -> None:
        self._repository = repository
        self._entry: dict[str, tuple[Path, str]] = {}  # a dvc.lock, and the stage's name in it
        self._places: dict[Path, dict[str, int]] = {}  # the other way round
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
        """Order what is new as DVC alone would have written it.

        A folder that is a dep is hashed with its .gitignore, if .dvcignore does not say otherwise:
        to order them all at the end would come too late.
        """
        # A look that may see half of a file; what is new in one only is in order.
        names = {lock: [*_entries(_text(lock))] for lock in self._places}
        names |= {path: _text(path).splitlines() for path in _gitignores()}
        if any(len(self._new(path, names[path])) > 1 for path in names):
            with self._repository.no_dvc_writes():
                for lock in self._places:
                    self._order_stages(lock)
                for path in _gitignores():
                    self._order_lines(path)

    def forget(self) -> None:
        """Have what there is now count as old."""
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
                    path = Path(os.path.normpath(lock.parent / out["path"]))
                    if path.parent == folder:
                        outputs[f"/{path.name}"] = places[name]
        return outputs


def _gitignores() -> list[Path]:
    pattern = ":(top,glob)**/.gitignore"
    files, in_git = _ask("git", "ls-files", "-z", "--cached", "--others", "--", pattern)
    return [Path(name).resolve() for name in files.split("\0") if name and in_git]


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _entries(text: str) -> dict[str, str]:
    """Return the stages of a dvc.lock: each one's lines by its name."""
    stages = re.search(r"^stages:\n(.*?)(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL)
    blocks = re.split(r"^(?=  \S)", stages[1], flags=re.MULTILINE) if stages else []
    return {block.split(":\n")[0].strip(" '\""): block for block in blocks if block}


def _sorted(items: list[str], places: dict[str, int | None]) -> list[str]:
    """Sort the items that have a place by it; the others stay where they are."""
    placed = iter(sorted((i for i in items if places.get(i) is not None), key=places.__getitem__))
    return [item if places.get(item) is None else next(placed) for item in items]


class Group:
    """Processes that end when this one ends, however it does.

    They are a process group, led by a guard that outlives this process for as long as it takes.

    Args:
        repository: theirs.
        call: the descriptor of `Repository.one_call`; they hold it too.
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
        """Start a process of the group; its errors go where its output goes.

        `environment` is added where the variables of this process say nothing.
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
        """End what still runs, as Ctrl-C does; kill what is left after a while; order the lists."""
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
        # A DVC that is interrupted while it writes dvc.lock leaves half of it. One whose stage runs
        # takes no notice of the signal, the stage does, and it ends as with any stage that failed.
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
            os.read(alive, 1)  # nothing, when its other end is closed
            self._interrupt()
            os.close(self._call)
            with self._repository.one_call(ENDING_SECONDS):  # all have ended, or time is up
                self._afterwards()
            os.killpg(0, signal.SIGKILL)
        finally:
            os._exit(1)


class Running:
    """A chain that runs.

    Attributes:
        stage: the one of its stages that runs.
        finished: how many of them have ended.
        ran: whether the command of any was run.
        at_end: whether all that the process says has been read.
        tracked: files that DVC advises to add to git.
    """

    def __init__(self, chain: Chain, process: subprocess.Popen) -> None:
        self.chain, self.process = chain, process
        self.stage, self.finished, self.ran, self.at_end = chain[0], 0, False, False
        self.tracked: set[str] = set()
        self._rest = b""
        self._since = time.monotonic()

    def read(self) -> Iterator[str]:
        """Give the lines to be shown of what has come; at the end, wait for the process."""
        came = os.read(self.process.stdout.fileno(), 1 << 16)
        # A bar that is drawn again and again is lines too.
        *lines, self._rest = re.split(rb"[\r\n]", self._rest + came)
        if not came:
            self.process.wait()
            self.at_end = True
            lines.append(self._rest)
        for line in lines:
            if shown := self._shown(line.decode(errors="replace").rstrip()):
                yield shown

    def rest(self) -> Iterator[str]:
        """Give what has come of a process that ended: what it left behind may never close it."""
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
        return f"{self.stage} | {line}" if line and not _UNSAID.fullmatch(line) else ""

    def __str__(self) -> str:
        return f"{self.stage} ({tqdm.format_interval(time.monotonic() - self._since)})"


def run(chains: nx.DiGraph, group: Group, lists: Lists, jobs: int) -> None:
    """Run all chains, each when those that it needs are done, `jobs` at a time.

    Raises:
        UserError: as soon as a stage fails; others still run then.
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
            # A stage with several runs to train has the cores that no other stage is ready for.
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
                        f"{one.stage} failed, see above; what else ran is ended, "
                        "what was done is recorded: the next call goes on from there"
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
    """Return what JOBS in the environment says, or the number of cores this process may use.

    Raises:
        UserError: if it is no number of processes.
    """
    if not (given := os.environ.get("JOBS", "")):
        return cores()
    if not re.fullmatch(r"0*[1-9]\d{0,3}", given, re.ASCII):
        raise UserError(f"JOBS is {given!r}; it takes a whole number of processes, 1 to 9999")
    return int(given)


def _stop(*_: object) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)


def _pass_on_interrupts() -> None:
    """Have the processes take Ctrl-C's signal, also where this one was started to ignore it."""
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
