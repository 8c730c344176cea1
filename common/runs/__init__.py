"""All runs of both tracks: listed, found by name, tagged, shown (`python -m common.runs`)."""
