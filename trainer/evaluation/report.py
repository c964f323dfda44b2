"""Report: all that `evaluate` found, on one page that opens in any browser without a network."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np

from ...core.whole_file import write_whole
from ..scoring import metric_named
from .contenders import Contender
from .examples import Example, Examples, Shown
from .results import Result, grouped, headed, shown_number

BINS = 24
"""Of a histogram."""
STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --bar: #4a7fb5; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 88rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.5rem; border-top: 1px solid var(--line);
padding-top: 1rem; } h3 { font-size: 1rem; margin: 1.5rem 0 .4rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .5rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } td.best { font-weight: 700; }
p.protocol { color: #777; margin: .2rem 0 .6rem; } .left-out { color: #b3402a; }
.row { display: flex; gap: .5rem; flex-wrap: wrap; margin: .3rem 0 1rem; } figure { margin: 0; width: 13rem; }
figure img { display: block; width: 100%; border-radius: 3px; image-rendering: auto; }
figcaption { font-size: .8rem; color: #777; } details { margin: .5rem 0; } summary { cursor: pointer; }
svg { background: var(--soft); border-radius: 3px; } svg text { fill: currentColor; font-size: 11px; }
"""
PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Evaluation</title>
<style>STYLE</style></head>
<body>
BODY
</body>
</html>
"""


def write(path: Path, results: Sequence[Result], notes: Sequence[str], seen: Examples) -> None:
    """The page. notes: what was left out; seen: what is shown of each result."""
    body = [
        "<h1>Evaluation</h1>",
        contents(results),
        _bullet_list("Left out, because a set has no such truth", notes),
        *(_group(rows, seen) for rows in grouped(results).values()),
        *_cards({id(result.contender): result.contender for result in results}.values()),
    ]
    page = PAGE.replace("STYLE", STYLE).replace("BODY", "\n".join(body))
    write_whole(path, page.encode())


def contents(results: Sequence[Result]) -> str:
    """Links to the parts."""
    links = [f'<li><a href="#{_anchor(rows[0])}">{escape(_heading(rows[0]))}</a></li>'
             for rows in grouped(results).values()]  # fmt: skip
    return f"<ul>{''.join(links)}</ul>"


def _anchor(result: Result) -> str:
    kept = "".join(letter if letter.isalnum() else "-" for letter in result.data)
    return f"{kept}-{result.contender.recipe.task}-{result.comparison.name}"


def _heading(result: Result) -> str:
    whose = result.comparison.title.partition(":")[0]
    return f"{result.data}: {result.contender.recipe.row.title}. {whose}"


def _group(results: Sequence[Result], seen: Examples) -> str:
    """One table of figures that are made alike, and what lies behind each row."""
    parts = [
        f'<h2 id="{_anchor(results[0])}">{escape(_heading(results[0]))}</h2>',
        *(f'<p class="protocol">{escape(text)}.</p>' for text in dict.fromkeys(r.protocol() for r in results)),
        *(f'<p class="left-out">{escape(text)}</p>' for text in dict.fromkeys(r.lacks for r in results if r.lacks)),
        summary(results),
    ]
    return "\n".join([*parts, *(_behind(result, seen.get(id(result), {})) for result in results)])


def summary(results: Sequence[Result]) -> str:
    """A row a model; the best of each column in bold."""
    metrics = [metric_named(name) for name in results[0].comparison.metrics]
    found = [list(result.values().values()) for result in results]
    best = [_best_of(column, metric.better) for column, metric in zip(zip(*found), metrics)]
    rows = [
        _row_of([result.contender.title, *map(shown_number, values), len(result.measured), result.skipped],
               [False, *(value == top and len(results) > 1 for value, top in zip(values, best))])
        for result, values in zip(results, found)
    ]  # fmt: skip
    return _as_table(["model", *map(headed, metrics), "pictures", "left out"], rows)


def _best_of(column: Iterable[float], better: Callable[[float, float], bool]) -> float:
    top = math.nan
    for value in column:
        top = value if better(value, top) else top
    return top


def _row_of(cells: Sequence[object], bold: Sequence[bool] = ()) -> str:
    marks = [*bold, *[False] * (len(cells) - len(bold))]
    return "".join(f"<td{' class=best' if mark else ''}>{escape(str(cell))}</td>" for cell, mark in zip(cells, marks))


def _as_table(heads: Sequence[str], rows: Iterable[str]) -> str:
    top = "".join(f"<th>{escape(head)}</th>" for head in heads)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _bullet_list(title: str, sentences: Sequence[str]) -> str:
    """Nothing where there are none."""
    rows = "".join(f"<li>{escape(text)}</li>" for text in sentences)
    return _folded(f"{title}: {len(sentences)}", f"<ul>{rows}</ul>", "left-out") if rows else ""


def _folded(title: str, content: str, kind: str = "") -> str:
    """What opens at a click."""
    return f'<details><summary class="{kind}">{escape(title)}</summary>{content}</details>'


def _behind(result: Result, seen: Mapping[str, Sequence[Example]]) -> str:
    """One row's histogram, examples, classes and pictures."""
    faults = [f"{line.record}: {line.fault}" for line in result.faults] + list(result.feed.records.faults)
    parts = [
        _histogram(result),
        _bullet_list("Not measured", faults),
        *(_class_rows(result)),
        *_shown_examples(result, seen),
        _per_picture(result),
    ]
    opened = "" if result.contender.guessed else " open"
    return f"<details{opened}><summary><b>{escape(result.contender.title)}</b></summary>{''.join(parts)}</details>"


