"""The cases of a report, one card each, and the form that filters them, as HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from jaxpose.evaluation import cases
from jaxpose.evaluation import report as errors
from jaxpose.view import tiles
from jaxpose.view.report.page import escaped
from jaxpose.view.report.sections import squared

__all__ = ["card", "cases_section"]


def card(case: cases.Case, pictures: tiles.Pictures, limbs: Sequence[tuple[int, int]], joints: Sequence[str]) -> str:
    """Returns the card of a case: its picture, its errors, and the data for the filter.

    Args:
        case: the case to show.
        pictures: the images of the ground truth.
        limbs: pairs of joints, the limbs to draw.
        joints: the K names of the joints.
    """
    picture = pictures.get(case.image)
    uri = tiles.data_uri(tiles.draw(case, picture, limbs=limbs))
    name, image = tiles.name_of(case.image), case.image["id"]
    ids = [f"image {image}"]
    ids += [f"person {case.person['id']}"] if case.person is not None else []
    ids += [f"row {case.row}"] if case.record is not None else []
    words = [case.kind, name, *ids]
    facts, detail, mean = [], "", ""
    if case.kind == "matched":
        distances = case.errors
        order = [int(k) for k in np.argsort(-np.where(np.isnan(distances), -1, distances)) if np.isfinite(distances[k])]
        mean = f"{np.nanmean(distances):.6g}"
        facts.append(f"EPE {np.nanmean(distances):.1f} px")
        facts.append(f"worst {escaped(joints[order[0]])} {distances[order[0]]:.0f} px")
        words += [joints[k] for k in order[:2]]
        rows = "".join(
            f"<tr><td>{escaped(joints[k])}</td><td>{distances[k]:.1f}</td><td>{case.found[k, 2]:.2f}</td></tr>"
            for k in order
        )
        detail = (
            "<details><summary>joints</summary><table><thead><tr><th></th><th>px</th><th>confidence</th></tr></thead>"
            f"<tbody>{rows}</tbody></table></details>"
        )
    if case.excused:
        facts.append("on a crowd or an unlabelled person: not counted")
        words.append("crowd unlabelled")
    if case.person is not None:
        facts.append(f"size {case.size:.0f} px, {case.occluded:.0%} occluded")
    if picture is None:
        facts.append('<strong class="gone">image could not be read</strong>')
        words.append("image could not be read")
    heading = {"matched": f"OKS {case.oks:.3f}" if case.oks is not None else "", "missed": "missed"}.get(
        case.kind, "unmatched"
    )
    score = "" if case.score is None else f"<span>score {case.score:.3f}</span>"
    attributes = {
        "q": " ".join(words).lower(),
        "kind": case.kind,
        "oks": "" if case.oks is None else f"{case.oks:.6f}",
        "score": "" if case.score is None else f"{case.score:.6g}",
        "epe": mean,
        "px": f"{case.size:.6g}",
        "size": _bin(case.size, errors.SIZE_BINS) if case.person is not None else "",
        "occlusion": _bin(case.occluded, errors.OCCLUSION_BINS),
    }
    data = " ".join(f'data-{key}="{escaped(value)}"' for key, value in attributes.items())
    alt = {"matched": "prediction over truth", "missed": "truth without a prediction"}.get(
        case.kind, "prediction without truth"
    )
    width, height = 240, 300
    names = "<br>".join(escaped(text) for text in (name, ", ".join(ids)))
    return (
        f'<figure class="case {case.kind}" {data}><img src="{uri}" alt="{alt}" width="{width}" height="{height}" loading="lazy">'
        f"<figcaption><b>{heading}</b> {score}<br>{'<br>'.join(facts)}"
        f'<br><span class="ids">{names}</span>{detail}</figcaption></figure>'
    )


def _bin(value: float | None, bins: Mapping[str, tuple[float, float]]) -> str:
    """Returns the index of the bin of a value, "" if there is none."""
    return next(
        (str(i) for i, (low, high) in enumerate(bins.values()) if value is not None and low <= value < high), ""
    )


def _options(entries: Mapping[str, str]) -> str:
    return "".join(f'<option value="{escaped(value)}">{squared(text)}</option>' for value, text in entries.items())


def cases_section(cards: Sequence[str], all_cases: Sequence[cases.Case]) -> str:
    """Returns the cards with the form that filters and orders them.

    Args:
        cards: the cards of the cases on the page.
        all_cases: all cases of the evaluation.
    """
    any_of = lambda bins: _options({"": "any", **{str(i): name for i, name in enumerate(bins)}})  # noqa: E731
    kinds = {"": "all", "matched": "matched", "missed": "missed people", "unmatched": "unmatched predictions"}
    orders = {"": "worst first", "best": "best first", "score": "highest score", "epe": "largest EPE"}
    orders |= {"small": "smallest", "large": "largest"}
    form = f"""<form id="filter" hidden>
<label class="wide">Search <input type="search" name="q" placeholder="file, id, joint" autocomplete="off"></label>
<label>OKS from <input type="number" name="min" min="0" max="1" step="0.05" placeholder="0"></label>
<label>to <input type="number" name="max" min="0" max="1" step="0.05" placeholder="1"></label>
<label>Kind <select name="kind">{_options(kinds)}</select></label>
<label>Size <select name="size">{any_of(errors.SIZE_BINS)}</select></label>
<label>Occlusion <select name="occlusion">{any_of(errors.OCCLUSION_BINS)}</select></label>
<label>Order <select name="sort">{_options(orders)}</select></label>
<button type="reset">Reset</button> <output id="shown"></output>
</form>"""
    return (
        f'<section id="all"><h2>Cases</h2><p><span class="key truth"></span>labelled <span class="key found"></span>predicted '
        f'<span class="key error"></span>error. {len(cards):,} of {len(all_cases):,} cases are on this page: the worst and '
        "the best pairs, "
        "missed people, unmatched predictions. The address keeps the filter.</p>"
        f'{form}<div id="cases">{"".join(cards)}</div></section>'
    )
