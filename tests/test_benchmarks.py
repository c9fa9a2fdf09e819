"""Benchmarks: their arithmetic, and each of them on tiny inputs. No number of seconds is tested."""

import importlib.util
import io
import itertools
import json
import os
import re
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import soundfile
import torch
import yaml

import benchmarks.__main__ as entry
from benchmarks import (
    attention,
    convert,
    overhead,
    read_ahead,
    repro,
    scale,
    sound,
    stack,
    tag,
    training,
    workspace,
)
from benchmarks.large_archive import subsets, write_large_archive
from benchmarks.machine import machine, on_cores
from benchmarks.page import page, shown, verdict
from benchmarks.peak import measure_command
from benchmarks.ratios import Spread, alternate, ratios, spread
from benchmarks.readers.serve import fingerprint
from benchmarks.results import NotMeasured, Result, Target, as_json
from benchmarks.turns import Failed, Worker
from tagging.base.errors import UserError
from tagging.base.processes import cores
from tagging.base.progress import Progress
from tagging.sources.audioset.archive import read_shards as shards_of
from tagging.sources.audioset.records import read_clips

SILENT = Progress("", None, "run", "none")
MB = 1_000_000


# --- arithmetic ---


def test_ways_take_turns_and_a_ratio_is_of_one_turn():
    clock = itertools.count(1)
    ways = {name: lambda: float(next(clock)) for name in "ab"}
    assert alternate(ways, 2, SILENT) == {"a": [1, 3], "b": [2, 4]}
    assert ratios([2, 9], [1, 3]) == [2, 3]
    with pytest.raises(ValueError):
        ratios([1, 2], [1])
    assert spread(x for x in [5, 1, 2]) == (2, 1, 5)


def test_seconds_are_summed_to_the_first_epoch_that_reaches_the_score():
    assert training.seconds_to(0.9, [0.5, 0.9, 0.8], [1, 2, 4]) == 3
    assert training.seconds_to(0.9, [0.5, 0.89], [1, 2]) is None


def test_seconds_of_an_epoch_are_divided_among_networks_that_share_it():
    seconds = {16: {training.RECIPE: [8.0, 9.0, 10.0], training.STACKS: [5.0, 10.0, 5.0]}}
    networks = {training.RECIPE: 1, training.STACKS: 10}
    met, aim, one, to_ndcg = training.targets(seconds, networks, [])
    # 8 / 0.5, 9 / 1.0 and 10 / 0.5: the median is 16.
    assert (met.got, aim.got, one.got, to_ndcg.got) == (16, 16, None, None)
    assert (met.limit, aim.limit, one.limit, to_ndcg.limit) == (8, 20, 8, 10)


def test_convert_is_held_against_the_others_of_the_same_turn():
    seconds = {
        convert.CONVERT: [1.0, 2.0],
        convert.TFRECORD: [5.0, 16.0],
        convert.TORCHDATA: [20.0, 60.0],
        convert.ZLIB: [0.5, 0.5],
    }
    python, in_c, tensorflow, gunzip = convert.targets(seconds, {convert.TENSORFLOW: "not there"})
    assert python[1:4] == ("at least", 5, 25)  # 20 / 1 and 60 / 2
    assert in_c[1:4] == ("at least", 5, 6.5)  # 5 / 1 and 16 / 2
    assert tensorflow[1:] == ("at most", 1, None, "not there")
    assert gunzip[1:4] == ("at most", 3, 3)


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
        (500, 400), (1.5, 2), (1.3, 1), (300, 306), (1.1, 1.5),
    ]  # fmt: skip
    small = scale.targets(scale.rows(200_000, used, prepared=MB))
    assert all(target.got is None and target.why for target in small)


