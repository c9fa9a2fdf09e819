"""The arithmetic of benchmarks, and each benchmark on tiny inputs. No duration is tested."""

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
from benchmarks.page import format_cell, page, verdict
from benchmarks.peak import measure_command
from benchmarks.readers.serve import fingerprint
from benchmarks.results import NotMeasured, Result, Target, as_json
from benchmarks.timing import Spread, interleave, ratios, spread
from benchmarks.workers import Worker, WorkerError
from tagging.base.errors import UserError
from tagging.base.processes import cores
from tagging.base.progress import Progress
from tagging.sources.audioset.archive import read_shards
from tagging.sources.audioset.records import read_clips

SILENT = Progress("", None, "run", "none")
MB = 1_000_000


# --- arithmetic ---


def test_implementations_are_interleaved_and_a_ratio_is_of_one_round():
    clock = itertools.count(1)
    implementations = {name: lambda: float(next(clock)) for name in "ab"}
    assert interleave(implementations, 2, SILENT) == {"a": [1, 3], "b": [2, 4]}
    assert ratios([2, 9], [1, 3]) == [2, 3]
    with pytest.raises(ValueError):
        ratios([1, 2], [1])
    assert spread(x for x in [5, 1, 2]) == (2, 1, 5)


def test_seconds_are_summed_to_the_first_epoch_that_reaches_the_score():
    assert training.seconds_to(0.9, [0.5, 0.9, 0.8], [1, 2, 4]) == 3
    assert training.seconds_to(0.9, [0.5, 0.89], [1, 2]) is None


def test_networks_that_are_trained_together_share_the_seconds_of_an_epoch():
    seconds = {16: {training.RECIPE: [8.0, 9.0, 10.0], training.STACKS: [5.0, 10.0, 5.0]}}
    networks = {training.RECIPE: 1, training.STACKS: 10}
    minimum, aim, one, to_ndcg = training.targets(seconds, networks, [])
    # 8 / 0.5, 9 / 1.0 and 10 / 0.5: the median is 16.
    targets = (minimum, aim, one, to_ndcg)
    assert [target.measured for target in targets] == [16, 16, None, None]
    assert (minimum.limit, aim.limit, one.limit, to_ndcg.limit) == (8, 20, 8, 10)


def test_convert_is_compared_with_the_others_in_the_same_round():
    seconds = {
        convert.CONVERT: [1.0, 2.0],
        convert.TFRECORD: [5.0, 16.0],
        convert.TORCHDATA: [20.0, 60.0],
        convert.ZLIB: [0.5, 0.5],
    }
    python, in_c, tensorflow, gunzip = convert.targets(seconds, {convert.TENSORFLOW: "missing"})
    assert python[1:4] == ("at least", 5, 25)  # 20 / 1 and 60 / 2
    assert in_c[1:4] == ("at least", 5, 6.5)  # 5 / 1 and 16 / 2
    assert tensorflow[1:] == ("at most", 1, None, "missing")
    assert gunzip[1:4] == ("at most", 3, 3)


def test_full_size_has_targets_of_memory_time_and_growth():
    table = []
    for clips, cost in ((200_000, 100), (2_040_000, 150)):
        usage_of_steps = {
            scale.CONVERT: scale.Usage(clips * cost / 1e6 / 2, 400 * MB),
            scale.PREPARE: scale.Usage(clips * cost / 1e6 / 4, 3000 * MB),
            scale.EPOCH: scale.Usage(clips * cost / 1e6 / 4, 1500 * MB),
        }
        table += scale.make_rows(clips, usage_of_steps, feature_bytes=1500 * MB)
    assert [(target.limit, target.measured) for target in scale.targets(table)] == [
        (500, 400), (1.5, 2), (1.3, 1), (300, 306), (1.1, 1.5),
    ]  # fmt: skip
    small = scale.targets(scale.make_rows(200_000, usage_of_steps, feature_bytes=MB))
    assert all(target.measured is None and target.reason for target in small)


