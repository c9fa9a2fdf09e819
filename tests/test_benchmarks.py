"""Benchmarks: their arithmetic, and each of them on tiny inputs. No number of seconds is tested."""

import importlib.util
import json
import subprocess
import sys
from collections import Counter

import pytest

import benchmarks.__main__ as entry
from benchmarks import convert, overhead, read_shards, scale, stack, training, workspace
from benchmarks.large_archive import subsets, write_large_archive
from benchmarks.machine import machine, one_core
from benchmarks.page import page, shown, verdict
from benchmarks.peak import measure_command
from benchmarks.ratios import Spread, alternate, ratios, spread
from benchmarks.readers.serve import fingerprint
from benchmarks.results import Result, Target, as_json
from benchmarks.turns import ROOT, Failed, Worker
from tagging.archive import read_shards as shards_of
from tagging.errors import UserError
from tagging.progress import Progress
from tagging.records import read_clips

SILENT = Progress("", None, "run", "none")
MB = 1_000_000


# --- arithmetic ---


def test_a_spread_is_the_median_and_the_ends():
    assert spread([5, 1, 2]) == (2, 1, 5)
    assert spread(x for x in (1.0, 2.0)) == (1.5, 1.0, 2.0)


def test_a_ratio_is_of_one_turn():
    assert ratios([2, 9], [1, 3]) == [2, 3]
    with pytest.raises(ValueError):
        ratios([1, 2], [1])


def test_ways_take_turns():
    calls = []

    def way(name):
        def work():
            calls.append(name)
            return float(len(calls))

        return work

    assert alternate({"a": way("a"), "b": way("b")}, 2, SILENT) == {"a": [1, 3], "b": [2, 4]}
    assert calls == ["a", "b", "a", "b"]


def test_seconds_are_summed_to_the_first_epoch_that_reaches_the_score():
    assert training.seconds_to(0.9, [0.5, 0.9, 0.8], [1, 2, 4]) == 3
    assert training.seconds_to(0.9, [0.5, 0.89], [1, 2]) is None


def test_seconds_of_an_epoch_are_divided_among_networks_that_share_it():
    seconds = {16: {training.RECIPE: [8.0, 9.0, 10.0], training.STACKS: [5.0, 10.0, 5.0]}}
    networks = {training.RECIPE: 1, training.STACKS: 10}
    met, aim, one, to_ndcg = training.targets(seconds, networks, [])
    # 8 / 0.5, 9 / 1.0 and 10 / 0.5: the median is 16.
    assert (met.got, aim.got, one.got, to_ndcg.got) == (16, 16, None, None)
    assert [verdict(target._asdict()).split(":")[0] for target in (met, aim, one)] == [
        "met",
        "missed by 20%",
        "not measured",
    ]


def test_convert_is_held_against_the_others_of_the_same_turn():
    seconds = {
        convert.CONVERT: [1.0, 2.0],
        convert.TFRECORD: [5.0, 16.0],
        convert.TORCHDATA: [20.0, 60.0],
        convert.ZLIB: [0.5, 0.5],
    }
    missing = {convert.TENSORFLOW: "it is not there"}
    python, in_c, tensorflow, gunzip = convert.targets(seconds, missing)
    assert python.got == 25  # 20 / 1 and 60 / 2
    assert in_c.got == 6.5  # 5 / 1 and 16 / 2
    assert (tensorflow.got, tensorflow.why) == (None, "it is not there")
    assert gunzip.got == 3


def test_full_size_is_held_against_memory_time_and_growth():
    table = []
    for clips, cost in ((200_000, 100), (2_040_000, 150)):
        used = {
            scale.CONVERT: scale.Usage(clips * cost / 1e6 / 2, 400 * MB),
            scale.PREPARE: scale.Usage(clips * cost / 1e6 / 4, 3000 * MB),
            scale.EPOCH: scale.Usage(clips * cost / 1e6 / 4, 1500 * MB),
        }
        table += scale.rows(clips, used, prepared=1500 * MB)
    assert [(target.limit, target.got) for target in scale.targets(table)] == [
        (500, 400),
        (1.5, 2),
        (1.5, 1),
        (300, 306),
        (1.1, 1.5),
    ]
    small = scale.targets(scale.rows(200_000, used, prepared=MB))
    assert all(target.got is None and target.why for target in small)


