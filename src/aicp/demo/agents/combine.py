"""COMBINE: the report, and the picture it is drawn on."""

import base64
from typing import Any

import msgspec

from aicp.demo.drawing import draw_report
from aicp.demo.findings import Findings
from aicp.demo.params import read_params
from aicp.demo.picture import encode_png, open_picture
from aicp.demo.report import make_report


def combine(params: dict[str, Any]) -> dict[str, Any]:
    """Give `{report, annotated_png_base64}` of all findings.

    Raises:
        InvalidInput: The params or the picture cannot be used.
    """
    findings = read_params(params, Findings)
    report = make_report(findings)
    sheet = draw_report(open_picture(findings.image), report)
    return {
        "report": msgspec.to_builtins(report),
        "annotated_png_base64": base64.b64encode(encode_png(sheet)).decode("ascii"),
    }