def test_a_verdict_has_the_amount_and_the_reason():
    for bound, limit, measured, expected in (
        ("at least", 5, 5.0, "met"),
        ("at least", 5, 4.0, "missed by 20%: it is slow"),
        ("at most", 3, 3.0, "met"),
        ("at most", 3, 4.5, "missed by 50%: it is slow"),
        ("at most", 3, 9.0, "missed: 3.0 times: it is slow"),
        ("at most", 0, 1, "missed: it is slow"),
        ("at most", 3, None, "not measured: it is slow"),
    ):
        assert verdict(Target("time", bound, limit, measured, "it is slow")._asdict()) == expected


def test_numbers_have_three_significant_digits():
    cells = [None, "no", 7, 12345, 0.1234, 1.234, 12.34, 123.4, 12345.6]
    assert [format_cell(cell) for cell in cells] == [
        "", "no", "7", "12,345", "0.123", "1.23", "12.3", "123", "12,346",
    ]  # fmt: skip
    assert format_cell(Spread(2.0, 1.0, 30.0)._asdict()) == "2.00 (1.00 to 30.0)"


RESULT = Result(
    "Boiling water",
    "One litre.",
    [
        {"implementation": "kettle", "seconds": Spread(2.0, 1.0, 3.0)},
        {"implementation": "pan", "seconds": None},
    ],
    [Target("seconds", "at most", 1, 2.0, "it is cold")],
)


def test_the_page_has_each_result_with_its_machine():
    here = machine()
    assert set(here) == {"processor", "cores", "memory_gb", "system", "python", "torch"}  # no name
    one = json.loads(json.dumps(as_json(RESULT, here)))
    text = page({"kettle": one, "pan": one})
    assert text.count(f"{here['processor']}, {here['cores']} cores") == 1
    assert "| kettle | 2.00 (1.00 to 3.00) |\n| pan |  |" in text
    assert "| seconds | at most 1 | 2.00 | missed: 2.0 times: it is cold |" in text
    text = page({"kettle": one, "pan": one | {"machine": here | {"cores": 64}}})
    assert "The machine: " not in text
    assert text.count("Measured on ") == 2
    assert "Not measured yet: pot, lid.\n" in page({"kettle": one}, ("pot", "kettle", "lid"))


def test_the_committed_page_shows_the_committed_results():
    if not entry.RESULTS.exists():
        pytest.skip("no results yet: make bench")
    results = json.loads(entry.RESULTS.read_text(encoding="utf-8"))
    assert list(results) == [name for name in entry.NAMES if name in results]
    assert entry.PAGE.read_text(encoding="utf-8") == page(results, entry.NAMES)


# --- processes ---


def test_a_worker_answers_requests_or_reports_its_error():
    with Worker("tests.benchmark_worker", ["work", "x"]) as worker:
        assert worker.ready == {"fingerprint": 0}
        assert [worker.run()["seconds"] for _ in range(2)] == [1, 2]
    module = "tests.benchmark_worker"
    for mode, message in (("fail", "library is missing"), ("stop", "no memory")):
        with pytest.raises(WorkerError, match=message), Worker(module, [mode]) as worker:
            worker.run()
    with Worker(module, "ab") as one, Worker(module, "ab") as two:
        team = training.Team([one, two])
        assert (team.networks, team.train_epoch(), team.ndcg) == (2, 1, [1])
    with pytest.raises(WorkerError, match="/nowhere/python does not exist"):
        Worker(module, [], "/nowhere/python")


def test_peak_memory_is_that_of_the_command(tmp_path):
    ballast = bytearray(300 * MB)
    command = [sys.executable, "-I", "-S", "-c", f"x = bytearray({100 * MB}); print(len(x))"]
    usage = measure_command(command, tmp_path, {})
    assert 100 * MB < usage.peak_bytes < 200 * MB < len(ballast)
    assert usage.seconds > 0
    with pytest.raises(subprocess.CalledProcessError):
        measure_command([sys.executable, "-c", "raise SystemExit(3)"], tmp_path, {})


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="cores cannot be chosen here")
def test_cores_are_restored():
    before = os.sched_getaffinity(0)
    for number in (1, 2):
        with on_cores(number):
            assert cores() == min(number, len(before))
    assert os.sched_getaffinity(0) == before