def _histogram(result: Result) -> str:
    """How the first metric is spread over the pictures."""
    metric = metric_named(result.comparison.metrics[0])
    values = np.array([line.values[metric.name] for line in result.measured])
    values = values[np.isfinite(values)]
    if not values.size:
        return ""
    counts, edges = np.histogram(values, min(BINS, max(values.size, 4)))
    title = f"{headed(metric)} of {values.size} pictures, median {shown_number(float(np.median(values)))}"
    return _bars(counts.tolist(), edges.tolist(), title)


def _bars(counts: Sequence[int], edges: Sequence[float], title: str) -> str:
    """An SVG, 480 x 120; each bar says its range."""
    wide, tall, top = 480 / len(counts), 84, max(counts)
    drawn = "".join(
        f'<rect x="{i * wide + 1:.1f}" y="{100 - tall * count / top:.1f}" width="{wide - 2:.1f}" '
        f'height="{tall * count / top:.1f}" fill="var(--bar)"><title>{low:.4g} to {high:.4g}: {count}</title></rect>'
        for i, (count, low, high) in enumerate(zip(counts, edges, edges[1:]))
    )
    ends = (
        f'<text x="2" y="114">{edges[0]:.4g}</text><text x="478" y="114" text-anchor="end">{edges[-1]:.4g}</text>'
        f'<text x="2" y="12">{escape(title)}</text>'
    )
    return f'<svg viewBox="0 0 480 120" width="480" height="120" role="img">{drawn}{ends}</svg>'


def _class_rows(result: Result) -> Iterator[str]:
    """IoU and accuracy of every class."""
    classes = result.classes()
    if classes:
        rows = [_row_of([name, shown_number(iou), shown_number(found)]) for name, iou, found in classes]
        yield _folded(f"{len(classes)} classes", _as_table(["class", "IoU", "accuracy"], rows))


def _shown_examples(result: Result, seen: Mapping[str, Sequence[Example]]) -> Iterator[str]:
    """The best and the worst pictures."""
    for title, found in seen.items():
        if found:
            yield f"<h3>{title}</h3>"
            yield from (_drawn_example(example, result) for example in found)


def _drawn_example(example: Example, result: Result) -> str:
    metric = metric_named(result.comparison.metrics[0])
    said = f"{escape(example.record)}: {escape(metric.title)} {shown_number(example.value)}"
    return f"<div>{said}</div><div class=row>{''.join(map(_figure, example.pictures))}</div>"


def _figure(each: Shown) -> str:
    title = escape(each.title)
    return f'<figure><img src="{each.data}" alt="{title}"><figcaption>{title}</figcaption></figure>'


def _per_picture(result: Result) -> str:
    """All figures of all pictures, folded away."""
    names = result.comparison.metrics
    rows = [_row_of([line.record, *(shown_number(line.values[name]) for name in names)]) for line in result.measured]
    heads = ["picture", *(headed(metric_named(name)) for name in names)]
    return _folded(f"Figures of {len(rows)} pictures", _as_table(heads, rows))


def _cards(contenders: Iterable[Contender]) -> Iterator[str]:
    """What is known of each model."""
    yield "<h2>Models</h2>"
    for contender in contenders:
        rows = [_row_of([key, value]) for key, value in contender.card.items()]
        yield _folded(contender.title, _as_table(["", ""], rows))
