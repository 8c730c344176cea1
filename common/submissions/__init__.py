"""The list of what was made and sent: `python -m common.submissions`."""
