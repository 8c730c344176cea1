"""Pages of Track 2: `report` on one run, `compare` on several. All figures are those of `evaluate` and `compare`."""