def test_a_verdict_says_by_how_much_and_why():
    for bound, limit, got, expected in (
        ("at least", 5, 5.0, "met"),
        ("at least", 5, 4.0, "missed by 20%: it is slow"),
        ("at most", 3, 3.0, "met"),
        ("at most", 3, 4.5, "missed by 50%: it is slow"),
        ("at most", 3, 9.0, "missed: 3.0 times that: it is slow"),
        ("at most", 0, 1, "missed: it is slow"),
        ("at most", 3, None, "not measured: it is slow"),
    ):
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
    assert set(here) == {"processor", "cores", "memory_gb", "system", "python", "torch"}  # no name
    one = json.loads(json.dumps(as_json(RESULT, here)))
    text = page({"kettle": one, "pan": one})
    assert text.count(f"{here['processor']}, {here['cores']} cores") == 1
    assert "| kettle | 2.00 (1.00 to 3.00) |\n| pan |  |" in text
    assert "| seconds | at most 1 | 2.00 | missed: 2.0 times that: it is cold |" in text
    text = page({"kettle": one, "pan": one | {"machine": here | {"cores": 64}}})
    assert "The machine: " not in text
    assert text.count("Measured on ") == 2
    assert "Not measured yet: pot, lid.\n" in page({"kettle": one}, ("pot", "kettle", "lid"))


def test_the_committed_page_is_of_the_committed_results():
    if not entry.RESULTS.exists():
        pytest.skip("no results yet: make bench")
    results = json.loads(entry.RESULTS.read_text(encoding="utf-8"))
    assert list(results) == [name for name in entry.NAMES if name in results]
    assert entry.PAGE.read_text(encoding="utf-8") == page(results, entry.NAMES)


# --- processes ---


def test_a_worker_works_when_it_is_its_turn_or_says_why_not():
    with Worker("tests.turn_worker", ["work", "x"]) as worker:
        assert worker.ready == {"fingerprint": 0}
        assert [worker.turn()["seconds"] for _ in range(2)] == [1, 2]
    for way, says in (("fail", "is not there"), ("stop", "no memory")):
        with pytest.raises(Failed, match=says), Worker("tests.turn_worker", [way]) as worker:
            worker.turn()
    with Worker("tests.turn_worker", "ab") as one, Worker("tests.turn_worker", "ab") as two:
        team = training.Team([one, two])
        assert (team.networks, team.turn(), team.ndcg) == (2, 1, [1])
    with pytest.raises(Failed, match="its environment is not there"):
        Worker("tests.turn_worker", [], "/nowhere/python")


def test_peak_memory_is_the_command_s_own(tmp_path):
    ballast = bytearray(300 * MB)
    command = [sys.executable, "-I", "-S", "-c", f"x = bytearray({100 * MB}); print(len(x))"]
    usage = measure_command(command, tmp_path, {})
    assert 100 * MB < usage.peak_bytes < 200 * MB < len(ballast)
    assert usage.seconds > 0
    with pytest.raises(subprocess.CalledProcessError):
        measure_command([sys.executable, "-c", "raise SystemExit(3)"], tmp_path, {})


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="cores cannot be chosen here")
def test_cores_are_given_back():
    before = os.sched_getaffinity(0)
    for number in (1, 2):
        with on_cores(number):
            assert cores() == min(number, len(before))
    assert os.sched_getaffinity(0) == before


# --- the large archive ---


def test_the_large_archive_is_read_as_audioset_s(tmp_path):
    assert subsets(2_084_320) == {"bal_train": 22_160, "eval": 20_371, "unbal_train": 2_041_789}
    assert sum(subsets(100).values()) == 100
    assert min(subsets(100).values()) == 1
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
    assert len(Counter(label for clip in every for label in clip.labels)) > 20
    assert 0.65 < sum(bool({137, 0} & set(clip.labels)) for clip in every) / 1500 < 0.9
    # As compressible as AudioSet's: neither zeros nor noise.
    embeddings = sum(len(clip.audio_embedding) for clip in every)
    assert 0.7 < archive.stat().st_size / embeddings < 1.1


# --- each benchmark ---


@pytest.fixture
def tiny(mirror, tmp_path, monkeypatch):
    """The tests' archive instead of what the project has downloaded."""
    monkeypatch.setattr(workspace, "OWN_DATA", tmp_path / "nothing")
    monkeypatch.setenv("AUDIOSET_MIRROR", str(mirror))
    monkeypatch.delenv("DOWNLOAD_MIRROR", raising=False)


def small(params):
    params["prepare"]["top_labels"] = 5


