"""Where the product keeps what it must not lose: one folder by default, URLs past one machine."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field


class StateConfig(BaseModel):
    """The `state:` section every job shares."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dir: Path = Field(Path(".llmops"), description="Folder of everything that is kept, relative to the working folder")
    sql_url: str | None = Field(None, description="SQLAlchemy URL of the own state; default: SQLite in the folder")
    lake_url: str | None = Field(None, description="Root of the Delta tables: a folder or s3/abfs/gs URL")
    online_url: str | None = Field(
        None, description="Online feature store: redis://..., or env:NAME that holds it; default: SQLite in the folder"
    )
    mlflow_uri: str | None = Field(None, description="MLflow tracking URI; default: SQLite in the folder")

    @property
    def root(self) -> Path:
        return self.dir.expanduser().resolve()

    @property
    def sql(self) -> str:
        return self.sql_url or f"sqlite:///{self.root / 'state.db'}"

    @property
    def lake(self) -> str:
        return self.lake_url or str(self.root / "lake")

    @property
    def mlflow(self) -> str:
        return self.mlflow_uri or f"sqlite:///{self.root / 'mlflow.db'}"

    @property
    def mlflow_artifacts(self) -> Path:
        return self.root / "artifacts"

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
