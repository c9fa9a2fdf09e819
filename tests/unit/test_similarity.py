"""Tasks of embeddings: recall among the nearest, metric losses, and a task from clips to page."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch.nn import functional

from stages import compare, evaluate
from stages import train as stage
from tagging.base.errors import UserError
from tagging.data.clips import Fold, read_features, read_index, write_json
from tagging.data.parameters import parse
from tagging.data.scores import read_scores
from tagging.data.spec import InputSpec
from tagging.data.task import MetricSettings, Task
from tagging.data.task_folder import TaskFolder
from tagging.layers.base import TaggingNetwork
from tagging.learning.dataset import ClipDataset
from tagging.learning.factory import build_network
from tagging.learning.metric import load_metric
from tagging.learning.metric_losses import (
    METRIC_LOSSES,
    Pairs,
    SoftContrastive,
    TeacherTriplet,
    Triplet,
    TripletLoss,
    share_label,
)
from tagging.learning.model import FinetunedModel, Model
from tagging.learning.model_file import load_network
from tagging.learning.neighbours import any_label, find_nearest, label_recall, rarer_label_recall
from tagging.learning.settings import LOSSES
from tagging.learning.similarity import predict_tags, resolve_activation, triplet_statistics
from tagging.reports.context import find_entry, read_context
from tagging.reports.similarity import recall_verdicts
from tests.generated import SPEC, make_repository, multi_hot, write_clips, write_params

KS = (1, 2, 4, 8)


def embedded(clips: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((clips, 5)).astype(np.float32)


class Identity(TaggingNetwork):
    """A network whose embedding is its input."""

    def forward_features(self, x: torch.Tensor, frames: torch.Tensor | None = None) -> torch.Tensor:
        return x.flatten(1)


def test_statistics_are_of_triplets_that_the_networks_embeddings_give() -> None:
    """The hardest negatives of three pairs of near clips are the partners: each clip once."""
    angles = np.radians([0, 60, 120, 5, 65, 125])
    values = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)[:, None, None]
    labels = np.repeat(np.eye(2, dtype=np.uint8), 3, axis=0)
    dataset = ClipDataset(
        values, InputSpec(1, 1, 2), np.arange(6), labels, None, torch.device("cpu")
    )
    loss = Triplet(negatives="hard")
    statistics = triplet_statistics(loss, Identity(), dataset, 6, "cosine")
    assert statistics == {"anchors": 1, "positives": 1, "negatives": 1, "clips": 3 / 6}
    assert triplet_statistics(Pairs(), Identity(), dataset, 6, "cosine") == {}


# Neighbours and recall


@pytest.mark.parametrize("clips", [3, 9, 10, 1500])
def test_the_nearest_are_scikit_learns_without_the_query(clips: int) -> None:
    embeddings = embedded(clips)
    most = min(8, clips - 1)
    found = NearestNeighbors(n_neighbors=most).fit(embeddings).kneighbors(return_distance=False)
    places = find_nearest(embeddings)
    assert np.array_equal(places, found)
    assert not (places == np.arange(clips)[:, None]).any()


@pytest.mark.parametrize("k", KS)
def test_recall_is_that_of_a_brute_force(k: int) -> None:
    labels, embeddings = multi_hot(60, 9), embedded(60)
    labels[7] = 0
    recalls, hits, rarer = [], [], []
    frequent = set(np.argsort(-labels.sum(axis=0, dtype=int), kind="stable")[:2].tolist())
    for query, query_labels in enumerate(labels):
        distances = ((embeddings - embeddings[query]) ** 2).sum(axis=1)
        near = [place for place in np.argsort(distances) if place != query][:k]
        mine = set(np.flatnonzero(query_labels).tolist())
        theirs = set(np.flatnonzero(labels[near].any(axis=0)).tolist())
        recalls.append(len(mine & theirs) / len(mine) if mine else np.nan)
        hits.append(float(bool(mine & theirs)) if mine else np.nan)
        rare = mine - frequent
        rarer.append(len(rare & theirs) / len(rare) if rare else np.nan)
    np.testing.assert_allclose(label_recall(labels, embeddings, k), recalls)
    np.testing.assert_allclose(any_label(labels, embeddings, k), hits)
    np.testing.assert_allclose(rarer_label_recall(labels, embeddings, k), rarer)
    assert load_metric(MetricSettings(name="recall", k=k)).value(
        labels, embeddings
    ) == pytest.approx(np.nanmean(recalls))


def test_of_unit_vectors_the_nearest_are_those_of_the_cosine() -> None:
    embeddings = embedded(50)
    units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    cosine = NearestNeighbors(n_neighbors=8, metric="cosine").fit(embeddings)
    assert np.array_equal(find_nearest(units), cosine.kneighbors(return_distance=False))


def test_equally_near_ones_come_in_random_order_and_the_same_again() -> None:
    silent = np.zeros((400, 3), np.float32)
    places = find_nearest(silent)
    assert not (places == np.arange(400)[:, None]).any()
    assert all(len(set(row)) == 8 for row in places.tolist())
    # Of so many draws each clip has its part: none profits from where it stands.
    assert np.bincount(places.ravel(), minlength=400).max() < 30
    assert np.array_equal(places, find_nearest(silent.copy()))
    # A nearer one is always before those that are equal.
    silent[7] = 1
    silent[3] = 0.9
    assert find_nearest(silent.copy())[7, 0] == 3


def test_the_nearest_are_searched_once_for_all_metrics(monkeypatch) -> None:
    from tagging.learning import neighbours

    searches = []
    search = neighbours._search
    monkeypatch.setattr(neighbours, "_search", lambda x: searches.append(len(x)) or search(x))
    labels, embeddings = multi_hot(30, 4), embedded(30)
    for k in KS:
        load_metric(MetricSettings(name="recall", k=k)).value(labels, embeddings)
    load_metric(MetricSettings(name="any_label", k=8)).value(labels, embeddings)
    assert searches == [30]
    load_metric(MetricSettings(name="recall", k=1)).value(labels, embedded(30, seed=1))
    assert searches == [30, 30]


# Losses


@pytest.mark.parametrize("name", METRIC_LOSSES)
def test_along_a_metric_loss_clips_that_share_labels_come_near(name: str) -> None:
    torch.manual_seed(0)
    outputs, labels = torch.from_numpy(embedded(40)), multi_hot(40, 6)
    targets = torch.from_numpy(labels).float()
    if name == "teacher_triplet":
        targets = 0.5 * targets + 0.45 * (targets + torch.rand_like(targets)) / 2
    before, loss_function = label_recall(labels, outputs.numpy(), 1).mean(), LOSSES[name]()
    for _ in range(100):
        outputs.requires_grad_()
        loss = loss_function(outputs, targets)
        loss.backward()
        assert loss.dim() == 0 and outputs.grad.isfinite().all()
        outputs = outputs.detach() - outputs.grad
    assert label_recall(labels, outputs.numpy(), 1).mean() > before + 0.1


@pytest.mark.parametrize("name", METRIC_LOSSES)
def test_where_nothing_is_alike_a_metric_loss_is_zero_and_can_be_trained(name: str) -> None:
    outputs = (10 * torch.eye(4)).requires_grad_()
    loss = LOSSES[name]()(outputs, torch.eye(4))
    loss.backward()
    assert loss == 0


def test_triplets_by_hand() -> None:
    # Clips at 0, 1, 3 and 3.5 on a line; the first two share a label, the others have another each.
    outputs = torch.tensor([[0.0], [1], [3], [3.5]])
    labels = torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    assert share_label(labels).nonzero().tolist() == [[0, 1], [1, 0]]
    for negatives in ("semi_hard", "hard"):
        chosen = Triplet(negatives=negatives, triplets_per_anchor=1).triplets(outputs, labels)
        assert [places.tolist() for places in chosen] == [[0, 1], [1, 0], [2, 2]]
    # Of 1 - 3 + margin and 1 - 2 + margin the latter alone is above 0.
    loss = Triplet(negatives="hard", margin=1.5)(outputs, labels)
    assert loss == pytest.approx(0.5)
    # The other triplet counts as 0 in the mean over both.
    loss = Triplet(negatives="hard", margin=1.5, reducer="mean")(outputs, labels)
    assert loss == pytest.approx(0.25)


def test_a_semi_hard_negative_is_farther_than_the_positive() -> None:
    # Of the anchor at 0 the negative at 1 is nearer than the positive at 2: the one at 3 is taken.
    outputs = torch.tensor([[0.0], [2], [1], [3], [9]])
    labels = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1], [0, 1]])
    anchors, _, negatives = Triplet(negatives="semi_hard", triplets_per_anchor=1).triplets(
        outputs, labels
    )
    assert negatives[anchors == 0].tolist() == [3]
    _, _, negatives = Triplet(negatives="hard", triplets_per_anchor=1).triplets(outputs, labels)
    assert negatives[0] == 2


def drawn(loss: TripletLoss, targets: torch.Tensor, anchor: int) -> list[dict[int, float]]:
    """Return the share of each clip among the positives and the negatives of an anchor."""
    torch.manual_seed(0)
    anchors, *others = loss.triplets(torch.zeros(len(targets), 1), targets)
    assert all((clips != anchors).all() for clips in others)
    shares = [clips[anchors == anchor].bincount() / (anchors == anchor).sum() for clips in others]
    return [
        {clip: float(share[clip]) for clip in share.nonzero().flatten().tolist()}
        for share in shares
    ]


def test_triplets_by_tag_draw_each_tag_with_the_same_probability() -> None:
    # Clip 0 has tags 0 and 1. Tag 0 is frequent; clip 5, with tag 2, has it too. Nobody has tag 4.
    tags = [[0, 1], [0], [0], [0], [1], [0, 2], [3], [3], [3]]
    labels = torch.zeros(len(tags), 5)
    for clip, own in enumerate(tags):
        labels[clip, own] = 1
    positives, negatives = drawn(Triplet(draw="tag", triplets_per_anchor=20_000), labels, 0)
    assert positives == pytest.approx(dict.fromkeys((1, 2, 3, 5), 1 / 8) | {4: 1 / 2}, abs=0.02)
    assert negatives == pytest.approx({5: 1 / 2} | dict.fromkeys((6, 7, 8), 1 / 6), abs=0.02)
    with pytest.raises(ValueError, match="must have negatives random with draw tag, got hard"):
        Triplet(draw="tag", negatives="hard")
    positives, negatives = drawn(Triplet(triplets_per_anchor=20_000), labels, 0)
    assert positives == pytest.approx(dict.fromkeys((1, 2, 3, 4, 5), 1 / 5), abs=0.02)
    assert negatives == pytest.approx(dict.fromkeys((6, 7, 8), 1 / 3), abs=0.02)


def blended(labels: list[list[float]], probabilities: list[list[float]]) -> torch.Tensor:
    return 0.5 * torch.tensor(labels) + 0.5 * torch.tensor(probabilities)


def test_triplets_by_the_most_and_the_least_probable_tag() -> None:
    # Nobody has tag 3, which is the least probable of all: of those that are there it is tag 2.
    targets = blended(
        [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]],
        [[0.2, 0.9, 0.1, 0], [0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5]],
    )
    chosen = TeacherTriplet(selection="probable", triplets_per_anchor=1).triplets(
        torch.zeros(3, 1), targets
    )
    assert [places[chosen[0] == 0].tolist() for places in chosen] == [[0], [1], [2]]


def test_triplets_by_tag_are_replaced_by_the_taggers_errors_where_there_are_any() -> None:
    # The tagger's first two tags of clip 0 are 0 and 2: it misses tag 1, which clips 1 and 2 have,
    # and adds tag 2, which clip 3 has, beside a tag of clip 0. Of clip 1 it adds tag 4, which
    # nobody has, and of clip 4 it adds tag 0.
    targets = blended(
        [[1, 1, 0, 0, 0], [0, 1, 0, 0, 0], [0, 1, 0, 0, 0], [1, 0, 1, 0, 0], [0, 0, 1, 1, 0]],
        [
            [0.9, 0.1, 0.8, 0.2, 0.3],
            [0.1, 0.9, 0.2, 0.3, 0.8],
            [0.1, 0.9, 0.2, 0.3, 0.8],
            [0.9, 0.1, 0.8, 0.2, 0.3],
            [0.8, 0.1, 0.2, 0.9, 0.3],
        ],
    )
    loss = TeacherTriplet(selection="errors", top_k=2, triplets_per_anchor=20_000)
    positives, negatives = drawn(loss, targets, 0)
    assert positives == pytest.approx({1: 1 / 2, 2: 1 / 2}, abs=0.02)
    assert negatives == pytest.approx({3: 1 / 2, 4: 1 / 2}, abs=0.02)
    # Without errors that are of use, both are drawn by tag: tag 1, and tags 0, 2 and 3.
    positives, negatives = drawn(loss, targets, 1)
    assert positives == pytest.approx({0: 1 / 2, 2: 1 / 2}, abs=0.02)
    assert negatives == pytest.approx({0: 1 / 6, 3: 1 / 6 + 1 / 6, 4: 1 / 6 + 1 / 3}, abs=0.02)
    # Clip 4 has a false negative, tag 2, and a false positive, tag 0.
    positives, negatives = drawn(loss, targets, 4)
    assert positives == {3: 1}
    assert negatives == pytest.approx({0: 1 / 2, 3: 1 / 2}, abs=0.02)
    # The strict form refuses clip 3, which shares tag 0 with clip 0, and tag 2 with clip 4. Clip 1
    # has no triplet.
    strict = TeacherTriplet(selection="strict_errors", top_k=2, triplets_per_anchor=100)
    assert drawn(strict, targets, 0)[1] == {4: 1}
    assert drawn(strict, targets, 4)[1] == {0: 1}
    assert 1 not in strict.triplets(torch.zeros(5, 1), targets)[0]


def test_strict_triplets_by_a_taggers_errors() -> None:
    # Of clip 0 the tagger misses label 0, which clip 1 has, and hears label 2, which clip 2 has.
    targets = blended(
        [[1, 1, 0], [1, 0, 0], [0, 0, 1]],
        [[0.1, 0.8, 0.9], [0.9, 0.1, 0.8], [0.1, 0.2, 0.9]],
    )
    chosen = TeacherTriplet(selection="strict_errors", top_k=2, triplets_per_anchor=1).triplets(
        torch.zeros(3, 1), targets
    )
    assert [places.tolist() for places in chosen] == [[0], [1], [2]]


def test_pairs_by_hand() -> None:
    outputs = torch.tensor([[0.0], [1], [1.5]])
    labels = torch.tensor([[1.0, 0], [1, 0], [0, 1]])
    # The pair that is alike: 1. Others: 1.5 is beyond the margin, 0.5 is nearer by 0.5.
    assert Pairs(margin=1.0)(outputs, labels) == pytest.approx(1 + 0.5)


def test_soft_contrastive_by_hand() -> None:
    outputs = functional.normalize(torch.from_numpy(embedded(5)))
    labels = torch.tensor([[1.0, 1, 0], [1, 0, 0], [0, 1, 1], [0, 0, 1], [0, 0, 0]])
    cosines = outputs @ outputs.T
    shares = {(0, 1): 1 / 2, (0, 2): 1 / 3, (2, 3): 1 / 2}  # of what either has
    total = 0.0
    for query in range(4):
        others = [k for k in range(5) if k != query]
        log_p = dict(zip(others, (cosines[query, others] / 0.2).log_softmax(0), strict=True))
        of = {k: shares.get((min(query, k), max(query, k)), 0) for k in others}
        total -= sum(of[k] * log_p[k] for k in others) / sum(of.values())
    found = SoftContrastive(temperature=0.2)(outputs, labels)
    torch.testing.assert_close(found, torch.as_tensor(total / 4))


# A task


TASK = {
    "type": "similarity",
    "metrics": [{"name": "recall", "k": 1}],
    "report_metrics": [{"name": "recall", "k": 2}],
}
ATTENTION = {
    "architecture": "attention",
    "network": {"hidden": 8, "layers": 1, "dropout": 0.1, "pooling": "feature"},
}
IDENTITY = {"architecture": "identity"}
FINETUNED = ATTENTION | {"weights": "models/tagger"}
ENTRIES = {
    "mean": {"architecture": "projection"},
    "projection": {
        "architecture": "projection", "network": {"width": 4}, "train": {"loss": "triplet"},
        "distance": "euclidean",
    },
    "tagger": ATTENTION,
    "wide": ATTENTION | {"embedding_size": 5, "train": {"loss": "soft_contrastive"}},
}  # fmt: skip
TUNED = {
    "trained": FINETUNED | {"train": {"loss": "soft_contrastive"}},
    "frozen": FINETUNED | {"finetune": "head", "embedding_size": 3, "train": {"loss": "pairs"}},
    "probable": FINETUNED | {"hard_label_weight": 0.5, "train": {"loss": "teacher_triplet"}},
    "projected": {
        "architecture": "projection",
        "network": {"width": 4},
        "finetune": "none",
        "weights": "models/tagger/seed0.safetensors",
        "hard_label_weight": 0.5,
        "train": {"loss": {"name": "teacher_triplet", "selection": "errors", "top_k": 1}},
    },
}
COMPARE = {
    "plot": ["tagger"], "sections": ["similarity"], "published": {}, "published_clips": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which all entries are trained, scored and compared."""
    folder = tmp_path_factory.mktemp("similarity")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        torch.set_num_threads(1)
        make_repository()
        order = np.arange(120)
        write_clips(multi_hot(120, 6), [Fold(order[:60], order[60:90], order[90:])])
        write_params(task=TASK, models=ENTRIES, finetuned=TUNED, compare=COMPARE)
        write_json(TaskFolder(Path()).summary, {"source": "AudioSet"})
        for name in ENTRIES | TUNED:
            stage.main(".", name)
            evaluate.main(".", name)
        compare.main(".")
    return folder


