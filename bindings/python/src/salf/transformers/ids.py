"""Carries the index of each datum from a dataset through a collator into the batch."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Mapping

import torch
from torch.utils.data import Dataset

#: Key of the data's ids in a batch.
ID_KEY = "salf_ids"


class _Item(Dict[str, Any]):
    """An item with its index; a dictionary as it is, for samplers that look for lengths."""

    def __init__(self, index: int, item: Any) -> None:
        super().__init__(item if isinstance(item, Mapping) else {})
        self.index, self.item = index, item


class IndexedDataset(Dataset):
    """A dataset whose items know their index."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Any:
        return _Item(index, self._dataset[index])


class IndexedCollator:
    """Collates the items with the collator given, and puts their indices beside."""

    def __init__(self, collate: Callable[[List[Any]], Dict[str, Any]]) -> None:
        self._collate = collate

    def __call__(self, items: List[Any]) -> Dict[str, Any]:
        """One batch."""
        batch = dict(self._collate([item.item for item in items]))
        batch[ID_KEY] = torch.tensor([item.index for item in items], device="cpu")
        return batch
