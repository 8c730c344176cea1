"""The pages of Track 1: `report` for one run, `compare` for several. They read what runs leave and compute no score.

`collect` reads a run's folder, `views` the data beside it, `figures` and `routes` turn both into tables and charts,
`gallery`, `snippets` and `thumbnails` into questions with their pages, `page` and `compare_page` into a page.
"""
