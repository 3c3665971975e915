"""Carries the index of each datum from a dataset through a collator into the batch."""

from __future__ import annotations

from typing import Any, Callable, Dict, List

import torch
from torch.utils.data import Dataset

#: Key of the data's ids in a batch.
ID_KEY = "salf_ids"


class IndexedDataset(Dataset):
    """A dataset whose items know their index."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Any:
        return (index, self._dataset[index])


class IndexedCollator:
    """Collates the items with the collator given, and puts their indices beside."""

    def __init__(self, collate: Callable[[List[Any]], Dict[str, Any]]) -> None:
        self._collate = collate

    def __call__(self, items: List[Any]) -> Dict[str, Any]:
        """One batch."""
        batch = dict(self._collate([item for _, item in items]))
        batch[ID_KEY] = torch.tensor([index for index, _ in items])
        return batch