def whole(result: Result) -> dict:
    """Return a result as its file and its page have it, its rows alike."""
    stored = json.loads(json.dumps(as_json(result, machine())))
    assert len({tuple(row) for row in stored["rows"]}) == 1
    assert result.title in page({"x": stored})
    return stored


@pytest.mark.parametrize("name", convert.READERS)
def test_convert_is_measured(tiny, name):
    stored = whole(convert.measure(1, {name: convert.READERS[name]}))
    assert "200 records of the generated sample" in stored["about"]
    rows = {row["way"]: row for row in stored["rows"]}
    reader = rows.pop(name)
    assert set(rows) == {convert.CONVERT, convert.PARSE, convert.ZLIB, convert.ISAL}
    assert all(row["records/s"] > 0 for row in rows.values())
    *_, gunzip = stored["targets"]
    assert gunzip["got"] > 0
    if reader["what it does"] == "not installed":
        why = "".join(target["why"] for target in stored["targets"] if target["got"] is None)
        assert re.search("No module named|is not there", why), why
        pytest.skip(f"{name}: {why}; make bench installs it")
    assert reader["records/s"] > 0


def test_a_reader_of_other_clips_is_refused(tiny):
    reader = {convert.TFRECORD: ("tests.turn_worker", sys.executable)}
    with pytest.raises(UserError, match="tfrecord reads other clips than convert"):
        convert.measure(1, reader)


def test_fingerprints_tell_clips_apart_and_not_their_order():
    clips = [(b"a", [1, 2], b"xyz"), (b"b", [3], b"uvw")]
    assert fingerprint(clips) == fingerprint(clips[::-1])
    for other in ((b"c", [3], b"uvw"), (b"b", [4], b"uvw"), (b"b", [3], b"uvv")):
        assert fingerprint([clips[0], other]) != fingerprint(clips)


def test_reading_ahead_is_measured(tiny):
    stored = whole(read_ahead.measure(1))
    assert "200 records" in stored["about"]
    jobs = 2 if os.environ.get("DOWNLOAD_MIRROR") else 1
    assert len(stored["rows"]) == jobs * len(read_ahead.WAYS)


def test_training_is_measured(tiny, monkeypatch):
    monkeypatch.setenv("AUDIOSET_KERNELS", "0")
    trainers = {way: training.ways()[way] for way in (training.PLAIN, training.PIPELINE)}
    trainers[training.STACK] = training.ways()[training.STACK]
    if importlib.util.find_spec("lightning"):  # requirements-bench.txt
        trainers = {training.RECIPE: training.ways()[training.RECIPE]} | trainers
    stored = whole(training.measure(2, [16], trainers, small))
    assert {row["way"]: row["networks"] for row in stored["rows"]} == dict.fromkeys(trainers, 1) | {
        training.STACK: 5
    }
    assert stored["rows"][0]["times as fast as the recipe"] == {"median": 1, "low": 1, "high": 1}
    assert all(0.3 < row["highest NDCG"] <= 1 for row in stored["rows"])
    assert "the generated sample" in stored["about"]
    assert stored["targets"][-1]["got"] is None


def test_a_trainer_that_is_missing_is_named(tiny, monkeypatch):
    monkeypatch.setattr(training, "prepare", lambda folder: {"source": "", "split": {"train": 0}})
    trainers = {"recipe": training.Way("benchmarks.trainers.nothing")}
    with pytest.raises(UserError, match=r"trainers\.nothing.*make bench installs"):
        training.measure(1, [16], trainers, small)


def test_stacks_are_measured():
    stored = whole(stack.measure(1, 1))
    assert all(row["s an epoch and network"] > 0 for row in stored["rows"])


def test_the_attention_network_is_measured_against_convolutions_that_are_the_same_function():
    stored = whole(attention.measure(1, 1))
    assert all(row["milliseconds a step"]["median"] > 0 for row in stored["rows"])
    network = attention.Network(attention.SETTINGS, attention.SPEC, attention.LABELS).eval()
    x = torch.rand(3, *attention.SPEC[:3])
    with torch.inference_mode():
        torch.testing.assert_close(attention.Convolutions(network).eval()(x), network(x))


