"""The page of plots: its templates, the data they name, and Vega without a network."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from dvc_render import VegaRenderer
from dvc_render.html import HTML

from stages import compare
from tagging.reports.charts import leaderboard_svg, render_svg
from tagging.scoring.tables import read_rows, to_csv, to_markdown
from tests.closure import ROOT
from tests.compared import multi_label, write_task
from tools.plots import write_page

TEMPLATES = ROOT / ".dvc/plots"
PLOTS = {
    name: plot
    for entry in yaml.safe_load((ROOT / "plots/dvc.yaml").read_text())["plots"]
    for name, plot in entry.items()
}
PARAMS = {
    "task": {"type": "multi_label", "metrics": [{"name": "ndcg"}, {"name": "precision", "k": 1}]},
    "models": {"yac": {"seeds": [0, 1]}, "attention": {}, "ast": {}},
    "students": {"yac_distilled": {}},
    "ensembles": {"best_of_all": {"members": ["yac", "attention"]}},
    "compare": {"plot": ["yac", "attention"], "published": {"Printed": {"ndcg": 0.9}}},
}
QUALITIES = {"yac": 1.5, "attention": 2.2, "ast": 2, "yac_distilled": 1.7, "best_of_all": 2.4}


@pytest.fixture(scope="module", autouse=True)
def task(tmp_path_factory):
    """A folder with the plots' data of a task, as working directory."""
    folder = tmp_path_factory.mktemp("task")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_task(PARAMS, multi_label(), QUALITIES)
        compare.main(".")
        yield folder


def read_plot_rows(plot: dict, revisions=("workspace",)) -> list[dict]:
    ((file, _),) = plot["y"].items()
    return [{**row, "rev": rev} for rev in revisions for row in read_rows(Path("plots", file))]


def chart(plot: dict, rows: list[dict]) -> dict:
    ((_, y),) = plot["y"].items()
    return VegaRenderer(
        rows, "a plot", **plot | {"y": y, "template_dir": TEMPLATES}
    ).get_filled_template()


def draw_rows(name: str, rows: list[dict]) -> str:
    """Return the plot of that name as SVG."""
    return render_svg(chart(PLOTS[name], rows))


def texts(drawn: str) -> list[str]:
    """Return all texts of an SVG."""
    return re.findall("<text[^>]*>([^<]*)</text>", drawn)


def entry(name: str, kind: str, value: float, **more) -> list[dict]:
    """Return an entry's rows of the leaderboard, a metric each, as DVC reads them."""
    ends = ("", "") if kind in ("published", "baseline") else (value - 0.005, value + 0.005)
    row = {
        "model": name,
        "kind": kind,
        "reference": "no",
        "significantly_below": "no",
        "data": "AudioSet",
    }
    row |= {"better": "higher", "value": value, "ci_low": ends[0], "ci_high": ends[1]}
    row |= {"rev": "workspace"} | more
    rows = [row | {"metric": metric} for metric in ("NDCG", "P@1")]
    return [{key: str(value) for key, value in row.items()} for row in rows]


def costly(name: str, kind: str, value: float, **more) -> list[dict]:
    """Return an entry's row of the costs."""
    return entry(name, kind, value, **more)[:1]


def marks(drawn: str, name: str = "entry") -> dict[str, tuple[str, str]]:
    """Return colour and shape of each point, by what the tooltip names."""
    points = re.findall(
        f'<path aria-label="(?:[^"]*; )?{name}: ([^;"]*)[^>]* d="([^"]*)" fill="(#[^"]*|white)"',
        drawn,
    )
    return {model: (colour, re.sub(r"[0-9.-]+", "", shape)) for model, shape, colour in points}


def named(spec, key: str) -> set[str]:
    """Return all names that a specification has under a key, at any depth."""
    if not isinstance(spec, dict | list):
        return set()
    values = spec.values() if isinstance(spec, dict) else spec
    own = {spec[key]} if isinstance(spec, dict) and isinstance(spec.get(key), str) else set()
    return own.union(*(named(value, key) for value in values))


@pytest.mark.parametrize("revisions", [("workspace",), ("HEAD~1", "workspace")])
@pytest.mark.parametrize("name", PLOTS)
def test_plots_draw_the_data(name, revisions):
    rows = read_plot_rows(PLOTS[name], revisions)
    shown = texts(draw_rows(name, rows))
    assert PLOTS[name]["title"] in shown
    # A name may stand in a sentence: split at what no name has.
    words = {word for text in shown for word in [text, *re.split("[^A-Za-z0-9_~-]+", text)]}
    assert {row["model"] for row in rows if "model" in row} <= words
    assert {"undefined", "null", "NaN"}.isdisjoint(words)
    # One revision is not named; of several, each is.
    assert ("workspace" in words) == ("HEAD~1" in words) == (len(revisions) > 1)


