"""Self-contained HTML pages: what `report`, `compare`, `explore` and the list of runs are made of.

`blocks` says what a page holds, `charts` draws with Altair, `images` keeps thumbnails, `render` writes the file.
"""
