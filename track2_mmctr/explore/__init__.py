"""What the data of Track 2 is, before any ranker: counts, lengths, cold items, gaps, copies, leaks, samples."""