def test_the_scores_are_embeddings(task: Path, monkeypatch) -> None:
    monkeypatch.chdir(task)
    widths = {"mean": 128, "projection": 4, "tagger": 8, "wide": 5, "trained": 8, "frozen": 3}
    widths |= {"projected": 4}
    for name, width in widths.items():
        embeddings = read_scores(TaskFolder(task).scores("models", name)).outputs["seed0/test"]
        assert (embeddings.shape, embeddings.dtype) == ((30, width), np.float32)
        lengths = np.linalg.norm(embeddings, axis=1)
        assert np.allclose(lengths, 1, atol=1e-5) == (name != "projection")
        labels = read_index(TaskFolder(task).index).labels[90:]
        scores = json.loads(TaskFolder(task).evaluation(name).read_text())["test"]
        for k in (1, 2):
            assert scores[f"recall_at_{k}"] == label_recall(labels, embeddings, k).mean()
        assert scores["recall_at_1_ci_low"] < scores["recall_at_1_ci_high"]


def test_the_mean_is_centred_by_the_clips_that_train(task: Path, monkeypatch) -> None:
    monkeypatch.chdir(task)
    values = np.load("data/features/vggish/values.npy")[:, 0].astype(np.float64) / 256
    means = values.mean(axis=1)
    centred = means[90:] - means[:60].mean(axis=0)
    expected = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    found = read_scores(TaskFolder(task).scores("models", "mean")).outputs["seed0/test"]
    # By the mean of batches, of which the last is smaller.
    np.testing.assert_allclose(found, expected, atol=0.05)


