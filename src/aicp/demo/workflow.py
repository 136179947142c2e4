"""The chain of the demo: FETCH, then LABEL, EXTRACT and ANALYZE side by side, then COMBINE."""

from aicp.demo.cast import CAPABILITIES, LABEL
from aicp.model.chain import TaskChain

DEADLINE_S = 300.0


def make_chain(url: str, name: str) -> TaskChain:
    """The chain for a picture.

    Args:
        url: Where FETCH gets it.
        name: What the user calls it.
    """
    chain = TaskChain("image analysis", deadline_s=DEADLINE_S)
    fetch = chain.add_task(CAPABILITIES["fetch"], {"url": url, "name": name}, id="fetch")
    picture = {"image": fetch.output["image"]}
    label = chain.add_task(CAPABILITIES[LABEL], picture, id=LABEL)
    extract = chain.add_task(CAPABILITIES["extract"], picture, id="extract")
    analyze = chain.add_task(CAPABILITIES["analyze"], picture, id="analyze")
    findings = {
        "source": name,
        "image": fetch.output["image"],
        "original": fetch.output["original"],
        "faces": label.output["faces"],
        "regions": label.output["regions"],
        "lines": extract.output["lines"],
        "colors": analyze.output["colors"],
    }
    chain.add_task(CAPABILITIES["combine"], findings, id="combine")
    return chain
