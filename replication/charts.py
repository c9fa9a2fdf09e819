"""The charts of the page, in Vega-Lite: our cells beside the printed ones, and NDCG by epoch."""

from typing import Any

from replication.cells import METRICS, Curves, Printed, describe_seeds, our_value

LOWEST_NDCG_SHOWN = 0.75


def heat_map(printed: Printed, curves: Curves, metric: str) -> dict[str, Any]:
    """Return a Vega-Lite chart: the printed table beside ours, loss and learning rate by epochs."""
    rows = []
    for cell, value in printed[metric].items():
        values = {"printed": value}
        for head in ("softmax", "logits"):
            if ours := our_value(curves, head, metric, cell):
                values[f"ours, {head}"] = ours.value
        run = {"run": f"{cell.loss}  {cell.lr:g}", "epochs": cell.epochs}
        rows += [run | {"source": source, "value": v} for source, v in values.items()]
    lowest, bright = (LOWEST_NDCG_SHOWN, 0.9) if metric == "ndcg" else (0.5, 0.8)
    color = {
        "field": "value",
        "type": "quantitative",
        "title": METRICS[metric],
        "scale": {"scheme": "viridis", "domainMin": lowest, "clamp": True},
    }
    text_color = {
        "condition": {"test": f"datum.value > {bright}", "value": "black"},
        "value": "white",
    }
    text = {"field": "value", "type": "quantitative", "format": ".3f"}
    return {
        "data": {"values": rows},
        "title": {
            "text": f"{METRICS[metric]}: validation at 50 and 200 epochs, test at 1000",
            "subtitle": f"ours: mean over seeds ({describe_seeds(curves)})",
        },
        "facet": {
            "column": {
                "field": "source",
                "sort": ["printed", "ours, softmax", "ours, logits"],
                "title": None,
            }
        },
        "spec": {
            "width": 190,
            "height": 260,
            "encoding": {
                "x": {"field": "epochs", "type": "ordinal", "axis": {"labelAngle": 0}},
                "y": {
                    "field": "run",
                    "type": "ordinal",
                    "title": "loss, learning rate",
                    "sort": None,
                },
            },
            "layer": [
                {"mark": "rect", "encoding": {"color": color}},
                {
                    "mark": {"type": "text", "fontSize": 12},
                    "encoding": {"text": text, "color": text_color},
                },
            ],
        },
    }


def curve_chart(curves: Curves) -> dict[str, Any]:
    """Return a Vega-Lite chart of NDCG on validation by epoch, with a line for each run."""
    rows = [
        {k: row[k] for k in ("head", "loss", "seed", "epoch", "val_ndcg")}
        | {"lr": f"{row['lr']:g}"}
        for row in curves
    ]
    best: dict[str, float] = {}
    for row in rows:
        run = f"{row['head']}, lr {row['lr']}, {row['loss']}"
        best[run] = max(best.get(run, 0.0), row["val_ndcg"])
    hidden = "; ".join(sorted(run for run, ndcg in best.items() if ndcg < LOWEST_NDCG_SHOWN))
    lr = {
        "field": "lr",
        "type": "nominal",
        "title": "learning rate",
        "sort": sorted({row["lr"] for row in rows}, key=float, reverse=True),
    }
    ndcg = {
        "field": "val_ndcg",
        "type": "quantitative",
        "title": "NDCG",
        "scale": {"domain": [LOWEST_NDCG_SHOWN, 0.96]},
    }
    return {
        "data": {"values": rows},
        "title": {
            "text": "NDCG on validation after each epoch, one line per seed",
            "subtitle": f"Not shown, as always below {LOWEST_NDCG_SHOWN:g}: {hidden or 'none'}.",
            "anchor": "start",
        },
        "facet": {
            "row": {"field": "loss", "title": "loss", "sort": ["msml", "ce"]},
            "column": {"field": "head", "title": "head", "sort": ["softmax", "logits"]},
        },
        "spec": {
            "width": 320,
            "height": 200,
            "mark": {"type": "line", "clip": True, "opacity": 0.6},
            "encoding": {
                "x": {"field": "epoch", "type": "quantitative", "scale": {"type": "log"}},
                "y": ndcg,
                "color": lr,
                "detail": {"field": "seed"},
            },
        },
    }
