"""What both tracks share. Imports neither track."""