# --- the large archive ---


def test_the_large_archive_is_read_like_audioset_s(tmp_path):
    assert subsets(2_084_320) == {"bal_train": 22_160, "eval": 20_371, "unbal_train": 2_041_789}
    assert sum(subsets(100).values()) == 100
    assert min(subsets(100).values()) == 1
    archive = tmp_path / "features.tar.gz"
    written = []
    write_large_archive(archive, 1500, written.append)
    assert sum(written) == 1500
    by_subset = {
        subset: [
            clip
            for shard in read_shards(archive, subset)
            for clip in read_clips(shard.content, shard.name)
        ]
        for subset in subsets(1500)
    }
    assert {subset: len(clips) for subset, clips in by_subset.items()} == subsets(1500)
    every = [clip for clips in by_subset.values() for clip in clips]
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
    """The archive of the tests instead of the project's."""
    monkeypatch.setattr(workspace, "PROJECT_DATA", tmp_path / "nothing")
    monkeypatch.setenv("AUDIOSET_MIRROR", str(mirror))
    monkeypatch.delenv("DOWNLOAD_MIRROR", raising=False)


def small(params):
    params["prepare"]["top_k_labels"] = 5


def check(result: Result) -> dict:
    """Return a result as `results.json` stores it, after checks of its rows and its page."""
    stored = json.loads(json.dumps(as_json(result, machine())))
    assert len({tuple(row) for row in stored["rows"]}) == 1
    assert result.title in page({"x": stored})
    return stored


@pytest.mark.parametrize("name", convert.READERS)
def test_convert_is_measured(tiny, name):
    stored = check(convert.measure(1, {name: convert.READERS[name]}))
    assert "200 records of the generated sample" in stored["description"]
    rows = {row["implementation"]: row for row in stored["rows"]}
    reader = rows.pop(name)
    assert set(rows) == {convert.CONVERT, convert.PARSE, convert.ZLIB, convert.ISAL}
    assert all(row["records/s"] > 0 for row in rows.values())
    *_, gunzip = stored["targets"]
    assert gunzip["measured"] > 0
    if reader["work"] == "not installed":
        missed = [target for target in stored["targets"] if target["measured"] is None]
        reasons = "".join(target["reason"] for target in missed)
        assert re.search("No module named|does not exist", reasons), reasons
        pytest.skip(f"{name}: {reasons}; make bench installs it")
    assert reader["records/s"] > 0


def test_a_reader_of_other_clips_is_refused(tiny):
    reader = {convert.TFRECORD: ("tests.benchmark_worker", sys.executable)}
    with pytest.raises(UserError, match="tfrecord and convert read different clips"):
        convert.measure(1, reader)


def test_fingerprints_depend_on_clips_and_not_on_their_order():
    clips = [(b"a", [1, 2], b"xyz"), (b"b", [3], b"uvw")]
    assert fingerprint(clips) == fingerprint(clips[::-1])
    for other in ((b"c", [3], b"uvw"), (b"b", [4], b"uvw"), (b"b", [3], b"uvv")):
        assert fingerprint([clips[0], other]) != fingerprint(clips)


def test_prefetching_is_measured(tiny):
    stored = check(read_ahead.measure(1))
    assert "200 records" in stored["description"]
    jobs = 2 if os.environ.get("DOWNLOAD_MIRROR") else 1
    assert len(stored["rows"]) == jobs * len(read_ahead.IMPLEMENTATIONS)