@pytest.mark.parametrize("name", PLOTS)
def test_fields_are_columns(name):
    rows = read_plot_rows(PLOTS[name])
    spec = chart(PLOTS[name], rows)
    del spec["data"]["values"]
    assert named(spec, "field") - named(spec, "as") <= set(rows[0])
    assert set(spec["data"]["format"]["parse"]) <= set(rows[0])
    assert "<DVC_METRIC" not in json.dumps(spec)


@pytest.mark.parametrize("name", PLOTS)
def test_sample_results_say_so(name):
    rows = [row | {"data": "generated sample"} for row in read_plot_rows(PLOTS[name])]
    assert "Generated sample, not AudioSet" in draw_rows(name, rows)
    assert "Generated sample" not in draw_rows(name, read_plot_rows(PLOTS[name]))


def test_every_template_is_used():
    assert {path.stem for path in TEMPLATES.glob("*.json")} == {
        plot["template"] for plot in PLOTS.values()
    }


def test_templates_look_alike():
    first, *others = [
        json.loads(path.read_text())["config"] for path in sorted(TEMPLATES.glob("*.json"))
    ]
    assert all(config == first for config in others)


def test_fifteen_entries_and_all_labels_fit():
    models = [f"a_model_with_a_long_name_{number:02}" for number in range(15)]
    labels = [f"Domestic animals, pets {number}" for number in range(527)]
    rows = [
        {"model": model, "label": label, "average_precision": "0.5", "random_ranking": "0.1",
         "test_clips": "10", "data": "AudioSet", "rev": "workspace"}
        for model in models for label in labels
    ]  # fmt: skip
    shown = texts(draw_rows("average_precision", rows))
    assert set(models) <= set(shown)
    assert {text for text in shown if text.startswith("Domestic")} == {
        f"{label} (10)" for label in labels[:30]
    }


@pytest.mark.parametrize("revisions", [("workspace",), ("HEAD~1", "workspace")])
def test_gains_of_all_labels_fit(revisions):
    """Of 527 labels the 30 with most test clips are shown, those that gain most first."""
    rows = [
        {"label": f"Label {number}", "model": "ours", "average_precision": str(0.5 + gain),
         "other": "theirs", "other_average_precision": "0.5", "difference": str(gain),
         "test_clips": str(1 + number * 7 % 527), "data": "AudioSet", "rev": rev}
        for rev in revisions
        for number, gain in enumerate(0.3 - 0.001 * place for place in range(527))
    ]  # fmt: skip
    shown = texts(draw_rows("gain", rows))
    labels = [text for text in shown if text.startswith("Label")]
    clips = [int(re.search(r"\((\d+)\)", text)[1]) for text in labels]
    assert sorted(clips) == sorted([*range(498, 528)] * len(revisions))
    numbers = [int(text.split()[1]) for text in labels]
    assert numbers == sorted(numbers[:30]) * len(revisions)
    # Both signs are there, each as the difference of what is drawn.
    differences = [text for text in shown if re.fullmatch("[+\u2212]0\\.\\d{3}", text)]
    assert differences == [f"{0.3 - 0.001 * n:+.3f}".replace("-", "\u2212") for n in numbers]
    assert {text[0] for text in differences} == {"+", "\u2212"}


def test_an_entry_has_the_same_colour_in_all_curves():
    found = []
    for name in ("validation", "training_loss", "average_precision", "precision_recall"):
        found.append(marks(draw_rows(name, read_plot_rows(PLOTS[name])), "model"))
    curves, _, labels, _ = found
    assert set(curves) == {row["model"] for row in read_plot_rows(PLOTS["validation"])}
    assert set(labels) == {row["model"] for row in read_plot_rows(PLOTS["average_precision"])}
    assert set(curves) <= set(labels)
    for drawn in found:
        for model, (colour, _) in drawn.items():
            assert colour == labels[model][0]
    assert len({colour for colour, _ in labels.values()}) == len(labels)


def test_an_ensemble_after_the_others_leaves_them_their_colours():
    """Curves have no ensemble; names are in an order that no alphabet gives."""
    row = {"label": "Speech", "average_precision": "0.5", "random_ranking": "0.1", "epoch": "1",
           "test_clips": "10", "train_loss": "0.1", "val": "0.9", "metric": "NDCG", "run": "seed0",
           "data": "AudioSet", "rev": "workspace"}  # fmt: skip
    trained = [row | {"model": name} for name in ("yac", "attention")]
    all_three = [*trained, row | {"model": "best_of_all"}]
    curves = marks(draw_rows("validation", trained), "model")
    labels = marks(draw_rows("average_precision", all_three), "model")
    assert {name: labels[name] for name in curves} == curves
    assert set(labels) - set(curves) == {"best_of_all"}


