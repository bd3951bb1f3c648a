"""Where the product keeps what it must not lose: one folder by default, URLs past one machine."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator

from llmops.core.errors import ConfigError
from llmops.core.secret import check_reference


class RetentionConfig(BaseModel):
    """For how long the log is kept; whoever drains the spool carries it out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    exchanges_days: float | None = Field(
        None, gt=0, description="Days that requests and answers are kept; None: always"
    )
    feedback_days: float | None = Field(None, gt=0, description="Days that feedback is kept; None: always")


class StateConfig(BaseModel):
    """The `state:` section every job shares."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dir: Path = Field(Path(".llmops"), description="Folder of everything that is kept, relative to the working folder")
    sql_url: str | None = Field(None, description="SQLAlchemy URL of the own state; default: SQLite in the folder")
    lake_url: str | None = Field(None, description="Root of the Delta tables: a folder or s3/abfs/gs URL")
    online_url: str | None = Field(
        None, description="Online feature store: redis://..., or env:NAME that holds it; default: SQLite in the folder"
    )
    mlflow_uri: str | None = Field(None, description="One MLflow tracking URI for all catalogs; default: SQLite each")
    mlflow_uris: dict[str, str] = Field(default_factory=dict, description="Catalog -> its own MLflow tracking URI")
    audit_key: str | None = Field(
        None, description="Reference to the key of the audit chain; default: a file made in the folder"
    )
    audit_anchor: Path | None = Field(None, description="File that tells where the audit chain ends; better elsewhere")
    retention: RetentionConfig = RetentionConfig()
    enforce_access: bool = Field(False, description="Apply privileges even before the first one is granted")

    @field_validator("audit_key")
    @classmethod
    def _by_reference(cls, value: str | None) -> str | None:
        try:
            return value if value is None else check_reference(value)
        except ConfigError as error:
            raise ValueError(f"{error.what}; {error.hint}") from None

    @property
    def root(self) -> Path:
        return self.dir.expanduser().resolve()

    @property
    def sql(self) -> str:
        return self.sql_url or f"sqlite:///{self.root / 'state.db'}"

    @property
    def is_there(self) -> bool:
        """Whether the own state was ever written: looking must not make it where it is not."""
        return self.sql_url is not None or (self.root / "state.db").exists()

    @property
    def lake(self) -> str:
        return self.lake_url or str(self.root / "lake")

    def mlflow(self, catalog: str) -> str:
        """The tracking store of one environment: none of another's runs and versions lie in it."""
        return self.mlflow_uris.get(catalog) or self.mlflow_uri or f"sqlite:///{self.root / 'mlflow' / catalog}.db"

    def mlflow_artifacts(self, catalog: str) -> Path:
        return self.root / "artifacts" / catalog

    @property
    def anchor(self) -> Path:
        return (self.audit_anchor or self.root / "audit.anchor").expanduser().resolve()

    @property
    def spool(self) -> Path:
        return self.root / "spool"

    @property
    def cache(self) -> Path:
        """What can be made again: exported models, backend choices."""
        return self.root / "cache"

    def index(self, name: str) -> Path:
        """The folder of one vector index (manifest, vectors, store)."""
        return self.root / "index" / name
