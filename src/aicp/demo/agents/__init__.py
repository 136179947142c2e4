"""The demo's agents, a module each: what one does with its params, JSON in and JSON out.

    fetch    image.fetch     {url, name?}                  -> {image, original}
    label    image.label     {image}                       -> {faces, regions}
    extract  text.extract    {image}                       -> {lines}
    analyze  image.colors    {image}                       -> {colors}
    combine  report.combine  {source, image, faces, regions, lines, colors, original?}
                                                           -> {report, annotated_png_base64}

`python -m aicp.demo.agents` serves one of them. Each imports only what its own work needs: a process that finds colours
does not load the reader's models.
"""