def test_scale_is_measured():
    stored = whole(scale.measure([600]))
    *steps, total = stored["rows"]
    assert [row["step"] for row in steps] == [scale.CONVERT, scale.PREPARE, scale.EPOCH]
    assert all(row["clips"] == 600 and row["peak memory, MB"] > 20 for row in steps)
    assert total["peak memory, MB"] == max(row["peak memory, MB"] for row in steps)


def test_sizes_come_from_the_environment_and_must_fit_the_disk(monkeypatch):
    for given, expected in (("", list(scale.SIZES)), ("200000 20000", [20_000, 200_000])):
        monkeypatch.setenv("CLIPS", given)
        assert scale.sizes() == expected
    for wrong in ("20k", "99", "-5"):
        monkeypatch.setenv("CLIPS", wrong)
        with pytest.raises(UserError, match="it takes numbers of clips, 100 or more"):
            scale.sizes()
    monkeypatch.setattr(scale, "DISK_BYTES_A_CLIP", 10**15)
    with pytest.raises(UserError, match="is too full; 100 clips take"):
        scale.measure([100])


def pipeline(folder):
    """Make a repository of three stages; the last one takes what the others write."""
    overhead.make_empty(folder)
    (folder / "metrics").mkdir()
    stages = {
        name: {"cmd": f"echo {name} > metrics/{name}.json", "outs": [f"metrics/{name}.json"]}
        for name in "abc"
    }
    stages["c"]["deps"] = ["metrics/a.json", "metrics/b.json"]
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    return "three stages"


def test_overhead_is_measured(tmp_path, monkeypatch):
    project = tmp_path / "project"
    pipeline(project)
    with pytest.raises(UserError, match="has something to do"):
        overhead.measure(1, project, project, [])
    workspace.run([*overhead.DVC, "repro"], project)
    assert overhead.up_to_date(project)
    assert not overhead.up_to_date(tmp_path)
    expected = {"stages.prepare": False, "torch": True}
    assert {module: overhead.imports_torch(module) for module in expected} == expected
    monkeypatch.setattr(overhead, "up_to_date", lambda folder: folder == project)
    monkeypatch.setattr(overhead, "imports_torch", lambda module: module == "json")
    stored = whole(overhead.measure(1, project, tmp_path, ["json", "sys"]))
    assert [row["PyTorch"] for row in stored["rows"][-2:]] == ["yes", "no"]
    of_root, needless = stored["targets"]
    assert (of_root["limit"], of_root["got"], needless["got"]) == (2, None, 1)
    assert "is not up to date" in of_root["why"]
    monkeypatch.setattr(overhead, "timed_run", lambda command, folder: lambda: len(folder.name))
    of_root, _ = overhead.measure(1, project, project, []).targets
    assert of_root.got == len("project")


def test_every_stage_s_start_is_measured():
    assert set(overhead.WITH_TORCH) < set(overhead.STAGES)


def test_both_ways_to_run_stages_are_measured(monkeypatch):
    stored = whole(repro.measure(1, pipeline))
    assert [row["way"] for row in stored["rows"]] == [repro.PLAIN, repro.SIDE_BY_SIDE]
    (target,) = stored["targets"]
    assert target["limit"] == 1.6
    assert (target["got"] is None) == (cores() < 2)

    def other_scores(command, folder):
        (folder / "metrics/yac.json").write_text(command[-1])

    monkeypatch.setattr(repro, "run", other_scores)
    with pytest.raises(UserError, match="make repro gives other scores than dvc repro"):
        repro.measure(1, lambda folder: (folder / "metrics").mkdir(parents=True))


def test_what_stages_side_by_side_are_measured_on_is_trainings_alone(tiny, tmp_path):
    project = tmp_path / "project"
    assert "of the generated sample" in repro.make_project(project, small)
    shown = workspace.run([*overhead.DVC, "repro", "--dry", "--force"], project)
    kinds = Counter(re.findall(r"Running stage '(\w+)", shown))
    assert {kind: kinds[kind] for kind in kinds if kind != "ensemble"} == {
        "train": len(repro.EPOCHS), "evaluate": len(repro.EPOCHS), "compare": 1,
    }  # fmt: skip
    ensembles = workspace.read_params(project)["ensembles"].values()
    assert len(ensembles) == kinds["ensemble"] >= 1
    assert all(len(ensemble["members"]) > 1 for ensemble in ensembles)
    assert [file.name for file in (project / "metrics").iterdir()] == ["data.json"]


