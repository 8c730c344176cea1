"""Kaggle through its own command line, run as a subprocess: files of competitions and data sets, submissions, scores.

`import kaggle` authenticates and prints; in a process of its own it cannot disturb this one. No credential is ever
shown: `Credentials` say where one was found, and what the client prints is cleared of secrets before it is used.
"""

from common.kaggle.client import RULES_PAGE, Kaggle, Limits, RemoteFile, Submission
from common.kaggle.credentials import Credentials, find_credentials, redact, secret_values
from common.kaggle.errors import KaggleError

__all__ = [
    "RULES_PAGE",
    "Credentials",
    "Kaggle",
    "KaggleError",
    "Limits",
    "RemoteFile",
    "Submission",
    "find_credentials",
    "redact",
    "secret_values",
]