@pytest.mark.parametrize(
    ("bound", "limit", "got", "expected"),
    [
        ("at least", 5, 5.0, "met"),
        ("at least", 5, 4.0, "missed by 20%: it is slow"),
        ("at most", 3, 3.0, "met"),
        ("at most", 3, 4.5, "missed by 50%: it is slow"),
        ("at most", 3, 9.0, "missed: 3.0 times that: it is slow"),
        ("at most", 0, 1, "missed: it is slow"),
        ("at most", 3, None, "not measured: it is slow"),
    ],
)
def test_a_verdict_says_by_how_much_and_why(bound, limit, got, expected):
    assert verdict(Target("time", bound, limit, got, "it is slow")._asdict()) == expected


def test_numbers_are_shown_with_three_digits_that_count():
    cells = [None, "no", 7, 12345, 0.1234, 1.234, 12.34, 123.4, 12345.6]
    assert [shown(cell) for cell in cells] == [
        "", "no", "7", "12,345", "0.123", "1.23", "12.3", "123", "12,346",
    ]  # fmt: skip
    assert shown(Spread(2.0, 1.0, 30.0)._asdict()) == "2.00 (1.00 to 30.0)"


RESULT = Result(
    "Boiling water",
    "One litre.",
    [{"way": "kettle", "seconds": Spread(2.0, 1.0, 3.0)}, {"way": "pan", "seconds": None}],
    [Target("seconds", "at most", 1, 2.0, "it is cold")],
)


def test_the_page_has_each_result_with_its_machine():
    here = machine()
    one = json.loads(json.dumps(as_json(RESULT, here)))
    text = page({"kettle": one, "pan": one})
    assert text.count(f"{here['processor']}, {here['cores']} cores") == 1
    assert "| kettle | 2.00 (1.00 to 3.00) |\n| pan |  |" in text
    assert "| seconds | at most 1 | 2.00 | missed by 100%" not in text
    assert "| seconds | at most 1 | 2.00 | missed: 2.0 times that: it is cold |" in text
    other = one | {"machine": here | {"cores": 64}}
    text = page({"kettle": one, "pan": other})
    assert "The machine: " not in text
    assert text.count("Measured on ") == 2


def test_the_machine_has_no_name():
    assert set(machine()) == {"processor", "cores", "memory_gb", "system", "python", "torch"}


def test_the_committed_page_is_of_the_committed_results():
    if not entry.RESULTS.exists():
        pytest.skip("no results yet: make bench")
    results = json.loads(entry.RESULTS.read_text(encoding="utf-8"))
    assert list(results) == list(entry.NAMES), "run all of make bench"
    assert entry.PAGE.read_text(encoding="utf-8") == page(results)


# --- processes ---


def test_a_worker_works_when_it_is_its_turn():
    with Worker("tests.turn_worker", ["work", "x"]) as worker:
        assert worker.ready == {"fingerprint": 0}
        assert [worker.turn()["seconds"] for _ in range(2)] == [1, 2]


@pytest.mark.parametrize(("way", "says"), [("fail", "is not there"), ("stop", "no memory")])
def test_a_worker_that_ends_says_why(way, says):
    with pytest.raises(Failed, match=says), Worker("tests.turn_worker", [way]) as worker:
        worker.turn()


def test_peak_memory_is_the_command_s_own(tmp_path):
    ballast = bytearray(300 * MB)
    command = [sys.executable, "-I", "-S", "-c", f"x = bytearray({100 * MB}); print(len(x))"]
    usage = measure_command(command, tmp_path, {})
    assert 100 * MB < usage.peak_bytes < 200 * MB < len(ballast)
    assert usage.seconds > 0
    with pytest.raises(subprocess.CalledProcessError):
        measure_command([sys.executable, "-c", "raise SystemExit(3)"], tmp_path, {})


def test_one_core_is_given_back():
    import os

    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("this system does not keep processes to cores")
    before = os.sched_getaffinity(0)
    with one_core():
        assert len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == before


# --- the large archive ---


def test_subsets_have_audioset_s_proportions():
    assert subsets(2_084_320) == {"bal_train": 22_160, "eval": 20_371, "unbal_train": 2_041_789}
    assert sum(subsets(100).values()) == 100
    assert min(subsets(100).values()) == 1