def weights(task: Path, name: str) -> dict[str, torch.Tensor]:
    path = task / f"models/{name}/seed0.safetensors"
    return load_network(path, torch.device("cpu")).network.state_dict()


def test_a_finetuned_network_starts_from_the_tagger_and_is_frozen_if_wanted(task: Path) -> None:
    tagger, trained, frozen = (weights(task, name) for name in ("tagger", "trained", "frozen"))
    shared = [name for name in tagger if "classify" not in name.split(".")]
    fixed = [name for name in shared if "num_batches" not in name]
    assert all(torch.equal(frozen[name], tagger[name]) for name in fixed)
    assert not torch.equal(trained["layers.0.linear.weight"], tagger["layers.0.linear.weight"])
    assert frozen["levels.0.classify.weight"].shape == (3, 8)


def test_the_page_compares_with_the_tagger_and_describes_triplets(task: Path) -> None:
    page = (task / "leaderboard/README.md").read_text()
    assert "Each of the 30 test clips is the query once, among all others." in page
    section = page[page.index("## Labels of nearest clips") :]
    for name in (ENTRIES | TUNED).keys() - {"tagger"}:
        assert f"| `{name}` | " in section
    assert "random neighbours" in page
    rows = [line for line in section.splitlines() if line.startswith("| `projection` | ")]
    assert rows[1].split(" | ")[2:4] == ["100.0%", "100.0%"]  # by labels, they are never wrong
    assert not (task / "plots/compare/average_precision.csv").exists()


