"""Writers, readers and validators of each competition's submission file."""
