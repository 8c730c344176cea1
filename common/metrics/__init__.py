"""The leaderboards' own rules, with the Kaggle signature."""