def test_the_large_archive_is_read_as_audioset_s(tmp_path):
    archive = tmp_path / "features.tar.gz"
    told = []
    write_large_archive(archive, 1500, told.append)
    assert sum(told) == 1500
    clips = {
        subset: [clip for s in shards_of(archive, subset) for clip in read_clips(s.content, s.name)]
        for subset in subsets(1500)
    }
    assert {subset: len(each) for subset, each in clips.items()} == subsets(1500)
    every = [clip for each in clips.values() for clip in each]
    assert len({clip.video_id for clip in every}) == 1500
    assert len({clip.audio_embedding for clip in every}) == 1500
    counts = Counter(label for clip in every for label in clip.labels)
    assert 0.65 < sum(bool({137, 0} & set(clip.labels)) for clip in every) / 1500 < 0.9
    assert len(counts) > 20
    # As compressible as AudioSet's: neither zeros nor noise.
    embeddings = sum(len(clip.audio_embedding) for clip in every)
    assert 0.7 < archive.stat().st_size / embeddings < 1.1


# --- each benchmark ---


@pytest.fixture
def tiny(mirror, tmp_path, monkeypatch):
    """The tests' archive instead of what the project has downloaded."""
    monkeypatch.setattr(workspace, "OWN_DATA", tmp_path / "nothing")
    monkeypatch.setenv("AUDIOSET_MIRROR", str(mirror))


def whole(result: Result) -> dict:
    """Return a result as its file and its page have it, its rows alike."""
    stored = json.loads(json.dumps(as_json(result, machine())))
    assert len({tuple(row) for row in stored["rows"]}) == 1
    assert result.title in page({"x": stored})
    return stored


def test_convert_is_measured(tiny):
    readers = {convert.TENSORFLOW: ("benchmarks.readers.tensorflow", "/nowhere/python")}
    stored = whole(convert.measure(1, readers))
    assert "200 records of the generated sample" in stored["about"]
    *measured, tensorflow = stored["rows"]
    assert {row["way"] for row in measured} == {
        convert.CONVERT,
        convert.PARSE,
        convert.ZLIB,
        convert.ISAL,
    }
    assert all(row["records/s"] > 0 for row in measured)
    assert (tensorflow["what it does"], tensorflow["seconds"]) == ("not installed", None)
    assert [target["got"] is None for target in stored["targets"]] == [True, True, True, False]


def test_a_reader_of_other_clips_is_refused(tiny):
    reader = {convert.TFRECORD: ("tests.turn_worker", sys.executable)}
    with pytest.raises(UserError, match="tfrecord reads other clips than convert"):
        convert.measure(1, reader)


def test_fingerprints_tell_clips_apart_and_not_their_order():
    clips = [(b"a", [1, 2], b"xyz"), (b"b", [3], b"uvw")]
    assert fingerprint(clips) == fingerprint(clips[::-1])
    for other in ((b"c", [3], b"uvw"), (b"b", [4], b"uvw"), (b"b", [3], b"uvv")):
        assert fingerprint([clips[0], other]) != fingerprint(clips)


@pytest.mark.parametrize("name", convert.READERS)
def test_readers_read_what_convert_does(tiny, name):
    module, python = convert.READERS[name]
    library = module.rpartition(".")[2]
    found = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({library!r}) is None)"
    try:
        if subprocess.run([python, "-I", "-c", found]).returncode:
            pytest.skip(f"{library} is not installed")
    except FileNotFoundError:
        pytest.skip("make bench makes this environment")
    stored = whole(convert.measure(1, {name: (module, python)}))
    assert next(row for row in stored["rows"] if row["way"] == name)["records/s"] > 0


def test_reading_shards_is_measured(tiny):
    stored = whole(read_shards.measure(1))
    assert "200 records" in stored["about"]
    assert len(stored["rows"]) == len(read_shards.WAYS)


def small(params):
    params["prepare"]["top_labels"] = 5


