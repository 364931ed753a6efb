"""Arrow's view types as plain ones: of views PyArrow can neither take rows nor filter them."""

from __future__ import annotations

from typing import Any

__all__ = ["without_views", "without_views_type"]


def without_views_type(kind: Any) -> Any:
    """Return an Arrow type in which texts and bytes are no views, as Polars writes them."""
    import pyarrow as pa

    types = pa.types
    if types.is_string_view(kind):
        return pa.large_string()
    if types.is_binary_view(kind):
        return pa.large_binary()
    if types.is_struct(kind):
        fields = [kind.field(at) for at in range(kind.num_fields)]
        plain = [field.with_type(without_views_type(field.type)) for field in fields]
        return kind if plain == fields else pa.struct(plain)
    if types.is_fixed_size_list(kind):
        inner = without_views_type(kind.value_type)
        return kind if inner == kind.value_type else pa.list_(inner, kind.list_size)
    if types.is_list(kind) or types.is_large_list(kind):
        inner = without_views_type(kind.value_type)
        made = pa.list_ if types.is_list(kind) else pa.large_list
        return kind if inner == kind.value_type else made(inner)
    return kind


def without_views(cells: Any) -> Any:
    """Return an Arrow array in which texts and bytes are no views."""
    kind = without_views_type(cells.type)
    return cells if kind == cells.type else cells.cast(kind)