def test_one_run_is_not_said_to_be_above_or_not(task: Path, monkeypatch) -> None:
    monkeypatch.chdir(task)
    context = read_context(TaskFolder(task))
    tagger, wide = (find_entry(context.entries, name, "plot") for name in ("tagger", "wide"))
    text = recall_verdicts(context, tagger)
    assert text.strip().endswith("without an interval there is no verdict.")
    # The same gain in each of several runs is one.
    runs = {
        row.name: {
            f"seed{seed}": {"test": dict.fromkeys(("recall_at_1", "recall_at_2"), value)}
            for seed in range(3)
        }
        for row, value in ((tagger, 0.5), (wide, 0.6))
    }
    tagger, wide = (row._replace(runs=runs[row.name]) for row in (tagger, wide))
    lower = tagger._replace(
        name="lower",
        runs={run: {"test": {"recall_at_1": 0.5, "recall_at_2": 0.4}} for run in tagger.runs},
    )
    text = recall_verdicts(replace(context, entries=[tagger, wide, lower]), tagger)
    assert "0.2 of 4 intervals would be expected to exclude zero." in text
    assert "- **Gains**: `wide` (R@1, R@2).\n- **Losses**: `lower` (R@2).\n" in text
    assert "- **Hints of a gain**: none.\n" in text
    assert "One run" not in text
    single = wide._replace(name="single", runs={"seed0": wide.runs["seed0"]})
    text = recall_verdicts(replace(context, entries=[tagger, wide, single]), tagger)
    assert "0.1 of 2 intervals" in text
    assert "- **One run, without an interval**: `single`.\n" in text