def test_training_is_measured(tiny, monkeypatch):
    monkeypatch.setenv("AUDIOSET_KERNELS", "0")
    names = [training.PLAIN, training.PIPELINE, training.STACK]
    if importlib.util.find_spec("lightning"):  # requirements-bench.txt
        names.insert(0, training.RECIPE)
    trainers = {name: training.list_trainers()[name] for name in names}
    stored = check(training.measure(2, [16], trainers, small))
    networks = {row["implementation"]: row["networks"] for row in stored["rows"]}
    assert networks == dict.fromkeys(trainers, 1) | {training.STACK: 5}
    assert stored["rows"][0]["speedup over the recipe"] == {"median": 1, "low": 1, "high": 1}
    assert all(0.3 < row["highest NDCG"] <= 1 for row in stored["rows"])
    assert "the generated sample" in stored["description"]
    assert stored["targets"][-1]["measured"] is None


def test_a_trainer_that_is_missing_is_named(tiny, monkeypatch):
    summary = {"source": "", "split": {"train": 0}}
    monkeypatch.setattr(training, "prepare_clips", lambda folder: summary)
    trainers = {"recipe": training.Trainer("benchmarks.trainers.nothing")}
    with pytest.raises(UserError, match=r"trainers\.nothing.*make bench installs"):
        training.measure(1, [16], trainers, small)


def test_stacks_are_measured():
    stored = check(stack.measure(1, 1))
    assert all(row["s per epoch and network"] > 0 for row in stored["rows"])


def test_the_attention_network_is_compared_with_convolutions_of_the_same_function():
    stored = check(attention.measure(1, 1))
    assert all(row["ms per step"]["median"] > 0 for row in stored["rows"])
    network = attention.Network(attention.SETTINGS, attention.SPEC, attention.LABELS).eval()
    x = torch.rand(3, *attention.SPEC[:3])
    with torch.inference_mode():
        torch.testing.assert_close(attention.Convolutions(network).eval()(x), network(x))


def test_scale_is_measured():
    stored = check(scale.measure([600]))
    *steps, total = stored["rows"]
    assert [row["step"] for row in steps] == [scale.CONVERT, scale.PREPARE, scale.EPOCH]
    assert all(row["clips"] == 600 and row["peak memory, MB"] > 20 for row in steps)
    assert total["peak memory, MB"] == max(row["peak memory, MB"] for row in steps)


def test_sizes_come_from_the_environment_and_must_fit_the_disk(monkeypatch):
    for text, expected in (("", list(scale.SIZES)), ("200000 20000", [20_000, 200_000])):
        monkeypatch.setenv("CLIPS", text)
        assert scale.read_sizes() == expected
    for wrong in ("20k", "99", "-5"):
        monkeypatch.setenv("CLIPS", wrong)
        with pytest.raises(UserError, match="CLIPS must be numbers of clips, 100 or more, got"):
            scale.read_sizes()
    monkeypatch.setattr(scale, "DISK_BYTES_PER_CLIP", 10**15)
    with pytest.raises(UserError, match=r"must have .* GB free for 100 clips"):
        scale.measure([100])


def pipeline(folder):
    """Make a repository with three stages, of which the last reads the outputs of the others."""
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
    monkeypatch.delenv("BASELINE", raising=False)
    project = tmp_path / "project"
    pipeline(project)
    with pytest.raises(UserError, match="dvc repro must have nothing to do"):
        overhead.measure(1, project, project, [])
    workspace.run([*overhead.DVC, "repro"], project)
    assert overhead.is_up_to_date(project)
    assert not overhead.is_up_to_date(tmp_path)
    expected = {"stages.prepare": False, "torch": True}
    assert {module: overhead.imports_torch(module) for module in expected} == expected
    monkeypatch.setattr(overhead, "is_up_to_date", lambda folder: folder == project)
    monkeypatch.setattr(overhead, "imports_torch", lambda module: module == "json")
    stored = check(overhead.measure(1, project, tmp_path, ["json", "sys"]))
    assert [row["PyTorch"] for row in stored["rows"][-2:]] == ["yes", "no"]
    repro_target, *compared, imports = stored["targets"]
    assert (repro_target["limit"], repro_target["measured"], imports["measured"]) == (2, None, 1)
    assert "has something to do" in repro_target["reason"]
    assert [(target["limit"], target["measured"]) for target in compared] == [(0.5, None)] * 2
    monkeypatch.setattr(overhead, "time_command", lambda command, folder: lambda: len(folder.name))
    repro_target, *_ = overhead.measure(1, project, project, []).targets
    assert repro_target.measured == len("project")


