"""What a table of the lake is, and the tables every part shares: what was asked and answered, what people thought.

A description is plain data and light to import; only `schema` and `of_schema` bring pyarrow in, when called. Tables
that users declare carry theirs with them, in the table's own metadata.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from llmops.core.errors import NotFoundError, UserError, did_you_mean


@dataclass(frozen=True)
class Column:
    """One column; `type` is Delta's word for it."""

    name: str
    type: str = "string"
    required: bool = False
    description: str = ""


@dataclass(frozen=True)
class TableSpec:
    """A table as it should be.

    Args:
        primary_key: the columns of which no two rows have the same values.
        bodies: texts that are cut at a limit, with the code that tells so.
        properties: what the table's owner wants kept with it, such as which of its columns is the time.
    """

    asset: str
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...] = ()
    partition_by: str | None = None
    bodies: Mapping[str, str] = field(default_factory=dict)
    description: str = ""
    properties: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [column.name for column in self.columns]
        if twice := {name for name in names if names.count(name) > 1}:
            raise UserError(f"the column `{min(twice)}` is declared twice", where=self.asset)
        for column in self.columns:
            if column.type not in TYPES:
                hint = did_you_mean(column.type, TYPES) or f"types are {', '.join(TYPES)}"
                raise UserError(f"`{column.name}` has an unknown type `{column.type}`", where=self.asset, hint=hint)
        for name in (*self.primary_key, *filter(None, [self.partition_by])):
            if name not in names:
                raise UserError(f"no column `{name}` is declared", where=self.asset, hint=did_you_mean(name, names))

    @cached_property
    def names(self) -> frozenset[str]:
        return frozenset(column.name for column in self.columns)

    def schema(self) -> Any:
        """The pyarrow schema."""
        import pyarrow as pa

        kinds = _arrow_types()
        return pa.schema([pa.field(c.name, kinds[c.type], nullable=not c.required) for c in self.columns])

    def as_json(self) -> dict[str, Any]:
        """The whole description, as it is kept with the table and as `llmops data describe --json` prints it."""
        return {
            "asset": self.asset,
            "description": self.description,
            "columns": [asdict(column) for column in self.columns],
            "primary_key": list(self.primary_key),
            "partition_by": self.partition_by,
            "bodies": dict(self.bodies),
            "properties": dict(self.properties),
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> TableSpec:
        columns = tuple(Column(**column) for column in found["columns"])
        return cls(**{**found, "columns": columns, "primary_key": tuple(found["primary_key"])})

    @classmethod
    def of_schema(cls, asset: str, schema: Any) -> TableSpec:
        """The description of a table that somebody else made, as far as its Arrow schema tells.

        Raises:
            UserError: a column is of a type that the lake does not describe.
        """
        names = {kind: name for name, kind in _arrow_types().items()}
        for field_ in schema:
            if field_.type not in names:
                raise UserError(f"`{field_.name}` is {field_.type}, which the lake only reads", where=asset)
        return cls(asset, tuple(Column(f.name, names[f.type], not f.nullable) for f in schema))


TYPES = (
    "string", "boolean", "int", "long", "float", "double", "date", "timestamp", "decimal(18,9)", "array<string>",
    "map<string,string>",
)  # fmt: skip


def _arrow_types() -> dict[str, Any]:
    import pyarrow as pa

    kinds = [
        pa.string(), pa.bool_(), pa.int32(), pa.int64(), pa.float32(), pa.float64(), pa.date32(),
        pa.timestamp("us", tz="UTC"), pa.decimal128(18, 9), pa.list_(pa.string()), pa.map_(pa.string(), pa.string()),
    ]  # fmt: skip
    return dict(zip(TYPES, kinds, strict=True))


INFERENCE_LOG = TableSpec(
    "inference_log",
    (
        Column("invocation_id", required=True),
        Column("parent_invocation_id"),
        Column("layer", required=True),
        Column("request_id", required=True),
        Column("trace_id"),
        Column("client_request_id"),
        Column("session_id"),
        Column("unit_id_hash"),
        Column("request_time", "timestamp", required=True),
        Column("request_date", "date", required=True),
        Column("endpoint", required=True),
        Column("asset_kind"),
        Column("asset_name"),
        Column("asset_version"),
        Column("alias_at_serve"),
        Column("variant"),
        Column("experiment_id"),
        Column("assignment_p", "double", required=True),
        Column("exposure_n", "long"),
        Column("status_code", "int"),
        Column("error_class"),
        Column("latency_ms", "double"),
        Column("ttfb_ms", "double"),
        Column("queue_ms", "double"),
        Column("input_tokens", "long"),
        Column("output_tokens", "long"),
        Column("cost_usd", "decimal(18,9)"),
        Column("sampling_fraction", "double"),
        Column("request_json"),
        Column("response_json"),
        Column("logging_error_codes", "array<string>"),
        Column("tags", "map<string,string>"),
        Column("requester"),
        Column("shadow_of"),
        Column("prompt_version"),
        Column("index_version"),
        Column("model_version"),
    ),
    primary_key=("invocation_id",),
    partition_by="request_date",
    bodies={"request_json": "MAX_REQUEST_SIZE_EXCEEDED", "response_json": "MAX_RESPONSE_SIZE_EXCEEDED"},
)

FEEDBACK = TableSpec(
    "feedback",
    (
        Column("feedback_id", required=True),
        Column("request_id", required=True),
        Column("event_time", "timestamp", required=True),
        Column("source", required=True),
        Column("source_id"),
        Column("name", required=True),
        Column("value_num", "double"),
        Column("value_str"),
        Column("rationale"),
        Column("surface_p", "double"),
        Column("valid_from", "timestamp"),
        Column("superseded_by"),
    ),
    primary_key=("feedback_id",),
)

TABLES = {spec.asset: spec for spec in (INFERENCE_LOG, FEEDBACK)}


@dataclass(frozen=True)
class ViewSpec:
    """Another name and shape of a table, for queries only: what stands in `dev.a.<asset>` is that of `dev.a.<base>`."""

    asset: str
    base: str
    columns: Mapping[str, str]
    """Name -> SQL expression over the base table's columns."""


# The column names of Databricks' own tables, so that queries and notebooks written for those run here.
# Source: https://docs.databricks.com/aws/en/ai-gateway/inference-tables-serving-endpoints
_PAYLOAD = ViewSpec(
    "inference_log_payload",
    "inference_log",
    {
        "databricks_request_id": "request_id",
        "request_date": "request_date",
        "client_request_id": "client_request_id",
        "request_time": "request_time",
        "status_code": "status_code",
        "sampling_fraction": "sampling_fraction",
        "execution_duration_ms": "CAST(round(latency_ms) AS BIGINT)",
        "request": "request_json",
        "response": "response_json",
        "logging_error_codes": "logging_error_codes",
        "served_entity_id": "asset_name || '/' || asset_version",
        "requester": "requester",
    },
)
# Source: https://docs.databricks.com/aws/en/ai-gateway/inference-tables
_REQUESTS = ViewSpec(
    "inference_log_requests",
    "inference_log",
    {
        "request_id": "request_id",
        "invocation_id": "invocation_id",
        "event_time": "request_time",
        "status_code": "status_code",
        "latency_ms": "latency_ms",
        "destination_name": "coalesce(tags['target'], asset_name)",
        "request_tags": "tags",
        "request": "request_json",
        "response": "response_json",
        "logging_error_codes": "logging_error_codes",
    },
)
VIEWS = {view.asset: view for view in (_PAYLOAD, _REQUESTS)}


def spec_of(table: str) -> TableSpec:
    """The description of a shared table by its three-level name; its last part says what kind of table it is."""
    asset = table.rpartition(".")[2]
    try:
        return TABLES[asset]
    except KeyError:
        raise NotFoundError(
            f"no table is described as `{asset}`",
            where=table,
            hint=did_you_mean(asset, TABLES) or "see llmops.core.tables",
        ) from None