@pytest.mark.parametrize(
    ("entry", "task_type", "sentence"),
    [
        (
            IDENTITY,
            "similarity",
            "models.x.architecture must have an embedding, got identity; choose another",
        ),
        (
            ATTENTION | {"train": {"loss": "pairs"}},
            "multi_label",
            "models.x.train.loss must be a loss of classes unless task.type is similarity, got pai",
        ),
    ],
)
def test_a_network_and_a_loss_must_fit_the_type_of_the_task(
    entry: dict, task_type: str, sentence: str
) -> None:
    model = parse(Model, entry, "models.x")
    network = build_network(model, SPEC._replace(bins=6), 6, "x")
    loss = LOSSES[model.train.get("loss", "bce")]()
    with pytest.raises(UserError, match=sentence):
        resolve_activation(Task(**TASK | {"type": task_type}), network, loss, model, "x")
    wide = model.model_copy(update={"embedding_size": 4})
    network = build_network(wide, SPEC._replace(bins=4), 6, "x")
    assert resolve_activation(Task(**TASK), network, loss, model, "x") == "cosine"


def test_another_models_weights_must_be_of_use() -> None:
    with pytest.raises(UserError, match="x must have hard_label_weight, or finetune all or head"):
        parse(FinetunedModel, FINETUNED | {"finetune": "none"}, "finetuned.x")


def test_a_teacher_of_tags_must_be_a_classifier(task: Path) -> None:
    folder = TaskFolder(task)
    features, index = read_features(folder.feature("vggish")), read_index(folder.index)
    dataset = ClipDataset.select(features, index.labels, np.arange(20), torch.device("cpu"))
    assert predict_tags(folder.model("tagger", "seed0"), dataset).shape == (20, 6)
    with pytest.raises(UserError, match=r"wide/seed0.safetensors must be a classifier to be"):
        predict_tags(folder.model("wide", "seed0"), dataset)
