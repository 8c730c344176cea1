"""What looking at data finds before any model: findings with their weight, counts, copies of files."""
