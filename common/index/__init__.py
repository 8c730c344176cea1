"""Search over vectors by inner product: one contract (`base`), engines behind it, and how to get one (`build`)."""
