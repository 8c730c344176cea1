"""KAR's configuration, and the knowledge source that it names."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from common.config import Config
from common.errors import ConfigError
from common.representation.base import MethodConfig
from common.representation.kar.encoder import EncoderConfig
from common.representation.kar.endpoint import EndpointConfig, EndpointSource
from common.representation.kar.knowledge import GatherConfig
from common.representation.kar.local_model import LocalModelConfig, TransformersSource
from common.representation.kar.prompts import PromptConfig
from common.representation.kar.sources import AnswersFile, KnowledgeSource, TemplateSource


class SourceConfig(Config):
    """Where knowledge comes from; `type` says which of the other keys is read.

    Raises
    ------
    ConfigError
        The key that `type` needs is absent.
    """

    type: Literal["template", "transformers", "endpoint", "answers"] = "template"
    transformers: LocalModelConfig | None = None
    endpoint: EndpointConfig | None = None
    answers: str | None = Field(default=None, description="a .jsonl or .parquet file with kind, id, text")

    @model_validator(mode="after")
    def check(self) -> SourceConfig:
        """Refuse a type without its settings."""
        if self.type != "template" and getattr(self, self.type) is None:
            raise ConfigError(f"the knowledge source lacks its settings, source.{self.type}", where="source")
        return self


class KarConfig(MethodConfig):
    """Prompts, source of knowledge, encoder. `fit` and `batch_size` are not read: KAR trains with the ranker."""

    prompts: PromptConfig = PromptConfig()
    source: SourceConfig = SourceConfig()
    gather: GatherConfig = GatherConfig()
    encoder: EncoderConfig = EncoderConfig()
    add_history: bool = Field(
        default=True, description="a user's text is the history and the answer, as in the authors' code"
    )


def build_source(config: SourceConfig, api_key: str | None = None) -> KnowledgeSource:
    """Return the knowledge source of a configuration; `api_key` goes to an endpoint only, and is kept nowhere.

    Raises
    ------
    ConfigError, DataError
        The model, URL or file is not to be had.
    """
    if config.type == "transformers" and config.transformers is not None:
        return TransformersSource(config.transformers)
    if config.type == "endpoint" and config.endpoint is not None:
        return EndpointSource(config.endpoint, api_key)
    if config.type == "answers" and config.answers is not None:
        return AnswersFile(Path(config.answers))
    return TemplateSource()