def test_a_baseline_s_commands_are_interleaved_with_this_project_s(tmp_path, monkeypatch):
    projects = [tmp_path / "project", tmp_path / "old"]
    for project in projects:
        pipeline(project)
        assert not overhead.has_earlier_commit(project)
    monkeypatch.setenv("BASELINE", str(projects[1]))
    monkeypatch.setattr(overhead, "is_up_to_date", lambda folder: folder in projects)
    monkeypatch.setattr(overhead, "has_earlier_commit", lambda folder: folder in projects)
    monkeypatch.setattr(overhead, "run", lambda command, folder: "one line\nand another\n")
    monkeypatch.setattr(overhead, "make_empty", lambda folder: None)
    monkeypatch.setattr(overhead, "time_command", lambda command, folder: lambda: len(folder.name))
    result = overhead.measure(1, *projects[:1], projects[0], [])
    lines = {row["command"]: row["lines"] for row in result.rows}
    assert lines["dvc metrics diff, this project"] == 2
    assert lines["dvc metrics show, baseline"] == 2
    assert lines["dvc repro, nothing to do, baseline"] is None
    _, *compared, _ = result.targets
    assert [target.measured for target in compared] == [len("project") / len("old")] * 2
    added = {row["command"]: row["seconds added"] for row in result.rows}
    empty = len("empty")
    assert added["dvc metrics diff, baseline"].median == len("old") - empty
    assert added[overhead.EMPTY] is None


def test_commands_need_a_project_in_their_state(tmp_path):
    project = tmp_path / "project"
    pipeline(project)
    assert overhead.dvc_commands(project, "here") == {}
    workspace.run([*overhead.DVC, "repro"], project)
    assert list(overhead.dvc_commands(project, "here")) == ["dvc repro, nothing to do, here"]
    for message in ("one", "two"):
        git = ["git", "-c", "user.name=A Tester", "-c", "user.email=tester@example.org"]
        workspace.run([*git, "commit", "--quiet", "--allow-empty", "-m", message], project)
    assert list(overhead.dvc_commands(project, "here")) == [
        "dvc repro, nothing to do, here", "dvc metrics show, here", "dvc metrics diff, here",
    ]  # fmt: skip


def test_imports_of_every_stage_are_measured():
    assert set(overhead.WITH_TORCH) < set(overhead.STAGES)


def test_both_commands_that_run_stages_are_measured(monkeypatch):
    stored = check(repro.measure(1, pipeline))
    assert [row["command"] for row in stored["rows"]] == [repro.PLAIN, repro.PARALLEL]
    (target,) = stored["targets"]
    assert target["limit"] == 1.6
    assert (target["measured"] is None) == (cores() < 2)

    def write_other_scores(command, folder):
        (folder / "metrics/yac.json").write_text(command[-1])

    monkeypatch.setattr(repro, "run", write_other_scores)
    with pytest.raises(UserError, match="the scores of make repro differ from those of dvc repro"):
        repro.measure(1, lambda folder: (folder / "metrics").mkdir(parents=True))


