"""All findings become one report."""

from aicp.demo.findings import Findings, PictureFacts, Report


def make_report(findings: Findings) -> Report:
    """Put together what the agents found, with a sentence that sums it up."""
    image = findings.image
    return Report(
        summary=_summary(findings),
        picture=PictureFacts(findings.source, image.width, image.height, image.sha256, findings.original),
        faces=findings.faces,
        regions=findings.regions,
        text_lines=findings.lines,
        colors=findings.colors,
    )


def _summary(findings: Findings) -> str:
    counts = (
        _counted(len(findings.faces), "face"),
        _counted(len(findings.lines), "line", " of text"),
        _counted(len(findings.regions), "region"),
    )
    mostly = f", mostly {findings.colors[0].name}" if findings.colors else ""
    return f"{', '.join(counts[:-1])} and {counts[-1]}{mostly}."


def _counted(count: int, noun: str, rest: str = "") -> str:
    plural = "" if count == 1 else "s"
    return f"{count or 'no'} {noun}{plural}{rest}"
