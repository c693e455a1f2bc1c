"""The table for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.figures import Figure, percentile

JSON = dict[str, Any]
_HEAD = ("", "p50", "p90", "p99", "calmest p50", "", "target", "")


def table(sections: Sequence[tuple[str, Sequence[Figure]]]) -> str:
    """All figures: the quantiles of all samples, and the median of the round that was disturbed least."""
    lines = []
    for title, figures in sections:
        rows = [_HEAD, *(_row(figure) for figure in figures)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
        lines.append(title)
        for row, figure in zip(rows, (None, *figures), strict=True):
            cells = [row[0].ljust(widths[0])]
            cells += [cell.rjust(width) for cell, width in zip(row[1:5], widths[1:5], strict=True)]
            cells += [cell.ljust(width) for cell, width in zip(row[5:], widths[5:], strict=True)]
            lines.append("  " + "  ".join(cells).rstrip())
            if figure is not None and figure.note:
                lines.append("      " + figure.note)
        lines.append("")
    return "\n".join(lines)


def _row(figure: Figure) -> tuple[str, ...]:
    target = "" if figure.target is None else str(figure.target)
    if not figure.rounds:
        why = f"not measured: {figure.missing}"
        return figure.title, "", "", "", "", "", target, why
    values = figure.values
    shown = [_number(percentile(values, share)) for share in (0.5, 0.9, 0.99)]
    shown.append(_number(figure.calmest.p50))
    if len(values) == 1:
        shown[1:] = "", "", ""
    return figure.title, *shown, figure.unit, target, figure.verdict


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 20 else f"{value:.2f}"


def heading(document: JSON) -> str:
    machine, load = document["machine"], document["load"]
    return (
        f"nsbox {document['version']} on Linux {machine['kernel']}, Python {machine['python']}\n"
        f"{machine['cpus']} CPUs ({machine['cpuModel']}), {machine['memoryMiB']} MiB, "
        f"state on {machine['stateFileSystem']}\n"
        f"as {document['account']}; load {load['start']:.2f} at the start, {load['end']:.2f} at the end; "
        f"{document['seconds']:.0f} s; limits enforced: {', '.join(document['enforced']) or 'none'}\n"
    )