@pytest.mark.parametrize("name", ["leaderboard", "accuracy_by_parameters"])
def test_colour_and_shape_tell_the_kind(name):
    kinds = {"a": "ensemble", "b": "model", "c": "student", "d": "model", "e": "published"}
    of_plot = kinds if name == "leaderboard" else {k: v for k, v in kinds.items() if k != "e"}
    rows = [
        row
        for place, (model, kind) in enumerate(of_plot.items())
        for row in entry(model, kind, 0.9 - 0.01 * place, parameters=1000 + place, train_seconds=5)
    ]
    drawn = draw_rows(name, rows)
    found = marks(drawn)
    assert set(found) == set(of_plot)
    assert found["b"] == found["d"]
    assert len(set(found.values())) == len(set(of_plot.values()))
    assert len({colour for colour, _ in found.values()}) == len(set(of_plot.values()))
    # The legend has the kinds that are there.
    assert {text for text in texts(drawn) if text in {*kinds.values(), "baseline"}} == set(
        of_plot.values()
    )


def test_a_kind_looks_the_same_whichever_others_there_are():
    kinds = ("model", "student", "ensemble", "baseline")
    rows = {kind: entry(kind, kind, 0.9) for kind in kinds}
    found = marks(draw_rows("leaderboard", [row for of in rows.values() for row in of]))
    for kind in kinds:
        assert marks(draw_rows("leaderboard", rows[kind]))[kind] == found[kind]


def test_significantly_lower_entries_are_hollow():
    rows = [*entry("best", "model", 0.95, reference="yes"), *entry("near", "model", 0.94),
            *entry("far", "model", 0.93, significantly_below="yes")]  # fmt: skip
    found = marks(draw_rows("leaderboard", rows))
    assert found["best"] == found["near"]
    assert found["far"][0] == "white"


def test_each_metric_is_a_panel_with_its_own_axis():
    """.. whatever its name is, and whichever way is better."""
    rows = entry("a", "model", 0.9) + entry("b", "model", 0.8)
    for row in rows:
        if row["metric"] == "P@1":
            row |= {
                "metric": "error",
                "better": "lower",
                "value": "40",
                "ci_low": "38",
                "ci_high": "42",
            }
    shown = texts(draw_rows("leaderboard", rows))
    assert shown.count("NDCG (higher is better)") == shown.count("error (lower is better)") == 1
    assert {"0.900", "40.000", "38.000–42.000"} <= set(shown)
    one = draw_rows("leaderboard", [row for row in rows if row["metric"] == "NDCG"])
    assert "error (lower is better)" not in texts(one)


def test_a_baseline_worse_than_all_others_is_off_the_scale():
    rows = [*entry("model", "model", 0.95), *entry("better", "baseline", 0.96),
            *entry("worse", "baseline", 0.5)]  # fmt: skip
    drawn = draw_rows("leaderboard", rows)
    assert set(marks(drawn)) == {"model", "better"}
    assert texts(drawn).count("off the scale") == 2  # in both panels
    assert "0.500" in texts(drawn)
    lower = draw_rows("leaderboard", [row | {"better": "lower"} for row in rows])
    assert set(marks(lower)) == {"model", "worse"}


def test_the_reference_is_shaded_in_its_place():
    def band(reference):
        rows = [
            row
            for name, value in (("first", 0.95), ("second", 0.94))
            for row in entry(name, "model", value, reference="yes" if name == reference else "no")
        ]
        drawn = draw_rows("leaderboard", rows)
        assert drawn.index(">first<") < drawn.index(">second<")
        return re.findall('d="([^"]*)" fill="#ffedb8"', drawn)

    assert band(None) == []
    assert len(band("first")) == len(band("second")) == 2  # in both panels
    assert band("first") != band("second")


