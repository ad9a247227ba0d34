"""The index of a sharded checkpoint: which .safetensors file holds which tensor."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from deepcompress.errors import ModelError

SHARDED = ".safetensors.index.json"
INDEX_KEY = "safetensors.index"  # the metadata string under which a .dcz file keeps an index


@dataclass(frozen=True)
class ShardIndex:
    """`weight_map`: tensor name -> shard's file name. `metadata`: the index's own. `headers`: each shard's metadata."""

    weight_map: dict[str, str]
    metadata: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, dict[str, str]] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str | bytes, source: str) -> ShardIndex:
        """Read an index. Raises ModelError, naming `source`, where it is none or points outside its own folder."""
        try:
            content = json.loads(text)
            index = cls(content["weight_map"], content.get("metadata", {}), content.get("headers", {}))
            names = set(index.weight_map.values())
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise ModelError(f"{source}: not an index of .safetensors shards") from error
        if strange := [name for name in names if not _is_plain(name)]:
            raise ModelError(f"{source}: {strange[0]!r} is not the name of a shard in the same folder")
        return index

    def to_json(self) -> str:
        """The form in which a .dcz file keeps the index."""
        content = {"metadata": self.metadata, "weight_map": self.weight_map, "headers": self.headers}
        return json.dumps(content, separators=(",", ":"), ensure_ascii=False)

    def index_json(self) -> str:
        """The form in which shards lie beside it."""
        content = {"metadata": self.metadata, "weight_map": self.weight_map}
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

    def shards(self) -> dict[str, set[str]]:
        """Shard's file name -> the names of its tensors."""
        shards: dict[str, set[str]] = {}
        for name, shard in self.weight_map.items():
            shards.setdefault(shard, set()).add(name)
        return shards


def _is_plain(name: Any) -> bool:
    return isinstance(name, str) and name.endswith(".safetensors") and not set(name) & set("/\\:\0")