def test_training_is_measured(tiny, monkeypatch):
    monkeypatch.setenv("AUDIOSET_KERNELS", "0")
    trainers = {way: training.ways()[way] for way in (training.PLAIN, training.PIPELINE)}
    trainers[training.STACKS] = training.ways()[training.STACK]._replace(copies=2)
    stored = whole(training.measure(2, [16], trainers, small))
    assert [(row["way"], row["networks"]) for row in stored["rows"]] == [
        (training.PLAIN, 1),
        (training.PIPELINE, 1),
        (training.STACKS, 10),
    ]
    assert all(0.3 < row["highest NDCG"] <= 1 for row in stored["rows"])
    assert "the generated sample" in stored["about"]
    assert all(target["got"] is None for target in stored["targets"])


def test_the_study_s_recipe_is_measured(tiny):
    if importlib.util.find_spec("lightning") is None:
        pytest.skip("lightning is not installed: requirements-bench.txt")
    trainers = {training.RECIPE: training.ways()[training.RECIPE]}
    (row,) = whole(training.measure(2, [16], trainers, small))["rows"]
    assert row["times as fast as the recipe"] == {"median": 1, "low": 1, "high": 1}
    assert 0.3 < row["highest NDCG"] <= 1


def test_a_trainer_that_is_missing_is_named(tiny):
    trainers = {"recipe": training.Way("benchmarks.trainers.nothing")}
    with pytest.raises(UserError, match=r"trainers\.nothing.*make bench installs"):
        training.measure(1, [16], trainers, small)


def test_stacks_are_measured():
    stored = whole(stack.measure(1, 1))
    assert all(row["s an epoch and network"] > 0 for row in stored["rows"])


def test_scale_is_measured():
    stored = whole(scale.measure([600]))
    assert [row["step"] for row in stored["rows"]] == [
        scale.CONVERT,
        scale.PREPARE,
        scale.EPOCH,
        scale.ALL,
    ]
    *steps, total = stored["rows"]
    assert all(row["clips"] == 600 and row["peak memory, MB"] > 20 for row in steps)
    assert total["peak memory, MB"] == max(row["peak memory, MB"] for row in steps)


def test_sizes_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("CLIPS", "")
    assert scale.sizes() == list(scale.SIZES)
    monkeypatch.setenv("CLIPS", "200000 20000")
    assert scale.sizes() == [20_000, 200_000]
    for wrong in ("20k", "99", "-5"):
        monkeypatch.setenv("CLIPS", wrong)
        with pytest.raises(UserError, match="it takes numbers of clips, 100 or more"):
            scale.sizes()


def test_a_full_disk_is_seen_before_work_begins(monkeypatch):
    monkeypatch.setattr(scale, "DISK_BYTES_A_CLIP", 10**15)
    with pytest.raises(UserError, match="is too full; 100 clips take"):
        scale.measure([100])


def test_overhead_is_measured(project):
    stored = whole(overhead.measure(1, project.root, ["stages.prepare", "stages.train"]))
    torch = {row["what"]: row["PyTorch"] for row in stored["rows"]}
    assert torch["import stages.prepare"] == "no"
    assert torch["import stages.train"] == "yes"
    assert stored["targets"][0]["got"] == 0


def test_overhead_takes_a_project_with_nothing_to_do(project):
    params = project.params()
    params["prepare"]["seed"] += 1
    project.write_params(params)
    with pytest.raises(UserError, match="has something to do"):
        overhead.measure(1, project.root, [])


def test_every_stage_s_start_is_measured():
    assert {f"stages.{file.stem}" for file in (ROOT / "stages").glob("*.py")} < set(overhead.STAGES)
    assert set(overhead.WITH_TORCH) < set(overhead.STAGES)


# --- the command ---


def test_one_benchmark_by_name_keeps_what_others_gave(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(entry, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(entry, "PAGE", tmp_path / "README.md")
    monkeypatch.setattr(stack, "measure", lambda: RESULT)
    monkeypatch.setattr(convert, "measure", lambda: RESULT._replace(title="Melting ice"))
    entry.main("stack")
    entry.main("convert")
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results) == ["convert", "stack"]
    assert (tmp_path / "README.md").read_text() == page(results)
    assert "Melting ice" in capsys.readouterr().out


def test_what_is_no_benchmark_is_refused(capsys):
    with pytest.raises(SystemExit, match="no benchmark is called boil; there are convert, "):
        entry.main("stack boil")
    assert entry.chosen([]) == list(entry.NAMES)


def test_every_benchmark_is_named():
    for name in entry.NAMES:
        assert importlib.import_module(f"benchmarks.{name}").measure