def test_the_project_for_stages_in_parallel_has_trainings_alone(tiny, tmp_path):
    project = tmp_path / "project"
    assert "of the generated sample" in repro.make_project(project, small)
    output = workspace.run([*overhead.DVC, "repro", "--dry", "--force"], project)
    kinds = Counter(re.findall(r"Running stage '(\w+)", output))
    assert {kind: kinds[kind] for kind in kinds if kind != "ensemble"} == {
        "train": len(repro.EPOCHS), "evaluate": len(repro.EPOCHS), "compare": 1,
    }  # fmt: skip
    ensembles = workspace.read_params(project)["ensembles"].values()
    assert len(ensembles) == kinds["ensemble"] >= 1
    assert all(len(ensemble["members"]) > 1 for ensemble in ensembles)
    assert not (project / "metrics").exists()


# librosa's unused other decoder imports modules that Python will drop.
ignore_librosa = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def recordings():
    """Yield the content of two recordings of one second."""
    for seed in range(2):
        file = io.BytesIO()
        noise = np.random.default_rng(seed).normal(0, 0.1, 44100)
        soundfile.write(file, noise, 44100, format="OGG")
        yield file.getvalue()


@ignore_librosa
def test_sound_is_measured(tiny):
    stored = check(sound.measure(1, list(recordings())))
    implementations = Counter(row["implementation"] for row in stored["rows"])
    assert implementations == {
        sound.OURS: 7, sound.LIBROSA: 3, sound.LIBSNDFILE: 3, sound.TRANSFORMERS: 1
    }  # fmt: skip
    assert all(row["times real time"] > 0 for row in stored["rows"])
    assert [target["limit"] for target in stored["targets"]] == [3, 1.5]


@ignore_librosa
def test_a_library_with_other_results_is_refused(tiny):
    implementations = sound.make_implementations(list(recordings()), None)
    key = sound.LOG_MEL, sound.LIBROSA
    librosa = implementations[key]
    louder = librosa._replace(work=lambda waveform: librosa.work(2 * waveform))
    with pytest.raises(UserError, match="the result of librosa differs from that of this project"):
        sound.check(implementations | {key: louder})


@ignore_librosa
@pytest.mark.skipif("DOWNLOAD_MIRROR" not in os.environ, reason="DOWNLOAD_MIRROR is not set")
def test_sound_is_measured_on_esc_10():
    files = sound.read_esc10()
    assert len(files) == 400 / sound.EVERY
    stored = check(sound.measure(1, files[:2]))
    assert stored["rows"][-1]["step"] == sound.SCORES


@ignore_librosa
@pytest.mark.skipif("DOWNLOAD_MIRROR" not in os.environ, reason="DOWNLOAD_MIRROR is not set")
def test_tagging_is_measured():
    stored = check(tag.measure(1, list(recordings())[:1], hours=0.001))
    implementations = [row["implementation"] for row in stored["rows"]]
    assert implementations == [tag.OURS, tag.PYTHON, tag.ONNX, tag.THEIRS, tag.FIRST, tag.LONG]
    assert all(row["times real time"] > 0 for row in stored["rows"])
    sizes = {row["implementation"]: row["model file, MB"] for row in stored["rows"]}
    # Both have a million parameters; the ONNX file also has the graph.
    assert 3.5 < sizes[tag.PYTHON] < sizes[tag.ONNX] < 10
    assert stored["rows"][-1]["audio, s"] == pytest.approx(3.6)


def test_tagging_needs_weights(monkeypatch):
    monkeypatch.delenv("DOWNLOAD_MIRROR", raising=False)
    with pytest.raises(NotMeasured, match="DOWNLOAD_MIRROR must be a folder with mn04_as"):
        tag.measure()


# --- the command ---


def test_one_benchmark_by_name_keeps_the_results_of_others(tmp_path, monkeypatch, capsys):
    def missing():
        raise NotMeasured("the water is missing")

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
    assert "convert: not measured: the water is missing" in printed.err


def test_only_benchmarks_are_named():
    with pytest.raises(SystemExit, match=r"ONLY must name benchmarks of convert, .*, got boil"):
        entry.main("stack boil")
    assert entry.select_benchmarks([]) == list(entry.NAMES)
    for name in entry.NAMES:
        assert importlib.import_module(f"benchmarks.{name}").measure
