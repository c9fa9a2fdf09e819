"""The page of plots: its templates, the data they name, and Vega without a network."""

import json
import re
import shutil
import subprocess
import sys

import pytest
import vl_convert
import yaml
from dvc_render import VegaRenderer
from dvc_render.html import HTML

from tagging.picture import VEGA_LITE, draw_leaderboard
from tagging.tables import read_rows, to_csv
from tests.closure import ROOT
from tools.plots import draw

TEMPLATES = ROOT / ".dvc/plots"
PLOTS = {
    name: plot
    for entry in yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"]
    for name, plot in entry.items()
}
COMPARE = ROOT / "plots/compare"


def rows_of(plot: dict, revisions=("workspace",)) -> list[dict]:
    ((file, _),) = plot["y"].items()
    return [{**row, "rev": rev} for rev in revisions for row in read_rows(ROOT / file)]


def chart(plot: dict, rows: list[dict]) -> dict:
    ((_, y),) = plot["y"].items()
    return VegaRenderer(
        rows, "a plot", **plot | {"y": y, "template_dir": TEMPLATES}
    ).get_filled_template()


def fields(spec) -> set[str]:
    """Return all fields that a specification encodes."""
    found = set()
    if isinstance(spec, dict):
        found |= {spec[key] for key in ("field",) if isinstance(spec.get(key), str)}
        for value in spec.values():
            found |= fields(value)
    elif isinstance(spec, list):
        for value in spec:
            found |= fields(value)
    return found


def computed(spec) -> set[str]:
    """Return all fields that a specification computes."""
    found = set()
    if isinstance(spec, dict):
        found |= {spec["as"]} if isinstance(spec.get("as"), str) else set()
        for value in spec.values():
            found |= computed(value)
    elif isinstance(spec, list):
        for value in spec:
            found |= computed(value)
    return found


@pytest.mark.parametrize("revisions", [("workspace",), ("HEAD~1", "workspace")])
@pytest.mark.parametrize("name", PLOTS)
def test_plots_draw_the_committed_data(name, revisions):
    rows = rows_of(PLOTS[name], revisions)
    drawn = vl_convert.vegalite_to_svg(chart(PLOTS[name], rows), vl_version=VEGA_LITE)
    shown = re.findall("<text[^>]*>([^<]*)</text>", drawn)
    assert PLOTS[name]["title"] in shown
    assert {row["model"] for row in rows if row.get("kind", "model") == "model" and "model" in row
            } <= set(shown)  # fmt: skip
    assert {"undefined", "null", "NaN"}.isdisjoint(shown)
    # One revision is not named; of several, each is.
    assert ("workspace" in shown) == ("HEAD~1" in shown) == (len(revisions) > 1)


@pytest.mark.parametrize("name", PLOTS)
def test_fields_are_columns(name):
    rows = rows_of(PLOTS[name])
    spec = chart(PLOTS[name], rows)
    del spec["data"]["values"]
    assert fields(spec) - computed(spec) <= set(rows[0])
    assert set(spec["data"]["format"]["parse"]) <= set(rows[0])
    assert "<DVC_METRIC" not in json.dumps(spec)


@pytest.mark.parametrize("name", PLOTS)
def test_sample_results_say_so(name):
    rows = [row | {"data": "generated sample"} for row in rows_of(PLOTS[name])]
    drawn = vl_convert.vegalite_to_svg(chart(PLOTS[name], rows), vl_version=VEGA_LITE)
    assert "Generated sample, not AudioSet" in drawn
    assert "Generated sample" not in vl_convert.vegalite_to_svg(
        chart(PLOTS[name], rows_of(PLOTS[name])), vl_version=VEGA_LITE
    )


def test_every_template_is_used():
    assert {path.stem for path in TEMPLATES.glob("*.json")} == {
        plot["template"] for plot in PLOTS.values()
    }


def test_templates_look_alike():
    first, *others = [
        json.loads(path.read_text())["config"] for path in sorted(TEMPLATES.glob("*.json"))
    ]
    assert all(config == first for config in others)


def test_fifteen_models_and_all_labels_fit():
    models = [f"a_model_with_a_long_name_{number:02}" for number in range(15)]
    labels = [f"Domestic animals, pets {number}" for number in range(527)]
    rows = [
        {"model": model, "label": label, "average_precision": "0.5", "random_ranking": "0.1",
         "test_clips": "10", "data": "AudioSet", "rev": "workspace"}
        for model in models for label in labels
    ]  # fmt: skip
    spec = chart(PLOTS["average_precision"], rows)
    drawn = vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE)
    shown = re.findall("<text[^>]*>([^<]*)</text>", drawn)
    assert set(models) <= set(shown)
    assert {text for text in shown if text.startswith("Domestic")} == {
        f"{label} (10)" for label in labels[:30]
    }


def test_a_model_has_the_same_colour_in_all_plots():
    colours = []
    for name in ("leaderboard", "validation_ndcg", "average_precision", "precision_recall"):
        drawn = vl_convert.vegalite_to_svg(
            chart(PLOTS[name], rows_of(PLOTS[name])), vl_version=VEGA_LITE
        )
        points = re.findall('<path aria-label="[^"]*; model: ([^;]*);[^>]* fill="(#[^"]*)"', drawn)
        colours.append({model: colour for model, colour in points if colour != "#777"})
    assert set(colours[0]) == {row["model"] for row in rows_of(PLOTS["validation_ndcg"])}
    assert all(found == colours[0] for found in colours[1:])
    assert len(set(colours[0].values())) == len(colours[0])


def test_the_picture_is_the_committed_one_and_the_same_every_time(monkeypatch):
    monkeypatch.chdir(ROOT)
    drawn = draw_leaderboard(COMPARE / "leaderboard.csv")
    assert drawn == draw_leaderboard(COMPARE / "leaderboard.csv")
    assert drawn == (ROOT / "leaderboard/leaderboard.svg").read_text(encoding="utf-8")


def test_the_picture_ranks_as_the_table(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    table = tmp_path / "leaderboard.csv"
    header = list(read_rows(COMPARE / "leaderboard.csv")[0])
    best = ["best", "model", "AudioSet", 0.9, 0.8, 0.95, 0.7, 0.6, 0.8]
    worst = ["worst", "model", "AudioSet", 0.5, 0.4, 0.6, 0.3, 0.2, 0.4]
    table.write_text(to_csv(header, [best, worst]))
    drawn = draw_leaderboard(table)
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


def test_dvc_draws_the_page(tmp_path):
    """In a folder with what `dvc plots show` needs, and nothing else."""
    for name in ("dvc.yaml", "params.yaml", ".dvc/config", ".dvc/plots", "plots/compare"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    address = draw(tmp_path)
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