# librosa's other decoder, which is not used, imports modules that Python will drop.
of_librosa = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def recordings():
    """Return two recordings of a second, as files."""
    for seed in range(2):
        file = io.BytesIO()
        noise = np.random.default_rng(seed).normal(0, 0.1, 44100)
        soundfile.write(file, noise, 44100, format="OGG")
        yield file.getvalue()


@of_librosa
def test_sound_is_measured(tiny):
    stored = whole(sound.measure(1, list(recordings())))
    ways = Counter(row["way"] for row in stored["rows"])
    assert ways == {sound.OURS: 4, sound.LIBROSA: 3, sound.TRANSFORMERS: 1}
    assert all(row["times real time"] > 0 for row in stored["rows"])
    assert [target["limit"] for target in stored["targets"]] == [3, 1.5]


@of_librosa
def test_sound_that_others_make_something_else_of_is_refused(tiny):
    found = sound.ways(list(recordings()), None)
    of_others = found[sound.LOG_MEL, sound.LIBROSA]
    worse = of_others._replace(work=lambda waveform: of_others.work(2 * waveform))
    with pytest.raises(UserError, match="librosa gives something else"):
        sound.check(found | {(sound.LOG_MEL, sound.LIBROSA): worse})


@of_librosa
@pytest.mark.skipif("DOWNLOAD_MIRROR" not in os.environ, reason="DOWNLOAD_MIRROR is not set")
def test_sound_is_esc_10_s():
    files = sound.esc10()
    assert len(files) == 400 / sound.EVERY
    stored = whole(sound.measure(1, files[:2]))
    assert stored["rows"][-1]["step"] == sound.SCORES


@of_librosa
@pytest.mark.skipif("DOWNLOAD_MIRROR" not in os.environ, reason="DOWNLOAD_MIRROR is not set")
def test_tagging_is_measured():
    stored = whole(tag.measure(1, list(recordings())[:1], hours=0.001))
    ways = [row["way"] for row in stored["rows"]]
    assert ways == [tag.OURS, tag.PYTHON, tag.ONNX, tag.THEIRS, tag.FIRST, tag.LONG]
    assert all(row["times real time"] > 0 for row in stored["rows"])
    sizes = {row["way"]: row["model's file, MB"] for row in stored["rows"]}
    # Both hold a million of numbers, ONNX's the graph besides.
    assert 3.5 < sizes[tag.PYTHON] < sizes[tag.ONNX] < 10
    assert stored["rows"][-1]["sound, s"] == pytest.approx(3.6)


def test_tagging_takes_weights(monkeypatch):
    monkeypatch.delenv("DOWNLOAD_MIRROR", raising=False)
    with pytest.raises(NotMeasured, match="mn04_as in a mirror"):
        tag.measure()


# --- the command ---


def test_one_benchmark_by_name_keeps_what_others_gave(tmp_path, monkeypatch, capsys):
    def missing():
        raise NotMeasured("there is no water")

    monkeypatch.setattr(entry, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(entry, "PAGE", tmp_path / "README.md")
    monkeypatch.setattr(stack, "measure", lambda: RESULT)
    monkeypatch.setattr(convert, "measure", lambda: RESULT._replace(title="Melting ice"))
    entry.main("stack")
    entry.main("convert")
    monkeypatch.setattr(convert, "measure", missing)
    entry.main("convert")
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results) == ["convert", "stack"]
    assert (tmp_path / "README.md").read_text() == page(results, entry.NAMES)
    printed = capsys.readouterr()
    assert "Melting ice" in printed.out
    assert "convert: not measured: there is no water" in printed.err


def test_benchmarks_are_those_named():
    with pytest.raises(SystemExit, match="no benchmark is called boil; there are convert, "):
        entry.main("stack boil")
    assert entry.chosen([]) == list(entry.NAMES)
    for name in entry.NAMES:
        assert importlib.import_module(f"benchmarks.{name}").measure
