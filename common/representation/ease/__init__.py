"""EASE: a Q-Former whose output lets a frozen language model describe the item, then adapters without that model.

Liu et al., CIKM 2024. The paper's text and code were not at hand: the structure is that of its summary (frozen
encoder, Q-Former, soft prompt, frozen language model that generates the description, light adapters for serving);
sizes, the order of training and the retrieval head are our own. No figure of the paper is claimed to be reproduced.
"""

from common.representation.ease.config import EaseConfig
from common.representation.ease.method import Ease

__all__ = ["Ease", "EaseConfig"]