def many_entries(names: int, cost: str) -> list[dict]:
    """Return entries of nearly the same accuracy, some with the same cost."""
    return [
        row for number in range(names)
        for row in costly(f"an_entry_{number:02}", "model", 0.96 - 0.0001 * number,
                          **{"parameters": 5000, "train_seconds": 5000,
                             cost: 1000 * 1.3 ** (number // 2)})
    ]  # fmt: skip


@pytest.mark.parametrize("cost", ["parameters", "train_seconds"])
@pytest.mark.parametrize("revisions", [("workspace",), ("HEAD~1", "workspace")])
def test_names_beside_points_do_not_overlap(cost, revisions):
    name = {"parameters": "accuracy_by_parameters", "train_seconds": "accuracy_by_seconds"}[cost]
    rows = [row | {"rev": rev} for rev in revisions for row in many_entries(23, cost)]
    # Texts without their groups' places: those of one revision are drawn together.
    places = re.findall(
        r'transform="translate\(([\d.]+),([\d.-]+)\)"[^>]* fill="[^"]+"[^>]*>(an_entry_\d+)<',
        draw_rows(name, rows),
    )
    assert len(places) % (23 * len(revisions)) == 0
    drawn = [(float(x), float(y)) for x, y, _ in places[:23]]
    assert len({text for _, _, text in places[:23]}) == 23
    high, wide = 11, 75  # of a name, in pixels
    for i, (x, y) in enumerate(drawn):
        for other_x, other_y in drawn[:i]:
            assert abs(y - other_y) >= high or abs(x - other_x) >= wide


def test_a_lone_point_has_its_name_beside_it():
    rows = [*costly("left", "model", 0.9575, parameters=10, train_seconds=1),
            *many_entries(20, "parameters")]  # fmt: skip
    drawn = draw_rows("accuracy_by_parameters", rows)
    point = re.search(
        r'<path aria-label="[^"]*entry: left;[^>]*translate\([\d.]+,([\d.]+)\)', drawn
    )
    name = re.search(r'translate\([\d.]+,([\d.]+)\)"[^>]*>left<', drawn)
    assert abs(float(point[1]) - float(name[1])) < 6


def test_a_training_of_no_time_is_left_out_of_a_log_axis():
    rows = [*costly("quick", "model", 0.9, parameters=10, train_seconds=0.0),
            *costly("slow", "model", 0.9, parameters=10, train_seconds=9.0)]  # fmt: skip
    assert set(marks(draw_rows("accuracy_by_seconds", rows))) == {"slow"}
    assert set(marks(draw_rows("accuracy_by_parameters", rows))) == {"quick", "slow"}


def test_the_chart_is_the_same_every_time_and_the_committed_one(task):
    drawn = (task / "leaderboard/leaderboard.svg").read_text(encoding="utf-8")
    assert drawn == leaderboard_svg(task / "plots/compare/leaderboard.csv")
    committed = (ROOT / "leaderboard/leaderboard.svg").read_text(encoding="utf-8")
    assert committed == leaderboard_svg(ROOT / "plots/compare/leaderboard.csv")


def test_the_chart_ranks_as_the_table(tmp_path):
    table = tmp_path / "leaderboard.csv"
    rows = [*entry("best", "model", 0.9, ci_low=0.8, ci_high=0.95), *entry("worst", "model", 0.5)]
    for row in rows:
        del row["rev"]
    table.write_text(to_csv(list(rows[0]), [list(row.values()) for row in rows]))
    drawn = leaderboard_svg(table)
    assert drawn.index(">best<") < drawn.index(">worst<")
    assert "0.800–0.950" in drawn


def test_the_page_takes_vega_from_beside_it_first():
    page = (TEMPLATES / "page.html").read_text(encoding="utf-8")
    HTML(page)  # refuses a page without the placeholder of the plots
    # DVC's own scripts come from a CDN, and a tag with an address would be fetched in any case.
    assert "{scripts}" not in page
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=", page)
    assert page.index('load("vega.js").catch(') < page.index("https://")
    config = (ROOT / ".dvc/config").read_text()
    assert "html_template = plots/page.html" in config


def test_the_page_is_of_any_clips_and_shrinks_wide_plots():
    page = (TEMPLATES / "page.html").read_text(encoding="utf-8")
    assert "AudioSet" not in page[: page.index("</header>")]
    assert "Embeddings and labels of AudioSet, where they are used, are by Google" in page
    # 1,000 pixels wide, the leaderboard's second panel would else begin to scroll.
    (wide,) = re.findall(r"@media \(min-width: (\d+)px\) { main svg { max-width: 100%", page)
    assert int(wide) < 1000


def test_dvc_draws_the_page(task, tmp_path):
    """In a folder with what `dvc plots show` needs, and nothing else."""
    shutil.copytree(task / "plots/compare", tmp_path / "plots/compare")
    for name in ("plots/dvc.yaml", "params.yaml", ".dvc/config", ".dvc/plots"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    address = write_page(tmp_path)
    page = tmp_path / "dvc_plots/index.html"
    assert address == page.as_uri()
    drawn = page.read_text(encoding="utf-8")
    assert re.findall(r"vegaEmbed\('#(\w+)', spec\)", drawn) == list(PLOTS)
    bundle = (page.parent / "vega.js").read_text(encoding="utf-8")
    assert "window.vegaEmbed=" in bundle
    # `dvc plots show` itself leaves the bundle where it is.
    subprocess.run(
        [sys.executable, "-m", "dvc", "plots", "show", "--quiet"], cwd=tmp_path, check=True
    )
    assert page.read_text(encoding="utf-8") == drawn
    assert (page.parent / "vega.js").exists()


def test_a_bar_in_a_label_stays_in_its_cell_of_a_markdown_table() -> None:
    table = to_markdown(["class", "clips"], [["rain|wind", "3"]], right=1)
    assert table.splitlines()[-1] == r"| rain\|wind | 3 |"
