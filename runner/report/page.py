"""A report as one self-contained page: pictures for light and dark, wide and narrow, a table behind each."""

from base64 import b64encode
from html import escape
from pathlib import Path
from urllib.parse import quote as url_quote

from runner.report.pictures import DARK, LIGHT, Picture, format_figure, label, pictures, shown, words
from runner.report.report import MemberReport, Report, margin

_STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1f2328; --faint: #59636e; --line: #d1d9e0;
  --link: #0969da; --good: #1a7f37; --bad: #b42318; }
@media (prefers-color-scheme: dark) { :root { --paper: #0d1117; --ink: #e6edf3; --faint: #9198a1;
  --line: #3d444d; --link: #58a6ff; --good: #3fb950; --bad: #ff7b72; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 76rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem; }
p { margin: .25rem 0; } .faint { color: var(--faint); }
a { color: var(--link); }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr)); gap: 1rem;
  margin: 1.5rem 0 0; }
dt { color: var(--faint); font-size: .875rem; } dd { margin: 0; font-size: 1.25rem; font-weight: 600; }
dd small { font-size: .875rem; font-weight: 400; display: block; }
img { display: block; max-width: 100%; height: auto; }
details { margin-top: .75rem; } summary { cursor: pointer; color: var(--link); }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .3rem .75rem; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
.best td { font-weight: 600; color: var(--good); } .failed { color: var(--bad); }
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{body}
</main>
</body>
</html>
"""


def page(report: Report) -> str:
    """The whole page; it loads nothing from anywhere."""
    title = escape(f"{report.phase} · {report.run}")
    parts = [_summary(report)]
    for picture in pictures(report):
        parts += [
            f"<h2>{escape(picture.title)}</h2>",
            _embedded(picture),
            _table_behind(report, picture.name),
        ]
    if report.members:
        parts += ["<h2>All members</h2>", _members_table(report)]
    return _PAGE.format(title=title, style=_STYLE, body="\n".join(parts))


def _summary(report: Report) -> str:
    """Who won, and what it took."""
    facts = _member_facts(report) if report.members else _run_facts(report)
    price = f"{report.machine}, ${report.usd_per_hour:.2f}/h, set-up included"
    facts.append(("cost", f"${report.usd:.2f}|{price}"))
    cells = "".join(f"<div><dt>{escape(name)}</dt><dd>{_fact(text)}</dd></div>" for name, text in facts)
    log = f'<p class="faint">Log: {_link(report.log, report)}</p>' if report.log else ""
    return f"{log}<dl>{cells}</dl>"


def _run_facts(report: Report) -> list[tuple[str, str]]:
    """How a run that is no sweep went."""
    ended = "not yet" if report.job_exit_code is None else f"exit code {report.job_exit_code}"
    took = [("took", f"{report.seconds:.1f} s")] if report.seconds is not None else []
    return [("job", report.job), ("ended", ended), *took]


def _member_facts(report: Report) -> list[tuple[str, str]]:
    """The best member, how many there are, where the time went."""
    num_failed = sum(member.state == "failed" for member in report.members)
    done = f"{len(report.finished)} of {len(report.members)}"
    failed = f", {num_failed} failed" if num_failed else ""
    facts = [("finished", f"{done}|members{failed}")]
    if (best := report.best) and report.judge:
        judged = f"{best.figures[report.judge]:.3f}"
        half = margin(best, report.judge)
        within = f" ± {half:.3f}" if half is not None else ""
        nodes = f" (95 % of {best.figures['num_nodes']:.0f} nodes)" if half is not None else ""
        facts.insert(
            0, (f"best {words(report.judge)}", f"{judged}{within}|{label(best, report.axes)}{nodes}")
        )
    loading, generating = f"{report.load_s:.1f} s", f"{report.generation_s:.1f} s"
    return [*facts, ("loading", loading), ("generating", generating)]


def _fact(text: str) -> str:
    """A figure, and what qualifies it in small."""
    figure, _, small = text.partition("|")
    return escape(figure) + (f"<small>{escape(small)}</small>" if small else "")


def _link(path: str, report: Report) -> str:
    """A link to a file beside the page, relative, so that the folder may move."""
    import os.path

    relative = os.path.relpath(path, report.folder)
    return f'<a href="{escape(url_quote(relative))}">{escape(Path(path).name)}</a>'


def _embedded(picture: Picture) -> str:
    """The picture in four forms; the browser takes the one for its width and its theme."""
    forms = [
        ("(max-width: 700px) and (prefers-color-scheme: dark)", picture.draw(DARK, True)),
        ("(max-width: 700px)", picture.draw(LIGHT, True)),
        ("(prefers-color-scheme: dark)", picture.draw(DARK, False)),
    ]
    sources = "".join(f'<source media="{media}" srcset="{_data_url(png)}">' for media, png in forms)
    image = f'<img alt="{escape(picture.alt)}" src="{_data_url(picture.draw(LIGHT, False))}">'
    return f"<picture>{sources}{image}</picture>"


def _data_url(png: bytes) -> str:
    """The file in the page itself."""
    return f"data:image/png;base64,{b64encode(png).decode()}"


def _table_behind(report: Report, name: str) -> str:
    """The figures that a picture shows."""
    if name == "curves":
        return _curves_table(report)
    figures = {
        "quality": report.quality,
        "throughput": ("num_samples", "samples_per_second"),
        "time": ("load_seconds", "generation_seconds"),
    }[name]
    table = _figures_table(report, report.finished, figures)
    return f"<details><summary>The figures of this picture</summary>{table}</details>"


def _curves_table(report: Report) -> str:
    """A row a step, a column a figure."""
    told = {name: dict(points) for name, points in report.curves.items()}
    steps = sorted({step for points in told.values() for step in points})
    head = "".join(f"<th scope='col'>{escape(name)}</th>" for name in ("step", *map(words, told)))
    rows = "".join(
        f"<tr><td>{step:g}</td>"
        + "".join(
            f"<td>{format_figure(points[step]) if step in points else '–'}</td>" for points in told.values()
        )
        + "</tr>"
        for step in steps
    )
    table = f"<div class='wide'><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    return f"<details><summary>The figures of this picture</summary>{table}</details>"


def _members_table(report: Report) -> str:
    """Every member, those without figures too, with its file and its error."""
    known = dict.fromkeys(name for member in report.finished for name in member.figures)
    order = ("pass_at_1", "majority_vote", "pass_at_n", "tree_accuracy", "samples_per_second")
    return _figures_table(report, report.members, [n for n in order if n in known] or list(known), True)


def _figures_table(
    report: Report, members: tuple[MemberReport, ...], figures: object, with_state: bool = False
) -> str:
    """A row a member: what makes it, then its figures."""
    names: list[str] = list(figures)  # type: ignore[call-overload]
    heads = ["member", *report.axes, *map(words, names), *(["state"] if with_state else [])]
    head = "".join(f"<th scope='col'>{escape(name)}</th>" for name in heads)
    rows = "".join(_row(report, member, names, with_state) for member in members)
    return f"<div class='wide'><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"


def _row(report: Report, member: MemberReport, names: list[str], with_state: bool) -> str:
    """One member; the best one stands out."""
    number = _link(member.log, report) if member.log and with_state else str(member.number)
    cells = [number, *(escape(shown(member.values.get(axis))) for axis in report.axes)]
    cells += [format_figure(member.figures[n]) if n in member.figures else "–" for n in names]
    if with_state:
        told = member.state if member.error is None else f"failed: {member.error.splitlines()[0][:120]}"
        kind = " class='failed'" if member.error is not None else ""
        cells.append(f"<span{kind}>{escape(told)}</span>")
    chosen = " class='best'" if member is report.best else ""
    return f"<tr{chosen}>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
