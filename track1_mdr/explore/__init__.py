"""What the data of Track 1 is, before any route: counts, lengths, missing parts, copies, leaks, samples."""
