"""UIST: users and items as a few codes each, and click models that read all pairs of their levels."""
